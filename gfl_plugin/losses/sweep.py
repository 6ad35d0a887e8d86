"""A classification loss over class maps where almost every target is 0: value and gradient in one sweep.

FL, QFL and VFL share their loss of the background, a multiple of sigma^gamma softplus(x), and differ at the positives,
which are few. So each gives this file two numbers and a function of the positives' logits.
"""
import itertools
from typing import Callable, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .weighting import reduce_loss

# Logits taken at a time on a CPU, so that the temporaries of a step stay in its cache.
CHUNK = 1 << 18


class ClassCells(NamedTuple):
    """K places in a class map (B, C, H, W), each index (K,)."""
    image: Tensor
    label: Tensor
    row: Tensor
    column: Tensor
    valid: Optional[Tensor] = None  # (K,) bool; False for a slot to be passed over, None for none of these


class MapLoss(NamedTuple):
    """A loss of class logits: ``alpha * sigma^gamma * softplus(x)`` where the target is 0, and at positives its own."""
    at_positives: Callable[[Tensor, Tensor], Tensor]  # (K,) logits, (K,) targets to (K,) losses
    gamma: float
    alpha: float = 1.0


def loss_of_map(loss: MapLoss, logits: Tensor, cells: ClassCells, target: Tensor, weight: Optional[Tensor] = None,
                scale: Union[Tensor, float] = 1.0) -> Tensor:
    """The sum of a loss over a map.

    Args:
        loss: Which.
        logits: (B, C, H, W), any dtype; contiguous or channels-last, in which it is read and its gradient written.
        cells: The K places of the positives, no place twice.
        target: (K,) targets there.
        weight: (B, H, W), 1 if not given.
        scale: What the sum is multiplied by, detached. Known beforehand, it costs no pass over the gradient.

    Returns:
        Scalar, fp32. Besides the gradient, which is made with it, no temporary is as large as the map on a CPU.
    """
    return _Sweep.apply(loss, logits, cells, target, weight, scale)


def loss_of_maps(loss: MapLoss, maps: Sequence[Tensor], cells: Sequence[ClassCells], target: Sequence[Tensor],
                 weight: Optional[Sequence[Tensor]], avg_factor: Tensor, loss_weight: float) -> Tensor:
    """:func:`loss_of_map` over L maps, averaged and weighted as :func:`reduce_loss` would."""
    weights = [None] * len(maps) if weight is None else weight
    scale = loss_weight * reduce_loss(torch.ones_like(avg_factor), None, avg_factor)
    return sum(loss_of_map(loss, *level, scale) for level in zip(maps, cells, target, weights))


def dense_target(label: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """(N, C) targets: (N,) of the class ``label`` (N,), C or negative for background, and 0 elsewhere."""
    is_class = label[:, None] == torch.arange(num_classes, device=label.device)
    return torch.where(is_class, target[:, None].float(), 0)


class _Sweep(torch.autograd.Function):
    """Background everywhere in the map's own layout, then what differs at the K cells."""

    @staticmethod
    def forward(ctx, kind, logits, cells, target, weight, scale):
        by_channel = not logits.is_contiguous() and logits.is_contiguous(memory_format=torch.channels_last)
        x = logits.permute(0, 2, 3, 1) if by_channel else logits.contiguous()
        # The last element takes what invalid slots write: a fixed number of slots needs no look at which are valid.
        buffer = x.new_empty(x.numel() + 1)
        gradient = buffer[:-1].view(x.shape)
        # Divided by the number of positives, small slopes would vanish in half precision: it waits for the backward
        # pass there, which brings the loss scale of mixed precision along.
        early, ctx.late = (scale, 1) if x.dtype == torch.float32 else (1, scale)
        slope_scale = early if kind.alpha == 1 else early * kind.alpha
        total = x.new_zeros((), dtype=torch.float64)
        for x_part, gradient_part, w in _parts(x, gradient, weight, by_channel):
            loss, slope = _background(x_part.float(), kind.gamma)
            if w is not None:
                loss, slope = loss.mul_(w), slope.mul_(w)
            total += loss.sum()
            gradient_part.copy_(slope if isinstance(slope_scale, int) else slope.mul_(slope_scale))

        gradient = gradient.permute(0, 3, 1, 2) if by_channel else gradient
        image, label, row, column, valid = cells
        x = logits[image, label, row, column].float()
        w = torch.ones_like(x) if weight is None else weight[image, row, column]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            loss = kind.at_positives(leaf, target)
            slope, = torch.autograd.grad(loss.sum(), leaf)
        change = w * (loss.detach() - kind.alpha * _background(x, kind.gamma)[0])
        position = sum(i * s for i, s in zip((image, label, row, column), gradient.stride()))
        if valid is not None:
            change = torch.where(valid, change, 0)
            position = torch.where(valid, position, logits.numel())
        buffer[position] = (w * slope * early).to(buffer.dtype)
        ctx.save_for_backward(gradient)
        return ((kind.alpha * total + change.sum(dtype=torch.float64)) * scale).float()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        gradient, = ctx.saved_tensors
        factor = grad_output * ctx.late
        if factor.device.type != 'cpu' or factor != 1:  # the look is free on a CPU, and spares it a pass
            gradient = gradient * factor
        return None, gradient, None, None, None, None


def _parts(x: Tensor, gradient: Tensor, weight: Optional[Tensor], by_channel: bool):
    """Pieces of contiguous maps and their weights; on a CPU of a size whose temporaries stay in the cache."""
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
    if x.device.type == 'cpu' and x.numel() and x.max() <= 4:
        # -log(1 - sigma), a third cheaper; further up 1 - sigma has too few digits left (NaN is not below 4, either).
        softplus = sigma.neg().log1p_().neg_()
    else:
        softplus = F.softplus(x)
    power = sigma.square() if gamma == 2 else sigma**gamma
    loss = softplus.mul_(power)
    # gamma B + sigma (sigma^gamma - gamma B)
    slope = power.sub_(loss, alpha=gamma).mul_(sigma).add_(loss, alpha=gamma)
    return loss, slope
