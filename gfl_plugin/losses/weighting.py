"""Weights, reduction and targets of a loss, as MMDetection's losses have them."""
from typing import Optional, Tuple, Union

import torch
from torch import Tensor, nn

REDUCTIONS = ('none', 'mean', 'sum')
# MMDetection's: with it, an avg_factor of 0 gives no division by zero.
EPS = torch.finfo(torch.float32).eps


class WeightedLoss(nn.Module):
    """An elementwise loss, weighted and reduced. A subclass gives :meth:`elementwise`.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the result.
    """

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction, self.loss_weight = reduction, loss_weight

    def forward(self, pred, target, weight: Optional[Tensor] = None, avg_factor: Union[Tensor, float, None] = None,
                reduction_override: Optional[str] = None) -> Tensor:
        """The loss, with MMDetection's signature.

        Args:
            pred, target: See :meth:`elementwise`.
            weight: Of the shape of the elementwise loss, or (N,).
            avg_factor: Divisor of the sum for ``'mean'``, in place of the number of elements.
            reduction_override: Replaces ``reduction``.
        """
        assert reduction_override is None or reduction_override in REDUCTIONS, \
            f'reduction_override={reduction_override!r} is not one of {REDUCTIONS}'
        loss = self.elementwise(pred, target)
        if weight is not None and weight.dim() < loss.dim():
            weight = weight[:, None]
        return self.loss_weight * reduce_loss(loss, weight, avg_factor, reduction_override or self.reduction)

    def elementwise(self, pred, target) -> Tensor:
        """The loss without weights, unreduced."""
        raise NotImplementedError


def reduce_loss(loss: Tensor, weight: Optional[Tensor] = None, avg_factor: Union[Tensor, float, None] = None,
                reduction: str = 'mean') -> Tensor:
    """Weight an elementwise loss and reduce it.

    Args:
        loss: (...) elementwise loss.
        weight: Broadcast against ``loss``.
        avg_factor: Divisor of the sum for ``'mean'``, in place of the number of elements.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Raises:
        ValueError: Unknown ``reduction``, or ``avg_factor`` together with ``'sum'``.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f'reduction is {reduction!r}, not one of {REDUCTIONS}')
    if weight is not None:
        loss = loss * weight
    if reduction == 'none':
        return loss
    if avg_factor is None:
        return loss.mean() if reduction == 'mean' else loss.sum()
    if reduction == 'sum':
        raise ValueError('avg_factor has no meaning with reduction="sum"')
    return loss.sum() / (avg_factor + EPS)


def as_dense(target: Union[Tensor, Tuple[Tensor, Tensor]], pred: Tensor) -> Tensor:
    """(N, C) targets for predictions (N, C): from labels (N,), from labels and scores (N,), or as they are."""
    if isinstance(target, Tensor):
        return target if target.dim() == pred.dim() else dense_target(target, torch.ones_like(target), pred.shape[1])
    return dense_target(*target, pred.shape[1])


def dense_target(label: Tensor, score: Tensor, num_classes: int) -> Tensor:
    """(N, C) targets: ``score`` (N,) at the class ``label`` (N,), 0 elsewhere. Other labels mean background."""
    is_class = label[:, None] == torch.arange(num_classes, device=label.device)
    return torch.where(is_class, score[:, None].float(), 0)
