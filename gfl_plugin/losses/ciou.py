"""CIoU loss (arXiv:2005.03572, eq. 10 to 13)."""
from torch import Tensor

from ..functional.boxes import ciou
from ..registry import MODELS
from .box_loss import BoxLoss


def ciou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - CIoU, (...), of paired boxes (..., 4) in any one unit."""
    return 1 - ciou(pred.float(), target.float(), eps)


@MODELS.register_module()
class CIoULoss(BoxLoss):
    """CIoU loss; arguments of :class:`BoxLoss`."""
    elementwise = staticmethod(ciou_loss)
