"""Test the stand-ins for mmcv's compiled operators. With a compiled mmcv the tests run its own operators."""
import importlib
import pkgutil
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, batched_nms, nms, roi_align, sigmoid_focal_loss, soft_nms

from gfl_plugin.compat import ops, vision
from gfl_plugin.compat.deform_conv import deform_conv2d as plain_deform_conv2d

stand_in = pytest.mark.skipif(not ops.are_installed(), reason='this mmcv has compiled operators')


def random_boxes(count):
    corner = torch.rand(count, 2) * 100
    return torch.cat([corner, corner + 5 + torch.rand(count, 2) * 40], 1)


@pytest.mark.parametrize('module', ['mmdet.models', 'mmdet.apis', 'mmdet.datasets', 'mmdet.engine', 'mmdet.evaluation',
                                    'mmdet.visualization', 'mmdet.structures', 'mmcv.ops', 'mmcv.transforms'])
def test_everything_of_mmdetection_imports(module):
    importlib.import_module(module)


@stand_in
@pytest.mark.skipif(not hasattr(pkgutil, 'find_loader'), reason='gone in Python 3.14')
def test_mmengine_may_ask_for_the_loader():
    pkgutil.find_loader('mmcv._ext')  # raises ValueError for a module without __spec__


@stand_in
def test_other_operators_are_named_when_called():
    with pytest.raises(NotImplementedError, match=r'`ball_query`.*compiled'):
        sys.modules['mmcv._ext'].ball_query()


def test_a_compiled_mmcv_wins(monkeypatch):
    real = types.ModuleType('mmcv._ext')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', real)
    ops.install()
    assert sys.modules['mmcv._ext'] is real, 'nothing should be installed over a real extension'
    assert not ops.are_installed()


def test_nms_keeps_classes_apart_and_order():
    boxes = torch.tensor([[0., 0, 10, 10], [1, 1, 11, 11], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores, labels = torch.tensor([0.5, 0.9, 0.8, 0.5]), torch.tensor([0, 0, 1, 0])
    dets, kept = batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.5))
    assert kept.tolist() == [1, 2, 3], 'only the worse of two boxes of a class that overlap should go'
    assert dets[:, 4].tolist() == pytest.approx([0.9, 0.8, 0.5])


def test_nms_offset_and_limits():
    boxes, scores = torch.tensor([[0., 0, 9, 9], [5, 0, 14, 9]]), torch.tensor([0.9, 0.8])
    # Widths 9: IoU is 4/14. Widths 9 + 1: 5/15, above 0.3.
    assert nms(boxes, scores, 0.3, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.3, offset=1)[1].tolist() == [0]
    assert nms(boxes, scores, 0.3, score_threshold=0.85)[1].tolist() == [0]
    assert nms(boxes, scores, 0.3, max_num=1)[1].tolist() == [0]


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_by_hand(method):
    boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 5], [40, 40, 50, 50]])
    dets, kept = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.5]), iou_threshold=0.3, sigma=0.5, min_score=0.01,
                          method=method)
    weight = {'naive': 0, 'linear': 0.5, 'gaussian': torch.exp(torch.tensor(-0.25 / 0.5)).item()}[method]
    expected = {0: 0.9, 2: 0.5, 1: 0.8 * weight} if weight else {0: 0.9, 2: 0.5}
    assert dict(zip(kept.tolist(), dets[:, 4].tolist())) == pytest.approx(expected), 'the boxes have IoU 1/2'
    assert dets[:, 4].equal(dets[:, 4].sort(descending=True).values), 'the best should come first'


def test_sigmoid_focal_loss_and_gradient():
    logits = torch.randn(30, 4, requires_grad=True)
    label = torch.randint(0, 5, (30, ))  # 4 is background
    target = F.one_hot(label, 5)[:, :4].float()
    p = logits.sigmoid()
    p_t, alpha_t = torch.where(target == 1, p, 1 - p), torch.where(target == 1, 0.25, 0.75)
    expected = (-alpha_t * (1 - p_t)**2 * p_t.log()).sum()
    loss = sigmoid_focal_loss(logits, label, 2.0, 0.25, None, 'sum')
    assert torch.allclose(loss, expected, rtol=1e-5), 'it should be focal loss, eq. 5 of arXiv:1708.02002'
    gradients = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss, expected)]
    assert torch.allclose(*gradients, atol=1e-5), 'it should have the gradient of the formula'


@pytest.fixture(params=['absent', 'fails to import', 'without its operators'])
def no_torchvision(request, monkeypatch):
    """A torchvision that cannot be used, in each of the ways that were seen."""
    def fail(*arguments, **named):
        raise RuntimeError('Could not load custom C++ ops')

    module = types.ModuleType('torchvision.ops')
    if request.param == 'without its operators':
        module.deform_conv2d = module.roi_align = fail
    elif request.param == 'fails to import':  # on the first look at it, which a module without names allows
        module.__getattr__ = fail
    monkeypatch.setitem(sys.modules, 'torchvision', None if request.param == 'absent' else types.ModuleType('t'))
    monkeypatch.setitem(sys.modules, 'torchvision.ops', None if request.param == 'absent' else module)
    vision.find_operator.cache_clear()
    yield
    vision.find_operator.cache_clear()


