"""The second axis of the head: what a box side is. One file a kind."""
from .base import Box
from .dirac import DiracDelta
from .gaussian import GaussianDistribution
from .general import GeneralDistribution, Integral

__all__ = ['Box', 'DiracDelta', 'GaussianDistribution', 'GeneralDistribution', 'Integral']
