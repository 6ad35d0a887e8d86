"""Data sets."""
from .coco import CocoDataset
from .folder import FolderDataset
from .shapes import ShapesDataset

__all__ = ['CocoDataset', 'FolderDataset', 'ShapesDataset']
