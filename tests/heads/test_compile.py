"""torch.compile takes the whole model as one graph, a graph for each shape."""
import pytest
import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from reference import assert_close, on, random_features, random_objects, twin_heads
from test_axes import build
from test_synchronisation import ASSIGNERS
from tool_runs import SHAPES, SMALL, parse
from torch._dynamo.utils import counters

from gfl_plugin import engine

# Without a GPU the graph is traced, its backward pass included, and run by PyTorch's own operators.
BACKENDS = dict(cpu='aot_eager', cuda='inductor')


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch):
    torch.compiler.reset()
    counters.clear()  # which that leaves as they are
    monkeypatch.setattr('gfl_plugin.matches.can_be_read_at_once', lambda x: False)  # shapes without data
    yield
    torch.compiler.reset()


def graphs() -> int:
    assert not counters['graph_break'], counters['graph_break']
    return counters['stats']['unique_graphs']


def compiled(function, device):
    return torch.compile(function, backend=BACKENDS[device], fullgraph=True, dynamic=False)


@pytest.mark.soak  # tracing takes half a minute on a CPU
def test_the_loss_path_is_one_graph(device):
    _, head = twin_heads()
    features, (objects, metas) = random_features(2, 128, 160), random_objects((6, 3), 128, 160)
    head, features, objects = on(device, head, features, objects)
    maps = [[m.detach().requires_grad_() for m in level] for level in head(features)]
    flat, results = [m for level in maps for m in level], []
    for function in (compiled(head.loss_by_feat, device), head.loss_by_feat):
        losses = {name: loss for name, (loss, ) in function(*maps, objects, metas).items()}
        results.append([*losses.values(), *torch.autograd.grad(sum(losses.values()), flat)])
    for ours, expected in zip(*results):
        assert_close(ours, expected, 'a loss or gradient of the compiled path', 1e-4)
    assert graphs() == 1


@pytest.mark.soak
@pytest.mark.parametrize('quality', ['JointQuality', 'IoUBranch'])
def test_other_qualities_are_one_graph(quality):
    head, features, (objects, metas) = build(quality), random_features(1, 64, 64), random_objects((3, ), 64, 64)
    maps = head(features)
    losses = torch.compile(head.loss_by_feat, backend='eager', fullgraph=True)(*maps, objects, metas)
    assert all(loss.isfinite() for loss, in losses.values()) and graphs() == 1


@pytest.mark.soak
@pytest.mark.parametrize('assigner', ASSIGNERS, ids=str)
def test_every_assigner_is_one_graph(assigner):
    head, features, (objects, metas) = build(), random_features(1, 64, 64), random_objects((3, ), 64, 64)
    head.assigner, maps = TASK_UTILS.build(assigner), head(features)
    losses = torch.compile(head.loss_by_feat, backend='eager', fullgraph=True)(*maps, objects, metas)
    assert all(loss.isfinite() for loss, in losses.values()) and graphs() == 1


def model_of_shapes(device):
    small = [s for s in SMALL if s.startswith('model.')]
    config = engine.load_config(parse('train', SHAPES, '--cfg-options', *small))
    return MODELS.build(config.model).to(device).train()


def total_of(losses):
    return sum(sum(loss) for loss in losses.values())


def batch_of_shapes(height, width, device):
    objects, metas = random_objects((5, 4), height, width, 6)
    samples = [DetDataSample(metainfo=dict(meta, batch_input_shape=(height, width)), gt_instances=gt.to(device))
               for gt, meta in zip(objects, metas)]
    return torch.randn(2, 3, height, width, device=device), samples


@pytest.mark.soak
def test_the_whole_model_is_one_graph_per_shape(device):
    model = model_of_shapes(device)
    loss = compiled(model.loss, device)
    for count, (height, width) in ((1, (128, 160)), (1, (128, 160)), (2, (96, 160)), (2, (128, 160))):
        batch = batch_of_shapes(height, width, device)
        total = total_of(loss(*batch))
        total.backward()
        assert graphs() == count, f'{height} x {width} should be graph {count}'
        assert total.item() == pytest.approx(total_of(model.loss(*batch)).item(), rel=1e-3)
    assert all(p.grad is not None for p in model.bbox_head.parameters()), 'the graph should have a backward pass'
