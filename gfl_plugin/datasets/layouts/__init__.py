"""Data sets as users keep them, in COCO, YOLO or Pascal VOC layout, read into COCO's format."""
from .common import Finding, Split
from .find import Data, describe, find_layout

__all__ = ['Data', 'Finding', 'Split', 'describe', 'find_layout']
