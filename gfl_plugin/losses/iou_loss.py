"""Losses of paired boxes: GIoU (arXiv:1902.09630) and CIoU (arXiv:2005.03572, eq. 10 to 13)."""
from typing import Optional

from torch import Tensor

from ..functional.boxes import ciou, giou
from ..registry import MODELS
from .weighting import WeightedLoss


def giou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - GIoU, (...) in [0, 2], of paired boxes (..., 4) in any one unit."""
    return 1 - giou(pred.float(), target.float(), eps)


def ciou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - CIoU, (...), of paired boxes (..., 4) in any one unit."""
    return 1 - ciou(pred.float(), target.float(), eps)


class BoxLoss(WeightedLoss):
    """A loss of paired boxes. Arguments are MMDetection's.

    Args:
        eps: Lower bound of lengths and areas used as divisors, in the unit of the boxes or its square.
        reduction, loss_weight: See :class:`WeightedLoss`.
    """

    def __init__(self, eps: float = 1e-6, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.eps = eps

    def forward(self, pred: Tensor, target: Tensor, weight: Optional[Tensor] = None, *args, **kwargs) -> Tensor:
        """See :class:`WeightedLoss`; ``weight`` may also be (N, 4) with four equal columns, as in MMDetection."""
        return super().forward(pred, target, weight if weight is None or weight.dim() == 1 else weight.mean(-1), *args,
                               **kwargs)


@MODELS.register_module()
class GIoULoss(BoxLoss):
    """GIoU loss; arguments of :class:`BoxLoss`."""

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N,) of boxes (N, 4)."""
        return giou_loss(pred, target, self.eps)


@MODELS.register_module()
class CIoULoss(BoxLoss):
    """CIoU loss; arguments of :class:`BoxLoss`."""

    def elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N,) of boxes (N, 4)."""
        return ciou_loss(pred, target, self.eps)
