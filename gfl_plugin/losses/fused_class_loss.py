"""A classification loss over class maps where almost every target is 0: value and gradient in one pass.

Training runs this code instead of the pure functions of :mod:`.focal`, :mod:`.quality_focal` and :mod:`.varifocal`. It
is their :class:`ClosedForm`, with the gradient derived by hand. On a GPU with Triton, :mod:`.fused_triton` does the
same in one pass over the logits. Elsewhere, and under ``torch.compile``, this file does it with PyTorch operators.
"""
import itertools
import math
import os
from typing import Callable, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .closed_form import ClassTargets, ClosedForm, DenseMap

# Logits that a CPU takes at a time, so that the temporaries of a step stay in its cache.
CHUNK = 1 << 18
# The slopes of an unweighted loss are below 2 (unless beta < 1). The first power of two that fp16 cannot hold is 2**16.
FP16_EXPONENT = 14
# GFL_TRITON=0 in the environment selects plain PyTorch on a GPU too, for comparison.
USE_TRITON = os.environ.get('GFL_TRITON', '1') != '0'


def fused_class_loss(form: ClosedForm, maps: Sequence[Tensor], targets: Sequence[ClassTargets],
                     weight: Sequence[Optional[Tensor]], scale: Union[Tensor, float] = 1.0) -> Tensor:
    """The sum of a loss over the class maps of L levels, times ``scale``.

    Args:
        form: Which loss.
        maps: L maps (B, C, H, W), logits of any dtype; contiguous or channels-last. The gradient has the same layout.
        targets: The positives of each map. A label outside 0..C-1 counts as background.
        weight: For each map (B, H*W), or None for 1 everywhere.
        scale: Without gradient. Applied here it saves a pass over the gradient.

    Returns:
        Scalar, fp32. On a CPU the gradient is the only temporary as large as the maps.
    """
    return _FusedClassLoss.apply(form, targets, weight, scale, *maps)


class _FusedClassLoss(torch.autograd.Function):
    """The background's loss everywhere, in the layout of the maps, and then the difference at the positives."""

    @staticmethod
    def forward(ctx, form, targets, weight, scale, *maps):
        if maps[0].dtype == torch.float16:
            # Small slopes would vanish, so they are stored enlarged. The backward pass divides by that, and multiplies
            # by ``scale`` and the loss scale of mixed precision.
            early = _enlargement(form, weight)
            ctx.late = scale / early
        else:
            early, ctx.late = scale, 1.0
        ctx.layouts = [(m.shape, _is_by_channel(m)) for m in maps]
        sum_level = _triton_for(maps[0]) or sum_plain
        levels = [DenseMap(_dense(m), m.new_empty(m.numel() + 1), by_channel)
                  for m, (_, by_channel) in zip(maps, ctx.layouts)]
        total = sum(sum_level(form, *level, early) for level in zip(levels, targets, weight))
        ctx.save_for_backward(*(level.buffer for level in levels))
        return (total * scale).float()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        factor, buffers = grad_output * ctx.late, ctx.saved_tensors
        # On a CPU, reading the factor is free and often saves a pass.
        if factor.device.type != 'cpu' or torch.compiler.is_compiling() or factor != 1:
            buffers = [buffer * factor for buffer in buffers]
        return None, None, None, None, *(_as_map(buffer[:-1], *layout) for buffer, layout in zip(buffers, ctx.layouts))


def _enlargement(form: ClosedForm, weight: Sequence[Optional[Tensor]]) -> Union[Tensor, float]:
    """A power of two. Slopes multiplied by it still fit fp16, except for some at positives if beta < 1."""
    exponent = FP16_EXPONENT - math.ceil(math.log2(max(1.0, form.alpha, form.factor[0], sum(form.factor))))
    weights = [w.amax() for w in weight if w is not None and w.numel()]
    if not weights:
        return 2.0**exponent
    return (exponent - torch.stack(weights).amax().float().clamp(min=1).log2().ceil()).exp2()


def _is_by_channel(m: Tensor) -> bool:
    return not m.is_contiguous() and m.is_contiguous(memory_format=torch.channels_last)


def _dense(m: Tensor) -> Tensor:
    return m.permute(0, 2, 3, 1).flatten(1, 2) if _is_by_channel(m) else m.contiguous().flatten(2)


def _as_map(x: Tensor, shape: torch.Size, by_channel: bool) -> Tensor:
    """(B, C, H, W) as it lies in memory."""
    b, c, h, w = shape
    return x.view(b, h, w, c).permute(0, 3, 1, 2) if by_channel else x.view(shape)


