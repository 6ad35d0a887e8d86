"""What the head asks of a quality."""
from typing import Dict, List, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor, nn

from ..losses.closed_form import ClassTargets
from ..losses.fused_class_loss import fused_class_loss
from ..losses.weighting import EPS, dense_target
from ..matches import Matches, Positives
from ..predictions import Predictions


class Quality(nn.Module):
    """What the classification score means, and what it is multiplied by in the end.

    A subclass gives :meth:`targets` and :meth:`losses`.

    Args:
        loss_cls: Config of the classification loss.

    Attributes:
        cls_layer: Name of the layer that predicts the class maps. It is in checkpoints, and its bias starts at a score
            of 0.01.
        has_branch: Whether there is a branch, whose sigmoid multiplies the scores of detections.
    """
    cls_layer = 'gfl_cls'
    has_branch = False

    def __init__(self, loss_cls: ConfigType) -> None:
        super().__init__()
        self.loss_cls = MODELS.build(loss_cls)

    def check(self, box: nn.Module) -> None:
        """Raise SetupError if this quality cannot go with the head's box."""

    def layers(self, channels: int, num_classes: int) -> Dict[str, nn.Module]:
        """The layers that :meth:`maps` uses. The head registers them, so these names are in checkpoints."""
        return {self.cls_layer: nn.Conv2d(channels, num_classes, 3, padding=1)}

    def maps(self, head: nn.Module, cls_feat: Tensor, reg_feat: Tensor, box_map: Tensor) -> Tuple[Tensor, ...]:
        """The class map (B, C, H, W) of one level, logits; and the branch's map (B, 1, H, W), if there is a branch.

        Args:
            head: Has the layers of :meth:`layers` as attributes.
            cls_feat, reg_feat: (B, channels, H, W) features of the two towers.
            box_map: (B, D, H, W) from the box.
        """
        return getattr(head, self.cls_layer)(cls_feat),

    def targets(self, pred: Predictions, m: Matches, at: Positives) -> Tuple[Tensor, Tensor]:
        """What the quality should be at the positives, and how much each positive counts in the box losses.

        Returns:
            Target (K,) in [0, 1] and weight (K,), both without gradient. Values at invalid slots do not matter.
        """
        raise NotImplementedError

    def losses(self, pred: Predictions, m: Matches, at: Positives, score: Tensor, norm: Tensor) -> Dict[str, Tensor]:
        """Named scalar losses.

        Args:
            score: (K,) targets, from :meth:`targets`.
            norm: Scalar to divide by: the matches' normaliser, averaged over ranks.
        """
        raise NotImplementedError

    def class_loss(self, pred: Predictions, m: Matches, labels: Tensor, score: Tensor, norm: Tensor) -> Tensor:
        """``loss_cls`` with the targets ``score`` (K,) at the classes ``labels`` (K,) of the positives, 0 elsewhere.

        A loss with a ``closed_form`` is computed on the maps as they are; any other gets one row per prior.
        """
        form = getattr(self.loss_cls, 'closed_form', None)
        if form is None:
            return self.loss_of_rows(*_rows(pred, m, labels, score), norm)
        sizes = [g.size for g in pred.grids]
        weight = [None] * len(sizes) if m.weight is None else m.weight.split(sizes, 1)
        return fused_class_loss(form, pred.cls, _split_by_level(pred, m, labels, score), weight,
                                self.loss_cls.loss_weight / (norm + EPS))

    def loss_of_rows(self, logits: Tensor, label: Tensor, score: Tensor, weight: Tensor, norm: Tensor) -> Tensor:
        """The class loss by a module that takes one row per prior, such as MMDetection's.

        Args:
            logits: (N, C) of all priors of all images.
            label: (N,) class of each prior, C for background.
            score: (N,) target at that class.
            weight: (N,).
            norm: Scalar to divide by.
        """
        target = dense_target(label, score, logits.shape[1])
        return self.loss_cls(logits, target, weight=weight[:, None].expand_as(logits), avg_factor=norm)


def _split_by_level(pred: Predictions, m: Matches, labels: Tensor, score: Tensor) -> List[ClassTargets]:
    """The targets of each of L class maps."""
    valid = [None] * len(m.sizes) if m.valid is None else m.valid.split(m.sizes)
    parts = zip(pred.grids, *(x.split(m.sizes) for x in (m.image, m.prior, labels, score)), valid)
    return [ClassTargets(image, label, prior - grid.start, y, v) for grid, image, prior, label, y, v in parts]


def _rows(pred: Predictions, m: Matches, labels: Tensor, score: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, label, score and weight of :meth:`Quality.loss_of_rows`, with N = B * P."""
    logits = torch.cat([c.flatten(2) for c in pred.cls], 2).transpose(1, 2).float()  # (B, P, C)
    shape, valid = logits.shape[:2], slice(None) if m.valid is None else m.valid
    place = m.image[valid], m.prior[valid]
    label = labels.new_full(shape, logits.shape[2]).index_put(place, labels[valid])
    rows = logits.new_zeros(shape).index_put(place, score[valid])
    weight = logits.new_ones(shape) if m.weight is None else m.weight
    return logits.flatten(0, 1), label.flatten(), rows.flatten(), weight.flatten()
