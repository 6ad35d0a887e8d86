"""Discrete distributions over the bins 0..n of one box side."""
import torch
from torch import Tensor
from torch.nn.functional import pad


def expectation(logits: Tensor) -> Tensor:
    """Mean bin (...), in bins, of the distributions softmax(logits) with logits (..., n+1) (GFL, eq. 5)."""
    return logits.float().softmax(-1) @ _bins(logits)


def standard_deviation(logits: Tensor) -> Tensor:
    """Standard deviation (...), in bins, of the distributions softmax(logits) with logits (..., n+1).

    It sums squares, so that rounding cannot make the variance negative. All mass in one bin gives 0.
    """
    probability, bins = logits.float().softmax(-1), _bins(logits)
    mean = probability @ bins
    return (probability * (bins - mean[..., None]).square()).sum(-1).sqrt()


def expectation_around_peak(logits: Tensor) -> Tensor:
    """Mean bin (...), in bins, of only the highest peak of the distributions softmax(logits), logits (..., n+1).

    A peak extends from its highest bin to both sides, as far as the probabilities do not rise again. A distribution
    with one peak gives its :func:`expectation`. With two peaks, the side of an object is in doubt: this names one of
    the two places, and the mean lies between them. Of equally high peaks the first counts.
    """
    logits = logits.float()
    bins = torch.arange(logits.shape[-1], device=logits.device)
    peak = logits.argmax(-1, keepdim=True)
    # Cumulative number of rises (falls) up to each bin. A bin belongs to the peak if no rise (fall) lies between them.
    step = logits.diff(dim=-1)
    risen, fallen = (pad(change.int(), (1, 0)).cumsum(-1) for change in (step > 0, step < 0))
    right = (bins >= peak) & (risen == risen.gather(-1, peak))
    left = (bins <= peak) & (fallen == fallen.gather(-1, peak))
    return expectation(logits.masked_fill(~(left | right), -torch.inf))


def _bins(logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[-1], dtype=torch.float32, device=logits.device)
