"""Detect objects in images: two lines from a checkpoint to boxes."""
from .detector import Detector
from .images import ImageError
from .result import Result

__all__ = ['Detector', 'ImageError', 'Result']
