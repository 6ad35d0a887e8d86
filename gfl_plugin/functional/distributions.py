"""Discrete distributions over the bins 0..n of one box side."""
import torch
from torch import Tensor


def expectation(logits: Tensor) -> Tensor:
    """Mean bin (...), in bins, of the distributions softmax(logits) with logits (..., n+1) (GFL, eq. 5)."""
    bins = torch.arange(logits.shape[-1], dtype=torch.float32, device=logits.device)
    return logits.float().softmax(-1) @ bins
