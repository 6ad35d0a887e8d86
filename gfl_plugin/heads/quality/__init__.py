"""The first axis of the head: what the classification score means, and what it is multiplied by. One file a kind."""
from .base import Quality
from .centerness import CenternessBranch
from .iou import IoUBranch
from .joint import JointQuality
from .varifocal import VarifocalQuality

__all__ = ['CenternessBranch', 'IoUBranch', 'JointQuality', 'Quality', 'VarifocalQuality']
