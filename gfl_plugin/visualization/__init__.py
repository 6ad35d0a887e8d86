"""Pictures of detections and of ground truth."""
from .gallery import save_gallery, save_truth

__all__ = ['save_gallery', 'save_truth']
