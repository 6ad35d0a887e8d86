"""Detection heads: where MMDetection's classes meet the floors below."""
from .gfl_head import GFLHead
from .gflv2_head import GFLV2Head
from .test_time_augmentation import DetTTAModel

__all__ = ['DetTTAModel', 'GFLHead', 'GFLV2Head']
