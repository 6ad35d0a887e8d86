"""One score for class and localisation (GFL, arXiv:2006.04388, section 3.1)."""
from typing import Dict, List, Optional, Tuple

from mmdet.utils import ConfigType
from torch import Tensor

from ...functional.boxes import iou
from ...functional.priors import read_maps
from ...registry import QUALITIES
from ...targets import Positives, Targets
from .base import Quality


@QUALITIES.register_module()
class JointQuality(Quality):
    """The score of a class is the IoU that the box will have with an object of it, or 0; there is no branch.

    Args:
        loss_cls: A loss towards targets in [0, 1].
    """

    def __init__(self, loss_cls: ConfigType = dict(type='gfl_plugin.QualityFocalLoss', use_sigmoid=True,
                                                   beta=2.0)) -> None:
        super().__init__(loss_cls)

    def forward(self, cls_scores: List[Tensor], branch: Optional[List[Tensor]], targets: Targets,
                positives: Positives) -> Tuple[Dict[str, Tensor], Tensor]:
        quality = iou(positives.decoded.detach(), positives.box)
        # A positive counts in the box losses by how sure of it the classification is (not in the paper).
        weight = read_maps([c.detach() for c in cls_scores], positives.cells).float().amax(1).sigmoid()
        return dict(loss_cls=self.loss_of_classes(cls_scores, targets, positives.cells, quality)), weight

    def loss_of_rows(self, logits: Tensor, label: Tensor, score: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
        return self.loss_cls(logits, (label, score), weight=weight, avg_factor=factor)
