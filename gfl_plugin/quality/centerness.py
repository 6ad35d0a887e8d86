"""The centre-ness branch of FCOS (arXiv:1904.01355) and ATSS (arXiv:1912.02424)."""
from mmdet.utils import ConfigType
from torch import Tensor

from ..functional.boxes import centerness
from ..matches import Positives
from ..registry import QUALITIES
from .branch import CROSS_ENTROPY, FOCAL_LOSS, QualityBranch


@QUALITIES.register_module()
class CenternessBranch(QualityBranch):
    """How close a prior is to the centre of its object. With :class:`DiracDelta` boxes this is ``mmdet.ATSSHead``.

    Args:
        loss_cls: A loss towards labels.
        loss_centerness: A loss of logits (K,) towards targets (K,).
    """
    branch_layer, loss_name = 'atss_centerness', 'loss_centerness'

    def __init__(self, loss_cls: ConfigType = FOCAL_LOSS, loss_centerness: ConfigType = CROSS_ENTROPY) -> None:
        super().__init__(loss_cls, loss_centerness)

    def quality(self, pos: Positives) -> Tensor:
        return centerness(pos.priors.center, pos.gt_boxes)
