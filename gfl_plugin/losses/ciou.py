"""CIoU loss (arXiv:2005.03572, eq. 10 to 13)."""
from typing import Optional

from torch import Tensor, nn

from ..functional.boxes import ciou
from ..registry import MODELS
from .weighting import reduce_loss


def ciou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - CIoU, (...), of paired boxes (..., 4) in any one unit."""
    return 1 - ciou(pred.float(), target.float(), eps)


@MODELS.register_module()
class CIoULoss(nn.Module):
    """CIoU loss of paired boxes; arguments as MMDetection's.

    Args:
        eps: Lower bound on lengths and areas that are divided by, in the unit of the boxes.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: What the loss is multiplied by.
    """

    def __init__(self, eps: float = 1e-6, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.eps, self.reduction, self.loss_weight = eps, reduction, loss_weight

    def forward(self, pred: Tensor, target: Tensor, weight: Optional[Tensor] = None, avg_factor=None,
                reduction_override: Optional[str] = None) -> Tensor:
        """``pred`` and ``target`` are (N, 4) boxes, ``weight`` (N,) or, all four alike, (N, 4)."""
        if weight is not None and weight.dim() > 1:
            weight = weight.mean(-1)
        loss = ciou_loss(pred, target, self.eps)
        return self.loss_weight * reduce_loss(loss, weight, avg_factor, reduction_override or self.reduction)
