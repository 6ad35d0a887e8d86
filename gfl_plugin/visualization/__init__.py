"""Pictures of detections and of ground truth."""
from .gallery import save_gallery, save_truth
from .pictures import draw_detections

__all__ = ['draw_detections', 'save_gallery', 'save_truth']
