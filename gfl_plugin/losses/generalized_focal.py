"""Generalized Focal Loss in its unified form (GFL, arXiv:2006.04388, eq. 7)."""
from typing import Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import MODELS
from .weighting import WeightedLoss, as_dense


def generalized_focal_loss(log_p_left: Tensor, log_p_right: Tensor, target: Tensor, y_left, y_right,
                           beta: float = 2.0) -> Tensor:
    """GFL = -|y - (y_l p_l + y_r p_r)|^beta ((y_r - y) log p_l + (y - y_l) log p_r): (...), eq. 7.

    FL, QFL and DFL are its special cases: (y_l, y_r) = (0, 1) with y in {0, 1}, the same with y in [0, 1], and
    (y_l, y_r) = (i, i + 1) with beta = 0.

    Args:
        log_p_left, log_p_right: (...) logarithms of the two probabilities.
        target: (...) y, in [y_l, y_r].
        y_left, y_right: The two values, numbers or (...).
        beta: Exponent of the modulating factor, >= 0.
    """
    cross_entropy = -((y_right - target) * log_p_left + (target - y_left) * log_p_right)
    distance = (target - (y_left * log_p_left.exp() + y_right * log_p_right.exp())).abs()
    return modulate(distance, beta) * cross_entropy


def modulate(distance: Tensor, beta: float) -> Tensor:
    """|distance|^beta for beta >= 0, with a gradient of 0 rather than NaN where the distance is 0.

    For beta < 1 the derivative of the power is infinite at 0, where the loss itself is 0.
    """
    if beta == 0:
        return torch.ones_like(distance)
    if beta >= 1:
        return distance**beta
    return torch.where(distance > 0, distance.clamp(min=torch.finfo(distance.dtype).tiny)**beta, 0 * distance)


@MODELS.register_module()
class GeneralizedFocalLoss(WeightedLoss):
    """The unified loss between two neighbouring values, on a logit: p_r = sigmoid(logit), p_l = 1 - p_r.

    Args:
        y_left, y_right: The two values. (0, 1) gives QFL, and FL (without alpha) if the targets are 0 or 1.
        beta: Exponent of the modulating factor, >= 0.
        reduction, loss_weight: See :class:`WeightedLoss`.

    Raises:
        ValueError: ``beta`` is negative or ``y_left`` not below ``y_right``.
    """

    def __init__(self, y_left: float = 0.0, y_right: float = 1.0, beta: float = 2.0, reduction: str = 'mean',
                 loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        if beta < 0:
            raise ValueError(f'beta={beta} is negative')
        if y_left >= y_right:
            raise ValueError(f'y_left={y_left} is not below y_right={y_right}')
        self.y_left, self.y_right, self.beta = y_left, y_right, beta

    def elementwise(self, pred: Tensor, target: Union[Tensor, Tuple[Tensor, Tensor]]) -> Tensor:
        """(...) of logits (...) and targets (...) in [y_left, y_right].

        As a head's classification loss it takes (N, C) logits and (N,) labels, or labels and scores (N,). Labels
        outside 0..C-1 mean background.
        """
        pred, target = pred.float(), as_dense(target, pred).float()
        return generalized_focal_loss(F.logsigmoid(-pred), F.logsigmoid(pred), target, self.y_left, self.y_right,
                                      self.beta)
