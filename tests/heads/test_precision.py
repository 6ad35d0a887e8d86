"""Half precision: losses and gradients of autocast are those of fp32, but for the rounding of the maps."""
import pytest
import torch
from reference import on, random_features, random_objects, summed, twin_heads


def maps_of(head, features, device, dtype=None):
    """The head's maps in autocast, as leaves."""
    with torch.autocast(device, dtype or torch.float32, enabled=dtype is not None):
        return [[m.detach().requires_grad_() for m in level] for level in head(features)]


def losses_and_gradients(head, maps, *batch):
    """Losses, and the gradients of the class maps and of the sides, each in one row."""
    losses = summed(head.loss_by_feat(*maps, *batch))
    gradients = torch.autograd.grad(sum(losses.values()), [m for level in maps for m in level])
    rows = [torch.cat([g.flatten().double() for g in level]) for level in (gradients[:5], gradients[5:])]
    return losses, dict(zip(('class maps', 'sides'), rows))


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_mmdetections_fp32(dtype, layout, device):
    reference, ours = twin_heads()
    features, (objects, metas) = random_features(2, 384, 512), random_objects((10, 6), 384, 512)
    reference, features, objects = on(device, reference, features, objects)
    ours = ours.to(device, memory_format=layout)
    expected, exact = losses_and_gradients(reference, maps_of(reference, features, device), objects, metas)
    maps = maps_of(ours, [f.to(memory_format=layout) for f in features], device, dtype)
    assert maps[0][0].dtype == dtype, 'the class logits should be in half precision'
    losses, gradients = losses_and_gradients(ours, maps, objects, metas)
    for name in expected:
        assert losses[name].dtype == torch.float32, 'losses are summed in fp32'
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=0.01), f'{name} in {dtype}'
    # The gradient of a box turns with what a convolution rounds; equal sides have equal ones.
    rounded = [[m.detach().float().requires_grad_() for m in level] for level in maps]
    _, at_rounded = losses_and_gradients(reference, rounded, objects, metas)
    for name, theirs, what in (('class maps', exact, 'fp32'), ('class maps', at_rounded, 'fp32 on equal maps'),
                               ('sides', at_rounded, 'fp32 on equal maps')):
        error = ((gradients[name] - theirs[name]).norm() / theirs[name].norm()).item()
        assert error <= 0.02, f'the gradient of the {name} in {dtype} is off that of {what} by {error:.2g}'
