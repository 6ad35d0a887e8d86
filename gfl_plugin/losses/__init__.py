"""Losses, one file per idea: a pure function of tensors, then a thin registered module.

All compute in fp32 whatever the dtype of their input, because sums over 10^7 logits overflow fp16.
"""
from .distribution_focal import DistributionFocalLoss, distribution_focal_loss
from .focal import FocalLoss, focal_loss
from .gaussian import GaussianNLLLoss, gaussian_nll_loss
from .generalized_focal import GeneralizedFocalLoss, generalized_focal_loss
from .iou_loss import CIoULoss, GIoULoss, ciou_loss, giou_loss
from .quality_focal import QualityFocalLoss, quality_focal_loss
from .varifocal import VarifocalLoss, varifocal_loss

__all__ = ['CIoULoss', 'DistributionFocalLoss', 'FocalLoss', 'GIoULoss', 'GaussianNLLLoss', 'GeneralizedFocalLoss',
           'QualityFocalLoss', 'VarifocalLoss', 'ciou_loss', 'distribution_focal_loss', 'focal_loss',
           'gaussian_nll_loss', 'generalized_focal_loss', 'giou_loss', 'quality_focal_loss', 'varifocal_loss']
