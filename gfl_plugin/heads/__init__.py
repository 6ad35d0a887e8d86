"""Detection heads: where MMDetection's classes meet the floors below."""
from .gfl_head import GFLHead
from .gflv2_head import GFLV2Head

__all__ = ['GFLHead', 'GFLV2Head']
