"""Quality Focal Loss (GFL, arXiv:2006.04388, eq. 2)."""
import itertools
from typing import NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..registry import MODELS
from .generalized_focal import modulate
from .weighting import reduce_loss

# Logits taken at a time on a CPU, so that the temporaries of a step stay in its cache.
CHUNK = 1 << 18


def quality_focal_loss(logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """QFL = -|y - sigma|^beta ((1 - y) log(1 - sigma) + y log sigma): (...), eq. 2. Least at sigma = y.

    Args:
        logits: (...), sigma is their sigmoid.
        target: (...) y in [0, 1]: the quality at the true class of a positive, 0 elsewhere.
        beta: Exponent of the modulating factor, >= 0.
    """
    logits, target = logits.float(), target.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
    return modulate((target - logits.sigmoid()).abs(), beta) * cross_entropy


class ClassCells(NamedTuple):
    """K places in a class map (B, C, H, W), each index (K,)."""
    image: Tensor
    label: Tensor
    row: Tensor
    column: Tensor
    valid: Optional[Tensor] = None  # (K,) bool; False for a slot to be passed over, None for none of these


def quality_focal_loss_of_map(logits: Tensor, cells: ClassCells, quality: Tensor, beta: float = 2.0,
                              weight: Optional[Tensor] = None, scale: Union[Tensor, float] = 1.0) -> Tensor:
    """The sum of QFL over a map where almost every target is 0, value and gradient in one sweep.

    Args:
        logits: (B, C, H, W), any dtype; contiguous or channels-last, in which it is read and its gradient written.
        cells: The K places with a target above 0, no place twice.
        quality: (K,) targets there, in [0, 1].
        beta: As for :func:`quality_focal_loss`.
        weight: (B, H, W), 1 if not given.
        scale: What the sum is multiplied by, detached. Known beforehand, it costs no pass over the gradient.

    Returns:
        Scalar, fp32. Besides the gradient, which is made with it, no temporary is as large as the map on a CPU.
    """
    return _Sweep.apply(logits, cells, quality, beta, weight, scale)


class _Sweep(torch.autograd.Function):
    """Background everywhere in the map's own layout, then what differs at the K cells."""

    @staticmethod
    def forward(ctx, logits, cells, quality, beta, weight, scale):
        by_channel = not logits.is_contiguous() and logits.is_contiguous(memory_format=torch.channels_last)
        x = logits.permute(0, 2, 3, 1) if by_channel else logits.contiguous()
        # The last element takes what invalid slots write: a fixed number of slots needs no look at which are valid.
        buffer = x.new_empty(x.numel() + 1)
        gradient = buffer[:-1].view(x.shape)
        # Divided by the number of positives, small slopes would vanish in half precision: it waits for the backward
        # pass there, which brings the loss scale of mixed precision along.
        early, ctx.late = (scale, 1) if x.dtype == torch.float32 else (1, scale)
        total = x.new_zeros((), dtype=torch.float64)
        for x_part, gradient_part, w in _parts(x, gradient, weight, by_channel):
            loss, slope = _background(x_part.float(), beta)
            if w is not None:
                loss, slope = loss.mul_(w), slope.mul_(w)
            total += loss.sum()
            gradient_part.copy_(slope if isinstance(early, int) else slope.mul_(early))

        gradient = gradient.permute(0, 3, 1, 2) if by_channel else gradient
        image, label, row, column, valid = cells
        x = logits[image, label, row, column].float()
        w = torch.ones_like(x) if weight is None else weight[image, row, column]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            loss = quality_focal_loss(leaf, quality, beta)
            slope, = torch.autograd.grad(loss.sum(), leaf)
        change = w * (loss.detach() - _background(x, beta)[0])
        position = sum(i * s for i, s in zip((image, label, row, column), gradient.stride()))
        if valid is not None:
            change = torch.where(valid, change, 0)
            position = torch.where(valid, position, logits.numel())
        buffer[position] = (w * slope * early).to(buffer.dtype)
        ctx.save_for_backward(gradient)
        return ((total + change.sum(dtype=torch.float64)) * scale).float()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        gradient, = ctx.saved_tensors
        factor = grad_output * ctx.late
        if factor.device.type != 'cpu' or factor != 1:  # the look is free on a CPU, and spares it a pass
            gradient = gradient * factor
        return gradient, None, None, None, None, None


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


def _background(x: Tensor, beta: float) -> Tuple[Tensor, Tensor]:
    """QFL at y = 0, sigma^beta softplus(x), and its derivative sigma^(beta+1) + beta (1 - sigma) QFL."""
    sigma = x.sigmoid()
    if x.device.type == 'cpu' and x.numel() and x.max() <= 4:
        # -log(1 - sigma), a third cheaper; further up 1 - sigma has too few digits left (NaN is not below 4, either).
        softplus = sigma.neg().log1p_().neg_()
    else:
        softplus = F.softplus(x)
    power = sigma.square() if beta == 2 else sigma**beta
    loss = softplus.mul_(power)
    # beta QFL + sigma (sigma^beta - beta QFL)
    slope = power.sub_(loss, alpha=beta).mul_(sigma).add_(loss, alpha=beta)
    return loss, slope


@MODELS.register_module()
class QualityFocalLoss(nn.Module):
    """QFL of N priors and C classes; arguments as MMDetection's.

    Args:
        use_sigmoid: Must be True; MMDetection's heads read it.
        beta: Exponent of the modulating factor, >= 0.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: What the loss is multiplied by.
        activated: Whether predictions are probabilities rather than logits.

    Raises:
        ValueError: ``use_sigmoid`` is False or ``beta`` negative.
    """

    def __init__(self, use_sigmoid: bool = True, beta: float = 2.0, reduction: str = 'mean', loss_weight: float = 1.0,
                 activated: bool = False) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError('QualityFocalLoss is defined on sigmoids: use_sigmoid must be True')
        if beta < 0:
            raise ValueError(f'beta={beta} is negative')
        self.use_sigmoid, self.beta, self.reduction = use_sigmoid, beta, reduction
        self.loss_weight, self.activated = loss_weight, activated

    def forward(self, pred: Tensor, target: Union[Tensor, Tuple[Tensor, Tensor]], weight: Optional[Tensor] = None,
                avg_factor=None, reduction_override: Optional[str] = None) -> Tensor:
        """QFL of each prior, summed over its classes, then weighted and reduced.

        Args:
            pred: (N, C) logits, or probabilities if ``activated``.
            target: (N,) labels, C or negative for background, with (N,) qualities; or (N, C) qualities.
            weight: (N,).
            avg_factor: Divisor of the sum for ``'mean'``.
            reduction_override: Instead of ``reduction``.
        """
        if not isinstance(target, Tensor):
            label, quality = target
            is_class = label[:, None] == torch.arange(pred.shape[1], device=pred.device)
            target = torch.where(is_class, quality[:, None].float(), 0)
        if self.activated:
            pred, target = pred.float(), target.float()
            loss = modulate((target - pred).abs(), self.beta) * F.binary_cross_entropy(pred, target, reduction='none')
        else:
            loss = quality_focal_loss(pred, target, self.beta)
        return self.loss_weight * reduce_loss(loss.sum(1), weight, avg_factor, reduction_override or self.reduction)

    def forward_maps(self, maps: Sequence[Tensor], cells: Sequence[ClassCells], quality: Sequence[Tensor],
                     weight: Optional[Sequence[Tensor]], avg_factor: Tensor) -> Tensor:
        """The same loss, averaged, of L class maps in their own layout: see :func:`quality_focal_loss_of_map`."""
        weights = [None] * len(maps) if weight is None else weight
        scale = self.loss_weight * reduce_loss(torch.ones_like(avg_factor), None, avg_factor)
        return sum(quality_focal_loss_of_map(*level, self.beta, w, scale)
                   for *level, w in zip(maps, cells, quality, weights))
