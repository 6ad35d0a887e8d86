"""Quality Focal Loss (GFL, arXiv:2006.04388, eq. 2)."""
from typing import Optional, Sequence, Tuple, Union

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import MODELS
from .generalized_focal import modulate
from .sweep import ClassCells, MapLoss, dense_target, loss_of_map, loss_of_maps
from .weighting import reduce_loss


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


def on_maps(beta: float) -> MapLoss:
    """QFL for :mod:`gfl_plugin.losses.sweep`: at y = 0 it is sigma^beta softplus(x)."""
    return MapLoss(gamma=beta, beta=beta)


def quality_focal_loss_of_map(logits: Tensor, cells: ClassCells, quality: Tensor, beta: float = 2.0,
                              weight: Optional[Tensor] = None, scale: Union[Tensor, float] = 1.0) -> Tensor:
    """The sum of QFL over a map (B, C, H, W) with the qualities (K,) at the cells: see :func:`loss_of_map`."""
    return loss_of_map(on_maps(beta), logits, cells, quality, weight, scale)


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
            target = dense_target(*target, pred.shape[1])
        if self.activated:
            pred, target = pred.float(), target.float()
            loss = modulate((target - pred).abs(), self.beta) * F.binary_cross_entropy(pred, target, reduction='none')
        else:
            loss = quality_focal_loss(pred, target, self.beta)
        return self.loss_weight * reduce_loss(loss.sum(1), weight, avg_factor, reduction_override or self.reduction)

    def forward_maps(self, maps: Sequence[Tensor], cells: Sequence[ClassCells], quality: Sequence[Tensor],
                     weight: Optional[Sequence[Tensor]], avg_factor: Tensor) -> Tensor:
        """The same loss, averaged, of L class maps in their own layout: see :func:`loss_of_map`."""
        return loss_of_maps(on_maps(self.beta), maps, cells, quality, weight, avg_factor, self.loss_weight)
