"""First axis of the head: what a classification score means. One file per quality."""
from .base import Quality
from .centerness import CenternessBranch
from .distribution_guided import DistributionGuidedQuality
from .iou import IoUBranch
from .joint import JointQuality
from .varifocal import VarifocalQuality

__all__ = ['CenternessBranch', 'DistributionGuidedQuality', 'IoUBranch', 'JointQuality', 'Quality', 'VarifocalQuality']
