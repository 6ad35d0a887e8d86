"""Detection heads: where MMDetection's classes meet the floors below."""
from . import quality  # noqa: F401  (registers its kinds)
from .box import Integral
from .gfl_head import GFLHead


__all__ = ['GFLHead', 'Integral']
