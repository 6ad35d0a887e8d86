"""Separate class labels and a quality branch."""
from typing import Dict, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor, nn

from ..matches import Matches, Positives
from ..predictions import Predictions
from .base import Quality

FOCAL_LOSS = dict(type='gfl_plugin.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)
CROSS_ENTROPY = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True)


class QualityBranch(Quality):
    """A branch learns a quality in [0, 1] at the positives, by binary cross-entropy. Classes are learnt as labels.

    The quality also weights the positives in the box losses, as MMDetection's ATSSHead does.

    A subclass gives :meth:`quality`, and the names of the branch's layer and loss.
    """
    cls_layer, has_branch = 'atss_cls', True
    branch_layer: str
    loss_name: str

    def __init__(self, loss_cls: ConfigType, loss_branch: ConfigType) -> None:
        super().__init__(loss_cls)
        self.loss_branch = MODELS.build(loss_branch)

    def layers(self, channels: int, num_classes: int) -> Dict[str, nn.Module]:
        return {**super().layers(channels, num_classes), self.branch_layer: nn.Conv2d(channels, 1, 3, padding=1)}

    def maps(self, head: nn.Module, cls_feat: Tensor, reg_feat: Tensor, box_map: Tensor) -> Tuple[Tensor, ...]:
        return *super().maps(head, cls_feat, reg_feat, box_map), getattr(head, self.branch_layer)(reg_feat)

    def quality(self, pos: Positives) -> Tensor:
        """(K,) what the branch should predict, in [0, 1], without gradient."""
        raise NotImplementedError

    def targets(self, pred: Predictions, matches: Matches, pos: Positives) -> Tuple[Tensor, Tensor]:
        quality = self.quality(pos)
        return quality, quality

    def losses(self, pred: Predictions, matches: Matches, pos: Positives, target: Tensor,
               norm: Tensor) -> Dict[str, Tensor]:
        valid = None if matches.valid is None else matches.valid.float()
        return {
            'loss_cls': self.class_loss(pred, matches, pos.labels, torch.ones_like(target), norm),
            self.loss_name: self.loss_branch(pred.branch_at(matches), target, weight=valid, avg_factor=norm)
        }

    def loss_of_rows(self, logits: Tensor, label: Tensor, target: Tensor, weight: Tensor, norm: Tensor) -> Tensor:
        return self.loss_cls(logits, label, weight=weight, avg_factor=norm)
