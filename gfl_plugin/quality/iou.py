"""The IoU branch (GFL, arXiv:2006.04388, figure 2 and table 1; IoU-aware RetinaNet, arXiv:1912.05992)."""
from mmdet.utils import ConfigType
from torch import Tensor

from ..matches import Positives
from ..registry import QUALITIES
from .branch import CROSS_ENTROPY, FOCAL_LOSS, QualityBranch


@QUALITIES.register_module()
class IoUBranch(QualityBranch):
    """The IoU that a prior's box has with its object.

    Args:
        loss_cls: A loss towards labels.
        loss_iou: A loss of logits (K,) towards targets (K,).
    """
    branch_layer, loss_name = 'atss_iou', 'loss_iou'

    def __init__(self, loss_cls: ConfigType = FOCAL_LOSS, loss_iou: ConfigType = CROSS_ENTROPY) -> None:
        super().__init__(loss_cls, loss_iou)

    def quality(self, pos: Positives) -> Tensor:
        return pos.iou
