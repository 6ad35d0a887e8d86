"""One score for class and localisation quality (GFL, arXiv:2006.04388, section 3.1)."""
from typing import Dict, Tuple

from mmdet.utils import ConfigType
from torch import Tensor

from ..matches import Matches, Positives
from ..predictions import Predictions
from ..registry import QUALITIES
from .base import Quality


@QUALITIES.register_module()
class JointQuality(Quality):
    """The score of a class is the IoU that the box has with an object of this class, and 0 elsewhere. No branch.

    A soft score of the assigner, such as the alignment of TaskAlignedAssigner, replaces the IoU.

    Args:
        loss_cls: A loss towards targets in [0, 1].
    """
    def __init__(self, loss_cls: ConfigType = dict(type='gfl_plugin.QualityFocalLoss', use_sigmoid=True,
                                                   beta=2.0)) -> None:
        super().__init__(loss_cls)

    def targets(self, pred: Predictions, m: Matches, at: Positives) -> Tuple[Tensor, Tensor]:
        if m.score is not None:
            return m.score, m.score  # TOOD, arXiv:2108.07755, eq. 7 and 8: it weights the box losses too
        # As in MMDetection, not in the paper: a positive's box counts by the largest class score there.
        return at.iou, pred.cls_at(m).detach().amax(1).sigmoid()

    def losses(self, pred: Predictions, m: Matches, at: Positives, score: Tensor, norm: Tensor) -> Dict[str, Tensor]:
        return dict(loss_cls=self.class_loss(pred, m, at.labels, score, norm))

    def loss_of_rows(self, logits: Tensor, label: Tensor, score: Tensor, weight: Tensor, norm: Tensor) -> Tensor:
        return self.loss_cls(logits, (label, score), weight=weight, avg_factor=norm)
