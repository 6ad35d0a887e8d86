"""Pictures of detections."""
from .gallery import save_gallery

__all__ = ['save_gallery']
