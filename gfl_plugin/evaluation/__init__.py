"""Metrics."""
from .coco_metric import CocoMetric, FolderMetric

__all__ = ['CocoMetric', 'FolderMetric']
