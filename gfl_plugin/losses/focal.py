"""Focal Loss (arXiv:1708.02002, eq. 5)."""
from typing import Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import MODELS
from .generalized_focal import modulate
from .sweep import ClassCells, MapLoss, dense_target, loss_of_maps
from .weighting import reduce_loss


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """FL = -alpha_t (1 - p_t)^gamma log p_t: (...), eq. 5.

    Args:
        logits: (...), p is their sigmoid; p_t is p where the target is 1, and 1 - p where it is 0.
        target: (...) of 0 or 1.
        gamma: Exponent of the modulating factor, >= 0.
        alpha: alpha_t where the target is 1; it is 1 - alpha where it is 0.
    """
    logits, target = logits.float(), target.float()
    alpha_t = alpha * target + (1 - alpha) * (1 - target)
    # |y - p| is 1 - p_t for y in {0, 1}, with no difference of nearly equal numbers.
    modulating = modulate((target - logits.sigmoid()).abs(), gamma)
    return alpha_t * modulating * F.binary_cross_entropy_with_logits(logits, target, reduction='none')


@MODELS.register_module()
class FocalLoss(nn.Module):
    """FL of N priors and C classes; arguments as MMDetection's.

    Args:
        use_sigmoid: Must be True; MMDetection's heads read it.
        gamma: Exponent of the modulating factor, >= 0.
        alpha: Weight of a prior's own class, in [0, 1]; that of all others is 1 - alpha.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: What the loss is multiplied by.

    Raises:
        ValueError: ``use_sigmoid`` is False, ``gamma`` negative or ``alpha`` outside [0, 1].
    """

    def __init__(self, use_sigmoid: bool = True, gamma: float = 2.0, alpha: float = 0.25, reduction: str = 'mean',
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError('FocalLoss is defined on sigmoids: use_sigmoid must be True')
        if gamma < 0:
            raise ValueError(f'gamma={gamma} is negative')
        if not 0 <= alpha <= 1:
            raise ValueError(f'alpha={alpha} is outside [0, 1]')
        self.use_sigmoid, self.gamma, self.alpha = use_sigmoid, gamma, alpha
        self.reduction, self.loss_weight = reduction, loss_weight

    def forward(self, pred: Tensor, target: Tensor, weight: Optional[Tensor] = None, avg_factor=None,
                reduction_override: Optional[str] = None) -> Tensor:
        """FL of each prior and class, weighted and reduced.

        Args:
            pred: (N, C) logits.
            target: (N,) labels, C or negative for background; or (N, C) of 0 or 1.
            weight: (N,) or (N, C).
            avg_factor: Divisor of the sum for ``'mean'``.
            reduction_override: Instead of ``reduction``.
        """
        if target.dim() < pred.dim():
            target = dense_target(target, torch.ones_like(target), pred.shape[1])
        if weight is not None and weight.dim() < pred.dim():
            weight = weight[:, None]
        loss = focal_loss(pred, target, self.gamma, self.alpha)
        return self.loss_weight * reduce_loss(loss, weight, avg_factor, reduction_override or self.reduction)

    def forward_maps(self, maps: Sequence[Tensor], cells: Sequence[ClassCells], target: Sequence[Tensor],
                     weight: Optional[Sequence[Tensor]], avg_factor: Tensor) -> Tensor:
        """The same loss, averaged, of L class maps in their own layout: see :func:`loss_of_map`."""
        kind = MapLoss(self.gamma, self.gamma, 1 - self.alpha, (self.alpha, 0.0))
        return loss_of_maps(kind, maps, cells, target, weight, avg_factor, self.loss_weight)
