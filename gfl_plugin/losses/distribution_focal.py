"""Distribution Focal Loss (GFL, arXiv:2006.04388, eq. 6)."""
from typing import Optional

from torch import Tensor, nn

from ..registry import MODELS
from .weighting import reduce_loss


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """DFL = -((y_r - y) log S_l + (y - y_l) log S_r), with y_l = floor(y), y_r = y_l + 1: (...), eq. 6.

    Least where the distribution has exactly these two bins, S_l = y_r - y and S_r = y - y_l.

    Args:
        logits: (..., n+1), S is their softmax.
        target: (...) y in bins. 0 <= y < n is what can be split between two bins; targets outside are clamped into it
            (:func:`gfl_plugin.functional.boxes.box_to_distance` has done so already for those of a box).
    """
    log_s = logits.float().log_softmax(-1)
    n = logits.shape[-1] - 1
    left = target.detach().floor().clamp(0, n - 1)
    y = target.clamp(0, n)
    log_left, log_right = log_s.gather(-1, (left[..., None] + left.new_tensor([0, 1])).long()).unbind(-1)
    return -((left + 1 - y) * log_left + (y - left) * log_right)


@MODELS.register_module()
class DistributionFocalLoss(nn.Module):
    """DFL of N distributions; arguments as MMDetection's.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: What the loss is multiplied by.
    """

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction, self.loss_weight = reduction, loss_weight

    def forward(self, pred: Tensor, target: Tensor, weight: Optional[Tensor] = None, avg_factor=None,
                reduction_override: Optional[str] = None) -> Tensor:
        """``pred`` is (N, n+1) logits, ``target`` (N,) bins, ``weight`` (N,)."""
        loss = distribution_focal_loss(pred, target)
        return self.loss_weight * reduce_loss(loss, weight, avg_factor, reduction_override or self.reduction)
