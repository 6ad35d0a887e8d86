"""Quality Focal Loss (GFL, arXiv:2006.04388, eq. 2)."""
from typing import Optional, Tuple, Union

import torch.nn.functional as F
from torch import Tensor

from ..registry import MODELS
from .closed_form import ClosedForm, SigmoidLoss
from .generalized_focal import modulate
from .weighting import as_dense


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
class QualityFocalLoss(SigmoidLoss):
    """QFL of N priors and C classes. Arguments are MMDetection's.

    Args:
        beta: Exponent of the modulating factor, >= 0.
        use_sigmoid, reduction, loss_weight: See :class:`SigmoidLoss`.
        activated: Whether predictions are probabilities rather than logits.
    """

    def __init__(self, use_sigmoid: bool = True, beta: float = 2.0, reduction: str = 'mean', loss_weight: float = 1.0,
                 activated: bool = False) -> None:
        super().__init__(use_sigmoid, reduction, loss_weight, beta=beta)
        self.activated = activated

    def constants_of_form(self) -> Optional[ClosedForm]:
        return None if self.activated else ClosedForm(gamma=self.beta, beta=self.beta)

    def elementwise(self, pred: Tensor, target: Union[Tensor, Tuple[Tensor, Tensor]]) -> Tensor:
        """(N,) QFL of each prior, summed over its classes.

        Args:
            pred: (N, C) logits, or probabilities if ``activated``.
            target: (N, C) qualities; or (N,) labels and (N,) qualities, where labels outside 0..C-1 mean background.
        """
        target = as_dense(target, pred)
        if not self.activated:
            return quality_focal_loss(pred, target, self.beta).sum(1)
        pred, target = pred.float(), target.float()
        cross_entropy = F.binary_cross_entropy(pred, target, reduction='none')
        return (modulate((target - pred).abs(), self.beta) * cross_entropy).sum(1)
