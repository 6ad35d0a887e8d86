"""Data sets."""
from .coco import CocoDataset
from .shapes import ShapesDataset

__all__ = ['CocoDataset', 'ShapesDataset']
