"""A classification loss over class maps where almost every target is 0: value and gradient in one sweep.

FL, QFL and VFL share their form, so each gives this file a few numbers. Where Triton is there, a GPU takes the sweep of
:mod:`.triton_sweep`, one pass over the logits; under ``torch.compile``, and anywhere else, it is that of this file.
"""
import itertools
import os
from functools import lru_cache
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .weighting import reduce_loss

# Logits taken at a time on a CPU, so that the temporaries of a step stay in its cache.
CHUNK = 1 << 18
# GFL_TRITON=0 in the environment keeps to plain PyTorch on a GPU as well, to compare.
USE_TRITON = os.environ.get('GFL_TRITON', '1') != '0'


class ClassCells(NamedTuple):
    """K places in a class map (B, C, H, W), each index (K,)."""
    image: Tensor
    label: Tensor
    row: Tensor
    column: Tensor
    valid: Optional[Tensor] = None  # (K,) bool; False for a slot to be passed over, None for none of these


class MapLoss(NamedTuple):
    """A loss of class logits x towards targets y.

    ``alpha sigma^gamma softplus(x)`` where y = 0; at positives, where y > 0, ``(a + b y) |y - sigma|^beta CE(x, y)``
    with the binary cross-entropy CE(x, y) = -(1 - y) log(1 - sigma) - y log sigma = softplus(x) - x y.
    """
    gamma: float
    beta: float
    alpha: float = 1.0
    factor: Tuple[float, float] = (1.0, 0.0)  # (a, b)


class Layout(NamedTuple):
    """How one map lies in a buffer of several."""
    start: int
    shape: Tuple[int, int, int, int]  # (B, C, H, W)
    by_channel: bool  # with its channels last


class DenseMap(NamedTuple):
    """A map as it lies in memory, and where its gradient goes."""
    x: Tensor  # (B, C, H, W) or, by channel, (B, H, W, C); contiguous
    gradient: Tensor  # likewise
    by_channel: bool
    start: int  # index of its first number in the buffer of all gradients


def loss_of_map(kind: MapLoss, logits: Tensor, cells: ClassCells, target: Tensor, weight: Optional[Tensor] = None,
                scale: Union[Tensor, float] = 1.0) -> Tensor:
    """The sum of a loss over a map.

    Args:
        kind: Which loss.
        logits: (B, C, H, W), any dtype; contiguous or channels-last, in which it is read and its gradient written.
        cells: The K places of the positives, no place twice.
        target: (K,) targets there.
        weight: (B, H, W), 1 if not given.
        scale: What the sum is multiplied by, detached. Known beforehand, it costs no pass over the gradient.

    Returns:
        Scalar, fp32. Besides the gradient, which is made with it, no temporary is as large as the map on a CPU.
    """
    return _Sweep.apply(kind, [cells], [target], [weight], scale, logits)


def loss_of_maps(kind: MapLoss, maps: Sequence[Tensor], cells: Sequence[ClassCells], target: Sequence[Tensor],
                 weight: Optional[Sequence[Tensor]], avg_factor: Tensor, loss_weight: float) -> Tensor:
    """:func:`loss_of_map` over L maps, averaged and weighted as :func:`reduce_loss` would."""
    weights = [None] * len(maps) if weight is None else weight
    scale = loss_weight * reduce_loss(torch.ones_like(avg_factor), None, avg_factor)
    return _Sweep.apply(kind, cells, target, weights, scale, *maps)


