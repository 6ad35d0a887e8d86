"""Varifocal Loss (VarifocalNet, arXiv:2008.13367, eq. 2)."""
import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import MODELS
from .closed_form import ClosedForm, SigmoidLoss
from .generalized_focal import modulate


def varifocal_loss(logits: Tensor, target: Tensor, alpha: float = 0.75, gamma: float = 2.0,
                   iou_weighted: bool = True) -> Tensor:
    """VFL = -q (q log p + (1-q) log(1-p)) for q > 0, -alpha p^gamma log(1-p) for q = 0: (...), eq. 2.

    Only negatives have the focal factor. A positive counts more, the better its box is.

    Training does not run this function. It runs the closed form of the same loss in :mod:`.fused_class_loss`; a test
    ties the two.

    Args:
        logits: (...), p is their sigmoid.
        target: (...) q in [0, 1]: the quality at the true class of a positive, 0 elsewhere.
        alpha: Weight of the negatives.
        gamma: Exponent of their modulating factor, >= 0.
        iou_weighted: Whether positives have the first factor q; without it, the factor is 1.
    """
    logits, q = logits.float(), target.float()
    positive = q if iou_weighted else torch.ones_like(q)
    factor = torch.where(q > 0, positive, alpha * modulate(logits.sigmoid(), gamma))
    return factor * F.binary_cross_entropy_with_logits(logits, q, reduction='none')


@MODELS.register_module()
class VarifocalLoss(SigmoidLoss):
    """VFL of N priors and C classes. Arguments are MMDetection's.

    Args:
        alpha: Weight of the negatives, >= 0.
        gamma: Exponent of their modulating factor, >= 0.
        iou_weighted: Whether a positive is weighted by its quality.
        use_sigmoid, reduction, loss_weight: See :class:`SigmoidLoss`.
    """

    def __init__(self, use_sigmoid: bool = True, alpha: float = 0.75, gamma: float = 2.0, iou_weighted: bool = True,
                 reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(use_sigmoid, reduction, loss_weight, alpha=alpha, gamma=gamma)
        self.iou_weighted = iou_weighted

    def constants_of_form(self) -> ClosedForm:
        return ClosedForm(self.gamma, 0.0, self.alpha, (0.0, 1.0) if self.iou_weighted else (1.0, 0.0))

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, C) of logits (N, C) and qualities (N, C)."""
        return varifocal_loss(pred, target, self.alpha, self.gamma, self.iou_weighted)
