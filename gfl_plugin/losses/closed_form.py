"""What FL, QFL and VFL have in common, and what their fused computation takes."""
from typing import NamedTuple, Optional, Tuple

from torch import Tensor


class ClosedForm(NamedTuple):
    """A loss of class logits x towards targets y.

    Where y = 0 it is ``alpha sigma^gamma softplus(x)``. At positives, where y > 0, it is
    ``(a + b y) |y - sigma|^beta CE(x, y)`` with the binary cross-entropy
    CE(x, y) = -(1 - y) log(1 - sigma) - y log sigma = softplus(x) - x y.
    """
    gamma: float
    beta: float
    alpha: float = 1.0
    factor: Tuple[float, float] = (1.0, 0.0)  # (a, b)


class ClassTargets(NamedTuple):
    """The K positives of one class map (B, C, H, W), no place twice. The target of every other logit is 0."""
    image: Tensor  # (K,) index of the image
    label: Tensor  # (K,) index of the class; any other number makes the slot invalid
    cell: Tensor  # (K,) row * W + column
    score: Tensor  # (K,) target y in [0, 1]
    valid: Optional[Tensor] = None  # (K,) bool, or None if every slot is valid


class DenseMap(NamedTuple):
    """A class map as it lies in memory, and the place of its gradient."""
    x: Tensor  # (B, C, H*W); or, if by channel, (B, H*W, C); contiguous
    # The gradient, flat, and one more number: invalid slots write to it, so nobody has to look which slots are valid.
    buffer: Tensor
    by_channel: bool
