"""The fused class loss in Triton equals the one in plain PyTorch. Without a GPU, Triton's interpreter runs it."""
import os

import pytest
import torch
from reference import assert_close

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ['TRITON_INTERPRET'] = '1'  # read where the kernels are defined
pytest.importorskip('triton', reason='needs Triton, which PyTorch for CUDA brings along; alone it takes 640 MB')

from gfl_plugin.losses import fused_class_loss as fused  # noqa: E402
from gfl_plugin.losses.closed_form import ClassTargets, ClosedForm  # noqa: E402
from gfl_plugin.losses.fused_triton import sum_triton  # noqa: E402

DEVICE = 'cuda' if CUDA else 'cpu'
pytestmark = pytest.mark.gpu
KINDS = {'qfl': ClosedForm(2.0, 2.0), 'qfl_1.7': ClosedForm(1.7, 1.7), 'qfl_0.5': ClosedForm(0.5, 0.5),
         'qfl_0': ClosedForm(0, 0),
         'focal': ClosedForm(2.0, 2.0, 0.75, (0.25, 0.0)), 'varifocal': ClosedForm(2.0, 0.0, 0.75, (0.0, 1.0))}
CELLS = 2 * 31 * 43


def by(function, monkeypatch, form, logits, targets, weight):
    """Loss and gradient by the Triton or, with None, by the plain implementation."""
    monkeypatch.setattr(fused, '_triton_for', lambda x: function)
    logits = logits.clone().requires_grad_()  # keeps the layout
    loss = fused.fused_class_loss(form, [logits], [targets], [weight], torch.tensor(0.3, device=DEVICE))
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def random_case(dtype, layout=torch.contiguous_format, weighted=False, positives=300):
    """Logits and places of positives, some of which are no valid ones, have no quality or the very best."""
    logits = torch.randn(2, 5, 31, 43) * 4  # three blocks, the last not full; odd rows
    logits[0, 0, 0, :4] = torch.tensor([60., -60, 0, 30])
    cell = torch.randperm(CELLS)[:positives]
    score = torch.rand(positives)
    score[:9], score[9:20] = 0, 1
    targets = ClassTargets(cell // 1333, torch.randint(0, 5, (positives, )), cell % 1333, score,
                           torch.rand(positives) < 0.7)
    weight = torch.rand(2, 31 * 43).to(DEVICE) if weighted else None
    return logits.to(DEVICE, dtype).to(memory_format=layout), ClassTargets(*(t.to(DEVICE) for t in targets)), weight


@pytest.mark.parametrize('weighted', [False, True], ids=['', 'weighted'])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('kind', KINDS)
def test_loss_and_gradient(kind, layout, weighted, monkeypatch):
    case = random_case(torch.float32, layout, weighted)
    expected, expected_gradient = by(None, monkeypatch, KINDS[kind], *case)
    loss, gradient = by(sum_triton, monkeypatch, KINDS[kind], *case)
    assert_close(loss, expected, 'the sum', 1e-6)
    assert_close(gradient, expected_gradient, 'the gradient', 5e-6)
    assert gradient.stride() == case[0].stride(), 'the gradient should lie as the logits do'
    again = by(sum_triton, monkeypatch, KINDS[kind], *case)
    assert loss.equal(again[0]) and gradient.equal(again[1]), 'equal inputs should give equal bits'


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_summed_in_fp32(dtype, monkeypatch):
    logits, *case = random_case(dtype)
    expected, expected_gradient = by(None, monkeypatch, KINDS['qfl'], logits.float(), *case)
    loss, gradient = by(sum_triton, monkeypatch, KINDS['qfl'], logits, *case)
    assert_close(loss, expected, 'the sum', 1e-6)
    assert gradient.dtype == dtype
    assert_close(gradient.float(), expected_gradient, 'the gradient', 2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize('weighted', [False, True], ids=['', 'weighted'])
def test_slopes_in_fp16_are_those_of_plain_pytorch(weighted, monkeypatch):
    """Easy negatives, large weights, and a slope that fp16 cannot hold."""
    logits, targets, weight = random_case(torch.float16, weighted=weighted)
    logits = logits / 4 - 7
    logits[:, :, 0], targets.score[:3] = 0, 0.5 + 1e-6
    targets.image[:3], targets.cell[:3], targets.valid[:3] = 0, torch.arange(3, device=DEVICE), True
    case = KINDS['qfl_0.5'], logits, targets, weight if weight is None else 300 * weight
    expected, gradient = (by(f, monkeypatch, *case)[1].float() for f in (None, sum_triton))
    assert gradient.isfinite().all(), 'the slope should be cut, not infinite'
    gradient[0, :, 0], expected[0, :, 0] = 0, 0  # next to its pole a slope turns with the last digit of the score
    assert torch.allclose(gradient, expected, rtol=2e-3, atol=2e-7)


def test_logits_of_any_size_are_exact_to_their_own_digits(monkeypatch):
    """Against fp64, each by itself: no cancellation where scores are next to 0 or 1."""
    logits = torch.cat([-torch.logspace(-3, 1.9, 2000), torch.logspace(-3, 1.9, 2000)]).view(1, 1, 40, 100).to(DEVICE)
    none = ClassTargets(*(torch.zeros(0, dtype=torch.long, device=DEVICE), ) * 3, torch.zeros(0, device=DEVICE))
    _, gradient = by(sum_triton, monkeypatch, KINDS['qfl'], logits, none, None)
    x = logits.double().requires_grad_()
    exact, = torch.autograd.grad((x.sigmoid().square() * torch.nn.functional.softplus(x, threshold=700)).sum() * 0.3, x)
    error = ((gradient - exact).abs() / exact.clamp(min=1e-30)).max().item()
    assert error < 3e-6, f'a slope is off by {error:.2g} of itself'


def test_no_positive_and_no_logit(monkeypatch):
    logits, targets, _ = random_case(torch.float32, positives=0)
    for x in (logits, logits[:0]):
        results = [by(f, monkeypatch, KINDS['qfl'], x, targets, None) for f in (None, sum_triton)]
        assert_close(results[1][0], results[0][0], 'the sum', 1e-6)
        assert_close(results[1][1], results[0][1], 'the gradient', 5e-6)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_label_outside_of_the_classes_is_background(layout, monkeypatch):
    logits, targets, weight = random_case(torch.float32, layout)
    targets.label[::3] = torch.tensor([-1, 5, 1000, -1000], device=DEVICE).repeat(25)
    expected = by(None, monkeypatch, KINDS['qfl'], logits, targets, weight)
    loss, gradient = by(sum_triton, monkeypatch, KINDS['qfl'], logits, targets, weight)
    assert_close(loss, expected[0], 'the sum', 1e-6)
    assert_close(gradient, expected[1], 'the gradient', 5e-6)


def test_what_is_not_a_number_shows(monkeypatch):
    logits, *case = random_case(torch.float32)
    logits[1, 2, 3, 4] = float('nan')
    loss, gradient = by(sum_triton, monkeypatch, KINDS['qfl'], logits, *case)
    assert loss.isnan() and gradient[1, 2, 3, 4].isnan()
