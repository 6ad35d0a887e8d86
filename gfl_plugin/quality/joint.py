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

    If the assigner gives a soft score, as TaskAlignedAssigner does, it replaces the IoU and weights the box losses, and
    the class loss is divided by its sum.

    Args:
        loss_cls: A loss towards targets in [0, 1].
    """
    def __init__(self, loss_cls: ConfigType = dict(type='gfl_plugin.QualityFocalLoss', use_sigmoid=True,
                                                   beta=2.0)) -> None:
        super().__init__(loss_cls)

    def normaliser(self, matches: Matches) -> Tensor:
        return matches.num_positives if matches.soft_score is None else matches.soft_score.sum()

    def targets(self, pred: Predictions, matches: Matches, pos: Positives) -> Tuple[Tensor, Tensor]:
        if matches.soft_score is not None:
            return matches.soft_score, matches.soft_score  # TOOD, arXiv:2108.07755, eq. 7 and 8
        # As in MMDetection, not in the paper: a positive's box counts by the largest class score there.
        return pos.iou, pred.cls_at(matches).detach().amax(1).sigmoid()

    def losses(self, pred: Predictions, matches: Matches, pos: Positives, target: Tensor,
               norm: Tensor) -> Dict[str, Tensor]:
        return dict(loss_cls=self.class_loss(pred, matches, pos.labels, target, norm))

    def loss_of_rows(self, logits: Tensor, label: Tensor, target: Tensor, weight: Tensor, norm: Tensor) -> Tensor:
        return self.loss_cls(logits, (label, target), weight=weight, avg_factor=norm)
