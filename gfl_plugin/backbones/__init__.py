"""Backbones beside MMDetection's, and a detector that asks its backbone what it gives."""
from .detector import SingleStageDetector
from .timm_backbone import TIMMBackbone

__all__ = ['SingleStageDetector', 'TIMMBackbone']
