"""The likelihood of a side under a Gaussian (as in KL loss, arXiv:1809.08545, eq. 6, before its smoothing)."""
import math
from typing import Tuple

from torch import Tensor

from ..registry import MODELS
from .weighting import WeightedLoss

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


def gaussian_nll_loss(mean: Tensor, log_spread: Tensor, target: Tensor) -> Tensor:
    """NLL = (y - mu)^2 / (2 s^2) + log s + log(2 pi) / 2: (...). For a given mu the minimum is at s = |y - mu|.

    It is negative where the density is above 1, that is, for a good and confident prediction.

    Args:
        mean: (...) mu, in the unit of the target.
        log_spread: (...) log s, s in that unit.
        target: (...) y.
    """
    mean, log_spread = mean.float(), log_spread.float()
    return 0.5 * ((target - mean) * (-log_spread).exp()).square() + log_spread + HALF_LOG_2_PI


@MODELS.register_module()
class GaussianNLLLoss(WeightedLoss):
    """Negative log-likelihood of N sides. Arguments: see :class:`WeightedLoss`."""

    def elementwise(self, pred: Tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        """(N,) of means and log-spreads (N,) each, and targets (N,), in one unit."""
        return gaussian_nll_loss(*pred, target)
