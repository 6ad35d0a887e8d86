"""Pictures of detections and of ground truth."""
from .distributions import draw_distributions
from .gallery import save_gallery, save_truth
from .pictures import draw_detections

__all__ = ['draw_detections', 'draw_distributions', 'save_gallery', 'save_truth']
