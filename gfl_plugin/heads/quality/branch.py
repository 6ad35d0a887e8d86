"""Class and localisation apart: labels for the one, a map of its own for the other."""
from typing import Dict, List, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor

from ...functional.priors import read_maps
from ...targets import Positives, Targets
from .base import Quality

FOCAL_LOSS = dict(type='gfl_plugin.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)
CROSS_ENTROPY = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True)


class QualityBranch(Quality):
    """A branch learns, at positives alone, a quality in [0, 1] by binary cross-entropy; classes are learnt as labels.

    What the branch learns also weights the positives in the box losses, as MMDetection's ATSSHead does.

    A kind gives :meth:`quality`, and the names of its layer and loss.
    """
    cls_layer = 'atss_cls'
    loss_name: str

    def __init__(self, loss_cls: ConfigType, loss_branch: ConfigType) -> None:
        super().__init__(loss_cls)
        self.loss_branch = MODELS.build(loss_branch)

    def quality(self, positives: Positives) -> Tensor:
        """(K,) what the branch should say, in [0, 1], without gradient."""
        raise NotImplementedError

    def forward(self, cls_scores: List[Tensor], branch: List[Tensor], targets: Targets,
                positives: Positives) -> Tuple[Dict[str, Tensor], Tensor]:
        quality = self.quality(positives)
        logits = read_maps(branch, positives.cells).float()[:, 0]
        valid = None if targets.valid is None else targets.valid.float()
        return {
            'loss_cls': self.loss_of_classes(cls_scores, targets, positives.cells, torch.ones_like(quality)),
            self.loss_name: self.loss_branch(logits, quality, weight=valid, avg_factor=targets.num_positives)
        }, quality

    def loss_of_rows(self, logits: Tensor, label: Tensor, score: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
        return self.loss_cls(logits, label, weight=weight, avg_factor=factor)
