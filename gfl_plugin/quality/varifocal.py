"""The joint score, trained by Varifocal Loss (VarifocalNet, arXiv:2008.13367)."""
from mmdet.utils import ConfigType

from ..registry import QUALITIES
from .base import Quality
from .joint import JointQuality


@QUALITIES.register_module()
class VarifocalQuality(JointQuality):
    """:class:`JointQuality` with VFL instead of QFL. Nothing else differs, so the two can be compared.

    Unlike VarifocalNet, this neither refines boxes nor weights them by IoU; the class score weights them.

    Args:
        loss_cls: A loss towards targets (N, C) in [0, 1].
    """

    def __init__(self, loss_cls: ConfigType = dict(type='gfl_plugin.VarifocalLoss', use_sigmoid=True, alpha=0.75,
                                                   gamma=2.0)) -> None:
        super().__init__(loss_cls)

    loss_of_rows = Quality.loss_of_rows  # mmdet.VarifocalLoss takes no pair of label and score
