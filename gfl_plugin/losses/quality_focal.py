"""Quality Focal Loss (GFL, arXiv:2006.04388, eq. 2)."""
from typing import NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..registry import MODELS
from .generalized_focal import modulate
from .weighting import reduce_loss

# Logits taken at a time on a CPU, so that the temporaries of a step stay in its cache.
CHUNK = 1 << 16


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
                              weight: Optional[Tensor] = None) -> Tensor:
    """The sum of QFL over a map where almost every target is 0, value and gradient in one sweep.

    Args:
        logits: (B, C, H, W), any dtype and memory format.
        cells: The K places with a target above 0, no place twice.
        quality: (K,) targets there, in [0, 1].
        beta: As for :func:`quality_focal_loss`.
        weight: (B, H, W), 1 if not given.

    Returns:
        Scalar, fp32. Besides the gradient, which is made with it, no temporary is as large as the map on a CPU.
    """
    return _Sweep.apply(logits, cells, quality, beta, weight)


class _Sweep(torch.autograd.Function):
    """Background everywhere in the map's own layout, then what differs at the K cells."""

    @staticmethod
    def forward(ctx, logits, cells, quality, beta, weight):
        # The last element takes what invalid slots write: a fixed number of slots needs no look at which are valid.
        buffer = logits.new_empty(logits.numel() + 1)
        gradient = buffer[:-1].view(logits.shape)
        total = logits.new_zeros((), dtype=torch.float64)
        channels = max(1, CHUNK // logits[0, 0].numel()) if logits.device.type == 'cpu' else logits.shape[1]
        for image, (x, g) in enumerate(zip(logits, gradient)):
            for x_part, g_part in zip(x.split(channels), g.split(channels)):
                loss, slope = _background(x_part.float(), beta)
                if weight is not None:
                    loss, slope = loss.mul_(weight[image]), slope.mul_(weight[image])
                total += loss.sum()
                g_part.copy_(slope)

        image, label, row, column, valid = cells
        x = logits[image, label, row, column].float()
        w = torch.ones_like(x) if weight is None else weight[image, row, column]
        with torch.enable_grad():
            x_leaf = x.detach().requires_grad_()
            loss = quality_focal_loss(x_leaf, quality, beta)
            slope, = torch.autograd.grad(loss.sum(), x_leaf)
        change = w * (loss.detach() - _background(x, beta)[0])
        position = ((image * logits.shape[1] + label) * logits.shape[2] + row) * logits.shape[3] + column
        if valid is not None:
            change = torch.where(valid, change, 0)
            position = torch.where(valid, position, logits.numel())
        buffer[position] = (w * slope).to(buffer.dtype)
        ctx.save_for_backward(gradient)
        return (total + change.sum(dtype=torch.float64)).float()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        gradient, = ctx.saved_tensors
        return gradient * grad_output.to(gradient.dtype), None, None, None, None


def _background(x: Tensor, beta: float) -> Tuple[Tensor, Tensor]:
    """QFL at y = 0, sigma^beta softplus(x), and its derivative sigma^(beta+1) + beta (1 - sigma) QFL."""
    sigma = x.sigmoid()
    power = sigma**beta
    loss = F.softplus(x).mul_(power)
    slope = power.mul_(sigma).add_(sigma.neg_().add_(1).mul_(loss), alpha=beta)
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
        total = sum(quality_focal_loss_of_map(*level, self.beta, w) for *level, w in zip(maps, cells, quality, weights))
        return self.loss_weight * reduce_loss(total, None, avg_factor)
