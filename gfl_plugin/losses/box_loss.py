"""What the losses of paired boxes share."""
from typing import Optional

from torch import Tensor, nn

from .weighting import reduce_loss


class BoxLoss(nn.Module):
    """A loss of paired boxes; arguments as MMDetection's. A subclass gives :meth:`elementwise`.

    Args:
        eps: Lower bound on lengths and areas that are divided by, in the unit of the boxes or its square.
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
        loss = self.elementwise(pred, target, self.eps)
        return self.loss_weight * reduce_loss(loss, weight, avg_factor, reduction_override or self.reduction)

    def elementwise(self, pred: Tensor, target: Tensor, eps: float) -> Tensor:
        """(N,) of (N, 4) boxes."""
        raise NotImplementedError
