"""Detection heads: where MMDetection's classes meet the floors below."""
from .gfl_head import GFLHead, Integral

__all__ = ['GFLHead', 'Integral']
