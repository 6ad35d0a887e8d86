"""The loss path never makes the host wait for the device.

On a GPU PyTorch says so itself. Without one the tensors are of the device `meta`, which have shapes and no data: what
asks for data raises there, and what copies from the host is seen on its way.
"""
import contextlib

import pytest
import torch
from mmdet.registry import TASK_UTILS
from reference import on, random_features, random_objects
from test_axes import PAIRS, build
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ASSIGNERS = [dict(type='gfl_plugin.ATSSAssigner', topk=9), dict(type='gfl_plugin.TaskAlignedAssigner'),
             dict(type='gfl_plugin.TaskAlignedAssigner', variant='yolov8')]


class NoWaiting(TorchDispatchMode):
    """Refuses operators that take tensors of the host and of the device, unless they copy without waiting."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operator(*args, **kwargs)
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        # A number as a tensor on the host travels with the launch of a kernel.
        devices = {t.device.type for t in tensors if t.dim() or t.device.type != 'cpu'}
        assert len(devices) < 2 or kwargs.get('non_blocking'), f'{operator} makes the host wait'
        return result


def on_meta(head, features, objects, metas):
    maps = [[m.detach().to('meta').requires_grad_() for m in level] for level in head(features)]
    objects = [gt.to('meta') for gt in objects]
    return [m for level in maps for m in level], lambda: head.loss_by_feat(*maps, objects, metas)


@pytest.fixture
def meta(monkeypatch):
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: contextlib.nullcontext())  # knows no such device


def batch():
    unpadded = [(640, 512), (600, 640), (640, 640)]  # with a border of 0 not all priors may be used
    return random_features(3, 640, 640), *random_objects((6, 0, 3), 640, 640, unpadded=unpadded)


def total(losses):
    return sum(sum(loss) for loss in losses.values())


@pytest.mark.parametrize('options', [dict(), dict(allowed_border=0), dict(pos_weight=2.5)], ids=str)
@pytest.mark.parametrize('quality, box', PAIRS)
def test_the_loss_path_asks_for_no_data(quality, box, options, meta):
    maps, loss_path = on_meta(build(quality, box, **options), *batch())
    with NoWaiting():
        gradients = torch.autograd.grad(total(loss_path()), maps)
    assert [g.shape for g in gradients] == [m.shape for m in maps]


@pytest.mark.parametrize('border', [-1, 0])
@pytest.mark.parametrize('assigner', ASSIGNERS, ids=str)
def test_no_assigner_asks_for_data(assigner, border, meta):
    head = build(allowed_border=border)
    head.assigner = TASK_UTILS.build(assigner)
    maps, loss_path = on_meta(head, *batch())
    with NoWaiting():
        gradients = torch.autograd.grad(total(loss_path()), maps)
    assert [g.shape for g in gradients] == [m.shape for m in maps]


def test_that_test_sees_what_waits(meta, monkeypatch):
    """Reading which slots are positive, as on a CPU; a mask as an index; a copy that waits."""
    with NoWaiting(), pytest.raises(AssertionError, match='makes the host wait'):
        torch.ones(3).to('meta')
    monkeypatch.setattr('gfl_plugin.matches.can_be_read_at_once', lambda x: True)
    _, loss_path = on_meta(build(), *batch())
    with NoWaiting(), pytest.raises(NotImplementedError, match='no data'):
        loss_path()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('options', [dict(), dict(allowed_border=0), dict(pos_weight=2.5)], ids=str)
@pytest.mark.parametrize('quality, box, assigner', [(*pair, ASSIGNERS[0]) for pair in PAIRS]
                         + [('JointQuality', 'GeneralDistribution', assigner) for assigner in ASSIGNERS[1:]])
def test_the_loss_path_on_a_gpu_never_waits(quality, box, assigner, options):
    features, objects, metas = batch()
    head, features, objects = on('cuda', build(quality, box, **options), features, objects)
    head.assigner = TASK_UTILS.build(assigner)
    maps = [[m.detach().requires_grad_() for m in level] for level in head(features)]
    for mode in ('default', 'error'):  # the first time kernels are compiled and libraries loaded, which may wait
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            losses = head.loss_by_feat(*maps, objects, metas)
            torch.autograd.grad(total(losses), [m for level in maps for m in level])
        finally:
            torch.cuda.set_sync_debug_mode('default')
    assert all(loss.isfinite() for loss, in losses.values())
