"""Focal Loss (arXiv:1708.02002, eq. 5)."""
import torch.nn.functional as F
from torch import Tensor

from ..registry import MODELS
from .closed_form import ClosedForm, SigmoidLoss
from .generalized_focal import modulate
from .weighting import as_dense


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """FL = -alpha_t (1 - p_t)^gamma log p_t: (...), eq. 5.

    Training does not run this function. It runs the closed form of the same loss in :mod:`.fused_class_loss`; a test
    ties the two.

    Args:
        logits: (...), p is their sigmoid; p_t is p where the target is 1, and 1 - p where it is 0.
        target: (...) of 0 or 1.
        gamma: Exponent of the modulating factor, >= 0.
        alpha: alpha_t where the target is 1; it is 1 - alpha where it is 0.
    """
    logits, target = logits.float(), target.float()
    alpha_t = alpha * target + (1 - alpha) * (1 - target)
    # |y - p| is 1 - p_t for y in {0, 1}, without subtracting nearly equal numbers.
    modulating = modulate((target - logits.sigmoid()).abs(), gamma)
    return alpha_t * modulating * F.binary_cross_entropy_with_logits(logits, target, reduction='none')


@MODELS.register_module()
class FocalLoss(SigmoidLoss):
    """FL of N priors and C classes. Arguments are MMDetection's.

    Args:
        gamma: Exponent of the modulating factor, >= 0.
        alpha: Weight of a prior's own class, in [0, 1]. The weight of all others is 1 - alpha.
        use_sigmoid, reduction, loss_weight: See :class:`SigmoidLoss`.

    Raises:
        ValueError: ``alpha`` is outside [0, 1].
    """

    def __init__(self, use_sigmoid: bool = True, gamma: float = 2.0, alpha: float = 0.25, reduction: str = 'mean',
                 loss_weight: float = 1.0) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f'alpha={alpha} is outside [0, 1]')
        super().__init__(use_sigmoid, reduction, loss_weight, gamma=gamma, alpha=alpha)

    def constants_of_form(self) -> ClosedForm:
        return ClosedForm(self.gamma, self.gamma, 1 - self.alpha, (self.alpha, 0.0))

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, C) of logits (N, C) and targets: labels (N,), where others than 0..C-1 mean background, or (N, C)."""
        return focal_loss(pred, as_dense(target, pred), self.gamma, self.alpha)
