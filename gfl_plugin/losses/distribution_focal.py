"""Distribution Focal Loss (GFL, arXiv:2006.04388, eq. 6)."""
from torch import Tensor

from ..registry import MODELS
from .weighting import WeightedLoss


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """DFL = -((y_r - y) log S_l + (y - y_l) log S_r), with y_l = floor(y), y_r = y_l + 1: (...), eq. 6.

    The minimum has mass in these two bins only: S_l = y_r - y and S_r = y - y_l.

    Args:
        logits: (..., n+1), S is their softmax.
        target: (...) y in bins. Only 0 <= y < n can be split between two bins, so other targets are clamped.
            (:func:`gfl_plugin.functional.boxes.box_to_distance` has already clamped those of a box.)
    """
    log_s = logits.float().log_softmax(-1)
    n = logits.shape[-1] - 1
    left = target.detach().floor().clamp(0, n - 1)
    y = target.clamp(0, n)
    log_left, log_right = log_s.gather(-1, (left[..., None] + left.new_tensor([0, 1])).long()).unbind(-1)
    return -((left + 1 - y) * log_left + (y - left) * log_right)


@MODELS.register_module()
class DistributionFocalLoss(WeightedLoss):
    """DFL of N distributions. Arguments are MMDetection's: see :class:`WeightedLoss`."""

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N,) of logits (N, n+1) and targets (N,), in bins."""
        return distribution_focal_loss(pred, target)
