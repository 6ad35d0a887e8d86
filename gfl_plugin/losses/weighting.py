"""Weight and reduce an elementwise loss as MMDetection's losses do."""
from typing import Optional, Union

import torch
from torch import Tensor

REDUCTIONS = ('none', 'mean', 'sum')


def reduce_loss(loss: Tensor, weight: Optional[Tensor] = None, avg_factor: Union[Tensor, float, None] = None,
                reduction: str = 'mean') -> Tensor:
    """Weight an elementwise loss and reduce it.

    Args:
        loss: (...) elementwise loss.
        weight: Broadcast against ``loss``.
        avg_factor: What the sum is divided by when ``reduction`` is ``'mean'``, instead of the number of elements.
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
    # The epsilon is MMDetection's: an avg_factor of 0 gives no division by zero.
    return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)
