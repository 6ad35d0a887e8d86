"""Quality Focal Loss (GFL, arXiv:2006.04388, eq. 2)."""
from typing import Optional, Tuple, Union

import torch.nn.functional as F
from torch import Tensor

from ..registry import MODELS
from .closed_form import ClosedForm
from .generalized_focal import modulate
from .weighting import WeightedLoss, dense_target


def quality_focal_loss(logits: Tensor, target: Tensor, beta: float = 2.0) -> Tensor:
    """QFL = -|y - sigma|^beta ((1 - y) log(1 - sigma) + y log sigma): (...), eq. 2. The minimum is at sigma = y.

    Training does not run this function. It runs the closed form of the same loss in :mod:`.fused_class_loss`; a test
    ties the two.

    Args:
        logits: (...), sigma is their sigmoid.
        target: (...) y in [0, 1]: the quality at the true class of a positive, 0 elsewhere.
        beta: Exponent of the modulating factor, >= 0.
    """
    logits, target = logits.float(), target.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction='none')
    return modulate((target - logits.sigmoid()).abs(), beta) * cross_entropy


@MODELS.register_module()
class QualityFocalLoss(WeightedLoss):
    """QFL of N priors and C classes. Arguments are MMDetection's.

    Args:
        use_sigmoid: Must be True; MMDetection's heads read it.
        beta: Exponent of the modulating factor, >= 0.
        reduction, loss_weight: See :class:`WeightedLoss`.
        activated: Whether predictions are probabilities rather than logits.

    Raises:
        ValueError: ``use_sigmoid`` is False or ``beta`` negative.
    """

    def __init__(self, use_sigmoid: bool = True, beta: float = 2.0, reduction: str = 'mean', loss_weight: float = 1.0,
                 activated: bool = False) -> None:
        super().__init__(reduction, loss_weight)
        if not use_sigmoid:
            raise ValueError('QualityFocalLoss is defined on sigmoids: use_sigmoid must be True')
        if beta < 0:
            raise ValueError(f'beta={beta} is negative')
        self.use_sigmoid, self.beta, self.activated = use_sigmoid, beta, activated

    @property
    def closed_form(self) -> Optional[ClosedForm]:
        """What the head computes in place of :meth:`forward`.

        ``None`` where :meth:`forward` must run: for a subclass, another reduction than the mean, or probabilities.
        """
        if type(self) is not QualityFocalLoss or self.reduction != 'mean' or self.activated:
            return None
        return ClosedForm(gamma=self.beta, beta=self.beta)

    def forward(self, pred: Tensor, target: Union[Tensor, Tuple[Tensor, Tensor]], weight: Optional[Tensor] = None,
                avg_factor=None, reduction_override: Optional[str] = None) -> Tensor:
        """QFL of each prior, summed over its classes, then weighted and reduced.

        Args:
            pred: (N, C) logits, or probabilities if ``activated``.
            target: (N,) labels with (N,) qualities, where other labels than 0..C-1 mean background; or (N, C) qualities.
            weight: (N,).
            avg_factor: Divisor of the sum for ``'mean'``.
            reduction_override: Replaces ``reduction``.
        """
        reduction = self.choose_reduction(reduction_override)
        if not isinstance(target, Tensor):
            target = dense_target(*target, pred.shape[1])
        if self.activated:
            pred, target = pred.float(), target.float()
            loss = modulate((target - pred).abs(), self.beta) * F.binary_cross_entropy(pred, target, reduction='none')
        else:
            loss = quality_focal_loss(pred, target, self.beta)
        return self.reduce(loss.sum(1), weight, avg_factor, reduction)
