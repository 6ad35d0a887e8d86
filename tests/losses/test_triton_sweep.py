"""The sweep in Triton gives what the plain one gives; without a GPU, by Triton's interpreter."""
import os

import pytest
import torch
from reference import assert_close

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ['TRITON_INTERPRET'] = '1'  # read where the kernels are defined
pytest.importorskip('triton', reason='needs Triton, which PyTorch for CUDA brings along; alone it takes 640 MB')

from gfl_plugin.losses import sweep  # noqa: E402
from gfl_plugin.losses.sweep import ClassCells, MapLoss, loss_of_map  # noqa: E402
from gfl_plugin.losses.triton_sweep import sweep as triton_sweep  # noqa: E402

DEVICE = 'cuda' if CUDA else 'cpu'
pytestmark = pytest.mark.gpu
KINDS = {'qfl': MapLoss(2.0, 2.0), 'qfl_1.7': MapLoss(1.7, 1.7), 'qfl_0.5': MapLoss(0.5, 0.5), 'qfl_0': MapLoss(0, 0),
         'focal': MapLoss(2.0, 2.0, 0.75, (0.25, 0.0)), 'varifocal': MapLoss(2.0, 0.0, 0.75, (0.0, 1.0))}
CELLS = 2 * 31 * 43


def by(function, monkeypatch, kind, logits, cells, target, weight):
    """Loss and gradient by one of the sweeps."""
    monkeypatch.setattr(sweep, '_fused', lambda x: function)
    logits = logits.clone().requires_grad_()  # keeps the layout
    loss = loss_of_map(kind, logits, cells, target, weight, torch.tensor(0.3, device=DEVICE))
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def random_case(dtype, layout=torch.contiguous_format, weighted=False, positives=300):
    """Logits and places of positives, some of which are no valid ones, have no quality or the very best."""
    logits = torch.randn(2, 5, 31, 43) * 4  # three blocks, the last not full; odd rows
    logits[0, 0, 0, :4] = torch.tensor([60., -60, 0, 30])
    cell = torch.randperm(CELLS)[:positives]
    cells = ClassCells(cell // 1333, torch.randint(0, 5, (positives, )), cell % 1333 // 43, cell % 43,
                       torch.rand(positives) < 0.7)
    target = torch.rand(positives)
    target[:9], target[9:20] = 0, 1
    weight = torch.rand(2, 31, 43).to(DEVICE) if weighted else None
    return (logits.to(DEVICE, dtype).to(memory_format=layout), ClassCells(*(c.to(DEVICE) for c in cells)),
            target.to(DEVICE), weight)


@pytest.mark.parametrize('weighted', [False, True], ids=['', 'weighted'])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('kind', KINDS)
def test_loss_and_gradient(kind, layout, weighted, monkeypatch):
    case = random_case(torch.float32, layout, weighted)
    expected, expected_gradient = by(None, monkeypatch, KINDS[kind], *case)
    loss, gradient = by(triton_sweep, monkeypatch, KINDS[kind], *case)
    assert_close(loss, expected, 'the sum', 1e-6)
    assert_close(gradient, expected_gradient, 'the gradient', 5e-6)
    assert gradient.stride() == case[0].stride(), 'the gradient should lie as the logits do'
    again = by(triton_sweep, monkeypatch, KINDS[kind], *case)
    assert loss.equal(again[0]) and gradient.equal(again[1]), 'equal inputs should give equal bits'


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_summed_in_fp32(dtype, monkeypatch):
    logits, *case = random_case(dtype)
    expected, expected_gradient = by(None, monkeypatch, KINDS['qfl'], logits.float(), *case)
    loss, gradient = by(triton_sweep, monkeypatch, KINDS['qfl'], logits, *case)
    assert_close(loss, expected, 'the sum', 1e-6)
    assert gradient.dtype == dtype
    assert_close(gradient.float(), expected_gradient, 'the gradient', 2 * torch.finfo(dtype).eps)


def test_logits_of_any_size_are_exact_to_their_own_digits(monkeypatch):
    """Against fp64, each by itself: no cancellation where scores are next to 0 or 1."""
    logits = torch.cat([-torch.logspace(-3, 1.9, 2000), torch.logspace(-3, 1.9, 2000)]).view(1, 1, 40, 100).to(DEVICE)
    none = ClassCells(*(torch.zeros(0, dtype=torch.long, device=DEVICE), ) * 4)
    _, gradient = by(triton_sweep, monkeypatch, KINDS['qfl'], logits, none, torch.zeros(0, device=DEVICE), None)
    x = logits.double().requires_grad_()
    exact, = torch.autograd.grad((x.sigmoid().square() * torch.nn.functional.softplus(x, threshold=700)).sum() * 0.3, x)
    error = ((gradient - exact).abs() / exact.clamp(min=1e-30)).max().item()
    assert error < 3e-6, f'a slope is off by {error:.2g} of itself'


def test_no_positive_and_no_logit(monkeypatch):
    logits, cells, target, _ = random_case(torch.float32, positives=0)
    for x in (logits, logits[:0]):
        results = [by(f, monkeypatch, KINDS['qfl'], x, cells, target, None) for f in (None, triton_sweep)]
        assert_close(results[1][0], results[0][0], 'the sum', 1e-6)
        assert_close(results[1][1], results[0][1], 'the gradient', 5e-6)


def test_what_is_not_a_number_shows(monkeypatch):
    logits, *case = random_case(torch.float32)
    logits[1, 2, 3, 4] = float('nan')
    loss, gradient = by(triton_sweep, monkeypatch, KINDS['qfl'], logits, *case)
    assert loss.isnan() and gradient[1, 2, 3, 4].isnan()
