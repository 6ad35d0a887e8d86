"""Backbones of timm, and a detector that asks its backbone for the numbers of channels."""
from .detector import SingleStageDetector
from .timm_backbone import TIMMBackbone

__all__ = ['SingleStageDetector', 'TIMMBackbone']
