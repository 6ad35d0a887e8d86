"""Data sets."""
from .coco import CocoDataset

__all__ = ['CocoDataset']
