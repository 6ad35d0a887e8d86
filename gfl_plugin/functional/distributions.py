"""Discrete distributions over the bins 0..n of one box side."""
import torch
from torch import Tensor
from torch.nn.functional import pad


def expectation(logits: Tensor) -> Tensor:
    """Mean bin (...), in bins, of the distributions softmax(logits) with logits (..., n+1) (GFL, eq. 5)."""
    bins = torch.arange(logits.shape[-1], dtype=torch.float32, device=logits.device)
    return logits.float().softmax(-1) @ bins


def expectation_around_peak(logits: Tensor) -> Tensor:
    """Mean bin (...), in bins, of the highest peak alone of the distributions softmax(logits), logits (..., n+1).

    A peak reaches, on either side of its highest bin, as far as the probabilities do not rise again. With a single peak
    it is :func:`expectation`; of two peaks, an object whose side is in doubt, it names one where the mean lies between.
    Of equally high peaks the first counts.
    """
    logits = logits.float()
    bins = torch.arange(logits.shape[-1], device=logits.device)
    peak = logits.argmax(-1, keepdim=True)
    # How often the probabilities have risen, or fallen, on the way from bin 0: no more between a bin and its peak?
    step = logits.diff(dim=-1)
    risen, fallen = (pad(change.int(), (1, 0)).cumsum(-1) for change in (step > 0, step < 0))
    right = (bins >= peak) & (risen == risen.gather(-1, peak))
    left = (bins <= peak) & (fallen == fallen.gather(-1, peak))
    return expectation(logits.masked_fill(~(left | right), -torch.inf))
