"""Detection heads: where MMDetection's classes meet the floors below."""
from . import quality  # noqa: F401  (registers its kinds)
from .box import Integral
from .gfl_head import GFLHead
from .gflv2_head import GFLV2Head

__all__ = ['GFLHead', 'GFLV2Head', 'Integral']