def dense_target(label: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """(N, C) targets: (N,) of the class ``label`` (N,), C or negative for background, and 0 elsewhere."""
    is_class = label[:, None] == torch.arange(num_classes, device=label.device)
    return torch.where(is_class, target[:, None].float(), 0)


class _Sweep(torch.autograd.Function):
    """Background everywhere in the maps' own layouts, then what differs at the K cells of each."""

    @staticmethod
    def forward(ctx, kind, cells, target, weight, scale, *maps):
        # One buffer for the gradients of all maps; its last element takes what invalid slots write: a fixed number of
        # slots needs no look at which are valid.
        buffer = maps[0].new_empty(sum(m.numel() for m in maps) + 1)
        ctx.layouts = _layouts(maps)
        # Divided by the number of positives, small slopes would vanish in fp16: that waits for the backward pass there,
        # which brings the loss scale of mixed precision along.
        early, ctx.late = (1.0, scale) if buffer.dtype == torch.float16 else (scale, 1.0)
        sweep = _fused(maps[0]) or _plain
        dense = [DenseMap(_dense(m), _dense(g), layout.by_channel, layout.start)
                 for m, g, layout in zip(maps, _views(buffer, ctx.layouts), ctx.layouts)]
        total = sum(sweep(kind, *level, early, buffer) for level in zip(dense, cells, target, weight))
        ctx.save_for_backward(buffer)
        return (total * scale).float()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        buffer, = ctx.saved_tensors
        factor = grad_output * ctx.late
        # The look is free on a CPU, and spares it a pass.
        if factor.device.type != 'cpu' or torch.compiler.is_compiling() or factor != 1:
            buffer = buffer * factor
        return None, None, None, None, None, *_views(buffer, ctx.layouts)


def _is_by_channel(m: Tensor) -> bool:
    return not m.is_contiguous() and m.is_contiguous(memory_format=torch.channels_last)


def _layouts(maps: Sequence[Tensor]) -> List[Layout]:
    starts = itertools.accumulate((m.numel() for m in maps), initial=0)
    return [Layout(start, tuple(m.shape), _is_by_channel(m)) for start, m in zip(starts, maps)]


def _dense(m: Tensor) -> Tensor:
    return m.permute(0, 2, 3, 1) if _is_by_channel(m) else m.contiguous()


def _views(buffer: Tensor, layouts: Sequence[Layout]) -> List[Tensor]:
    """The parts of a buffer as maps (B, C, H, W), each in its layout."""
    maps = []
    for start, (b, c, h, w), by_channel in layouts:
        part = buffer[start:start + b * c * h * w]
        maps.append(part.view(b, h, w, c).permute(0, 3, 1, 2) if by_channel else part.view(b, c, h, w))
    return maps


def _fused(x: Tensor) -> Optional[Callable]:
    """The sweep in Triton, if it is to be used for ``x``."""
    if not USE_TRITON or x.device.type != 'cuda' or torch.compiler.is_compiling():
        return None
    return _triton_sweep() if x.dtype in (torch.float32, torch.bfloat16, torch.float16) else None


@lru_cache(maxsize=1)
def _triton_sweep() -> Optional[Callable]:
    try:
        from .triton_sweep import sweep
    except ImportError:  # PyTorch has no Triton on every platform
        return None
    return sweep


def _plain(kind: MapLoss, m: DenseMap, cells: ClassCells, target: Tensor, weight: Optional[Tensor],
           slope_scale: Union[Tensor, float], buffer: Tensor) -> Tensor:
    """The sum of the loss over a map, fp64; writes ``slope_scale`` times its gradient."""
    total = m.x.new_zeros((), dtype=torch.float64)
    background_scale = slope_scale * kind.alpha
    for x, gradient, w in _parts(m, weight):
        loss, slope = _background(x.float(), kind.gamma)
        if w is not None:
            loss, slope = loss.mul_(w), slope.mul_(w)
        total += loss.sum()
        gradient.copy_(slope.mul_(background_scale))

    image, label, row, column, valid = cells
    stride = m.x.stride()
    b, c, h, w = (stride[0], stride[3], stride[1], stride[2]) if m.by_channel else stride
    position = (image * b).add(label, alpha=c).add(row, alpha=h).add(column, alpha=w)
    x = m.x.view(-1)[position].float()
    background = kind.alpha * _background(x, kind.gamma)[0]
    loss, slope = at_positives(kind, x, target)
    if weight is not None:
        w = weight[image, row, column]
        background, loss, slope = w * background, w * loss, w * slope
    change, position = loss - background, position + m.start
    if valid is not None:
        change = torch.where(valid, change, 0)
        position = torch.where(valid, position, buffer.numel() - 1)
    buffer[position] = (slope * slope_scale).to(buffer.dtype)
    return kind.alpha * total + change.sum(dtype=torch.float64)


def at_positives(kind: MapLoss, x: Tensor, y: Tensor) -> Tuple[Tensor, Tensor]:
    """The loss of logits (K,) towards targets (K,), and its derivative; those of the background where y = 0."""
    sigma = x.sigmoid()
    distance = y - sigma
    cross_entropy = F.binary_cross_entropy_with_logits(x, y.to(x), reduction='none')
    power = (kind.factor[0] + kind.factor[1] * y) * distance.abs()**kind.beta
    # d/dx |d|^beta = -beta |d|^beta / d sigma (1 - sigma), and d/dx CE = -d. At d = 0, its least, a slope of 0.
    turn = distance + kind.beta * sigma * (1 - sigma) * cross_entropy / distance
    slope = torch.where(distance == 0, 0, -power * turn)
    background = (kind.alpha * value for value in _background(x, kind.gamma))
    return tuple(torch.where(y > 0, *values) for values in zip((power * cross_entropy, slope), background))


def _parts(m: DenseMap, weight: Optional[Tensor]):
    """Pieces of a map, its gradient and the weights; on a CPU of a size whose temporaries stay in the cache."""
    x, gradient, by_channel = m.x, m.gradient, m.by_channel
    if x.device.type != 'cpu':
        yield x, gradient, None if weight is None else weight.unsqueeze(-1 if by_channel else 1)
    elif weight is None:
        for parts in zip(x.view(-1).split(CHUNK), gradient.view(-1).split(CHUNK)):
            yield *parts, None
    else:
        for x_image, gradient_image, w in zip(x, gradient, weight):  # (C, H, W), or (H, W, C) by channel
            count = max(1, CHUNK // max(1, x_image[0].numel()))
            weights = w[..., None].split(count) if by_channel else itertools.repeat(w)
            yield from zip(x_image.split(count), gradient_image.split(count), weights)


def _background(x: Tensor, gamma: float) -> Tuple[Tensor, Tensor]:
    """B = sigma^gamma softplus(x), and its derivative sigma^(gamma+1) + gamma (1 - sigma) B."""
    sigma = x.sigmoid()
    if x.device.type == 'cpu' and not torch.compiler.is_compiling() and x.numel() and x.max() <= 4:
        # -log(1 - sigma), a third cheaper; further up 1 - sigma has too few digits left (NaN is not below 4, either).
        softplus = sigma.neg().log1p_().neg_()
    else:
        softplus = F.softplus(x)
    power = sigma.square() if gamma == 2 else sigma**gamma
    loss = softplus.mul_(power)
    # gamma B + sigma (sigma^gamma - gamma B)
    slope = power.sub_(loss, alpha=gamma).mul_(sigma).add_(loss, alpha=gamma)
    return loss, slope
