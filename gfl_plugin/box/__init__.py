"""Second axis of the head: what one side of a box is. One file per box."""
from .base import Box
from .dirac import DiracDelta
from .gaussian import GaussianDistribution
from .general import GeneralDistribution, Integral

__all__ = ['Box', 'DiracDelta', 'GaussianDistribution', 'GeneralDistribution', 'Integral']