@stand_in
@pytest.mark.parametrize('layer', [DeformConv2d, ModulatedDeformConv2d])
def test_deformable_convolutions_without_torchvision(no_torchvision, layer):
    x, convolution = torch.randn(2, 4, 8, 9, requires_grad=True), layer(4, 6, 3, padding=1, groups=2)
    inputs = [x, torch.zeros(2, 18, 8, 9, requires_grad=True)]
    if layer is ModulatedDeformConv2d:
        inputs.append(torch.ones(2, 9, 8, 9, requires_grad=True))
    out, weight = convolution(*inputs), convolution.weight
    expected = F.conv2d(x, weight, getattr(convolution, 'bias', None), padding=1, groups=2)
    assert torch.allclose(out, expected, atol=1e-5), 'without offsets it should be a convolution'
    found, reference = (torch.autograd.grad(y.square().sum(), (x, weight)) for y in (out, expected))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(found, reference)), 'so should its gradients'


@stand_in
def test_roi_align_without_torchvision_is_named(no_torchvision):
    with pytest.raises(NotImplementedError, match='`roi_align`.*torchvision that matches.*compiled'):
        roi_align(torch.randn(1, 3, 16, 16), torch.tensor([[0., 8, 8, 40, 24]]), (2, 4), 0.25, 1, 'avg', True)


@stand_in
def test_half_precision_under_autocast(no_torchvision):
    layer, x = DeformConv2d(4, 6, 3), torch.randn(2, 4, 8, 9)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = layer(x, torch.zeros(2, 18, 6, 7).bfloat16())
    out.float().sum().backward()
    assert torch.allclose(out.float(), F.conv2d(x, layer.weight), atol=0.1) and layer.weight.grad.isfinite().all()


def deform_conv2d(input, offset, weight, *arguments, **named):
    """Stands in for torchvision's operator and counts its calls."""
    deform_conv2d.calls += 1
    return plain_deform_conv2d(input, offset, weight, *arguments, **named)


@pytest.fixture
def torchvision(monkeypatch):
    """A torchvision that imports and runs beside any PyTorch."""
    module = types.ModuleType('torchvision.ops')
    module.deform_conv2d, deform_conv2d.calls = deform_conv2d, 0
    # With one sample a bin, at its centre.
    module.roi_align = lambda x, rois, size, scale, ratio, aligned: torch.cat([
        F.grid_sample(x[int(r[0])][None], torch.stack(torch.meshgrid(
            *(((r[1 + a] * scale - 0.5 * aligned) + (torch.arange(n) + 0.5) * (r[3 + a] - r[1 + a]) * scale / n + 0.5)
              / x.shape[3 - a] * 2 - 1 for a, n in ((0, size[1]), (1, size[0]))), indexing='xy'), -1)[None],
            align_corners=False) for r in rois])
    monkeypatch.setitem(sys.modules, 'torchvision', types.ModuleType('torchvision'))
    monkeypatch.setitem(sys.modules, 'torchvision.ops', module)
    vision.find_operator.cache_clear()
    yield module
    vision.find_operator.cache_clear()


@stand_in
@pytest.mark.parametrize('stride, padding, dilation', [(1, 0, 1), (2, 1, 1), (1, 2, 2)])
def test_deformable_convolutions_by_torchvision(torchvision, stride, padding, dilation):
    geometry = dict(stride=stride, padding=padding, dilation=dilation)
    x = torch.randn(2, 3, 9, 10, requires_grad=True)
    plain = F.conv2d(x, torch.zeros(1, 3, 3, 3), **geometry)
    offset = torch.randn(2, 18, *plain.shape[2:], requires_grad=True)
    mask = torch.rand(2, 9, *plain.shape[2:], requires_grad=True)
    for layer, arguments in ((DeformConv2d(3, 4, 3, **geometry), (x, offset)),
                             (ModulatedDeformConv2d(3, 4, 3, **geometry), (x, offset, mask))):
        pairs = {k: (v, v) for k, v in geometry.items()}
        expected = plain_deform_conv2d(x, offset, layer.weight, getattr(layer, 'bias', None),
                                       mask=mask if len(arguments) == 3 else None, **pairs)
        leaves = [*arguments, layer.weight]
        gradients = [torch.autograd.grad((y * torch.arange(y.numel()).view_as(y)).sum(), leaves)
                     for y in (layer(*arguments), expected)]
        assert torch.allclose(layer(*arguments), expected, atol=1e-5), 'the convolution should be the same'
        assert deform_conv2d.calls > 1, 'torchvision should be used, and not only tried'
        deform_conv2d.calls = 0
        for mine, theirs in zip(*gradients):
            assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-2), 'the gradients should be the same'


@stand_in
def test_roi_align_by_torchvision(torchvision):
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    rois = torch.tensor([[0., 8, 8, 40, 24], [1., 0, 16, 16, 48]])
    out = roi_align(x, rois, (2, 4), 0.25, 1, 'avg', True)
    expected = torchvision.roi_align(x, rois, (2, 4), 0.25, 1, True)
    assert torch.allclose(out, expected, atol=1e-5), 'the pooled features should be the same'
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (out, expected)]
    assert torch.allclose(*gradients, atol=1e-4), 'the gradient should be the same'
