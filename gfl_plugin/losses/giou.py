"""GIoU loss (arXiv:1902.09630)."""
from torch import Tensor

from ..functional.boxes import giou
from ..registry import MODELS
from .box_loss import BoxLoss


def giou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - GIoU, (...) in [0, 2], of paired boxes (..., 4) in any one unit."""
    return 1 - giou(pred.float(), target.float(), eps)


@MODELS.register_module()
class GIoULoss(BoxLoss):
    """GIoU loss; arguments of :class:`BoxLoss`."""
    elementwise = staticmethod(giou_loss)
