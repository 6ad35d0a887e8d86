"""What FL, QFL and VFL have in common, and what their fused computation takes."""
from typing import NamedTuple, Optional, Tuple

from torch import Tensor

from .weighting import WeightedLoss


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
    """The K positives of one class map (B, C, H, W), each place at most once. The target of every other logit is 0."""
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


class SigmoidLoss(WeightedLoss):
    """A classification loss on sigmoids that the head can compute by its closed form.

    Args:
        use_sigmoid: Must be True; MMDetection's heads read it.
        reduction, loss_weight: See :class:`WeightedLoss`.
        constants: Numbers >= 0 of the loss, which become attributes.

    Raises:
        ValueError: ``use_sigmoid`` is False or a constant is negative.
    """

    def __init__(self, use_sigmoid: bool, reduction: str, loss_weight: float, **constants: float) -> None:
        super().__init__(reduction, loss_weight)
        if not use_sigmoid:
            raise ValueError(f'{type(self).__name__} is defined on sigmoids: use_sigmoid must be True')
        for name, value in constants.items():
            if value < 0:
                raise ValueError(f'{name}={value} is negative')
            setattr(self, name, value)
        self.use_sigmoid = use_sigmoid

    def constants_of_form(self) -> Optional[ClosedForm]:
        """The closed form of :meth:`elementwise`, or None if these settings have none."""

    @property
    def closed_form(self) -> Optional[ClosedForm]:
        """What the head computes in place of :meth:`forward`, or None where :meth:`forward` must run.

        It must run for another reduction than the mean, and for a subclass, which may have changed it.
        """
        is_own = 'constants_of_form' in vars(type(self))
        return self.constants_of_form() if is_own and self.reduction == 'mean' else None