def _triton_for(x: Tensor) -> Optional[Callable]:
    """:func:`sum_plain` in Triton, if it can be used for ``x``."""
    supported = torch.float32, torch.bfloat16, torch.float16
    if not USE_TRITON or x.device.type != 'cuda' or x.dtype not in supported or torch.compiler.is_compiling():
        return None
    try:
        from .fused_triton import sum_triton
    except ImportError:  # not every PyTorch has Triton
        return None
    return sum_triton


def sum_plain(form: ClosedForm, m: DenseMap, at: ClassTargets, weight: Optional[Tensor],
              slope_scale: Union[Tensor, float]) -> Tensor:
    """The sum of the loss over one map, fp64. It writes ``slope_scale`` times the gradient to the map's buffer."""
    total = m.x.new_zeros((), dtype=torch.float64)
    background_scale = slope_scale * form.alpha
    for x, gradient, w in _parts(m, weight):
        loss, slope = _background(x.float(), form.gamma)
        if w is not None:
            loss, slope = loss.mul_(w), slope.mul_(w)
        total += loss.sum()
        gradient.copy_(slope.mul_(background_scale))

    classes = m.x.shape[2 if m.by_channel else 1]
    valid = (at.label >= 0) & (at.label < classes)
    valid = valid if at.valid is None else valid & at.valid
    image_step, *steps = m.x.stride()
    label_step, cell_step = reversed(steps) if m.by_channel else steps
    position = (at.image * image_step).add(at.label.clamp(0, classes - 1), alpha=label_step).add(at.cell,
                                                                                                 alpha=cell_step)
    x = m.x.view(-1)[position].float()
    background = form.alpha * _background(x, form.gamma)[0]
    loss, slope = at_positives(form, x, at.score)
    if weight is not None:
        w = weight[at.image, at.cell]
        background, loss, slope = w * background, w * loss, w * slope
    slope = slope * slope_scale
    if m.x.dtype == torch.float16:
        limit = torch.finfo(torch.float16).max
        slope = slope.clamp(-limit, limit)
    m.buffer[torch.where(valid, position, len(m.buffer) - 1)] = slope.to(m.x.dtype)
    return form.alpha * total + torch.where(valid, loss - background, 0).sum(dtype=torch.float64)


def at_positives(form: ClosedForm, x: Tensor, y: Tensor) -> Tuple[Tensor, Tensor]:
    """The loss of logits (K,) towards targets (K,), and its derivative. Where y = 0, both are the background's."""
    sigma = x.sigmoid()
    distance = y - sigma
    cross_entropy = F.binary_cross_entropy_with_logits(x, y.to(x), reduction='none')
    power = (form.factor[0] + form.factor[1] * y) * distance.abs()**form.beta
    # d/dx |d|^beta = -beta |d|^beta / d sigma (1 - sigma), and d/dx CE = -d. At d = 0, the minimum, the slope is 0.
    turn = distance + form.beta * sigma * (1 - sigma) * cross_entropy / distance
    slope = torch.where(distance == 0, 0, -power * turn)
    background = (form.alpha * value for value in _background(x, form.gamma))
    return tuple(torch.where(y > 0, *values) for values in zip((power * cross_entropy, slope), background))


def _parts(m: DenseMap, weight: Optional[Tensor]):
    """Pieces of a map, its gradient and the weights. On a CPU they are so small that temporaries stay in the cache."""
    x, gradient, by_channel = m.x, m.buffer[:-1].view(m.x.shape), m.by_channel
    if x.device.type != 'cpu':
        yield x, gradient, None if weight is None else weight.unsqueeze(-1 if by_channel else 1)
    elif weight is None:
        for parts in zip(x.view(-1).split(CHUNK), gradient.view(-1).split(CHUNK)):
            yield *parts, None
    else:
        for x_image, gradient_image, w in zip(x, gradient, weight):  # (C, H*W), or (H*W, C) by channel
            count = max(1, CHUNK // max(1, x_image[0].numel()))
            weights = w[..., None].split(count) if by_channel else itertools.repeat(w)
            yield from zip(x_image.split(count), gradient_image.split(count), weights)


def _background(x: Tensor, gamma: float) -> Tuple[Tensor, Tensor]:
    """B = sigma^gamma softplus(x), and its derivative sigma^(gamma+1) + gamma (1 - sigma) B."""
    sigma = x.sigmoid()
    if x.device.type == 'cpu' and not torch.compiler.is_compiling() and x.numel() and x.max() <= 4:
        # -log(1 - sigma) is a third cheaper. Above 4, 1 - sigma has too few digits left. (NaN fails the test, too.)
        softplus = sigma.neg().log1p_().neg_()
    else:
        softplus = F.softplus(x)
    power = sigma.square() if gamma == 2 else sigma**gamma
    loss = softplus.mul_(power)
    # gamma B + sigma (sigma^gamma - gamma B)
    slope = power.sub_(loss, alpha=gamma).mul_(sigma).add_(loss, alpha=gamma)
    return loss, slope
