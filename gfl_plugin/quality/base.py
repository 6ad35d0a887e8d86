"""What the head asks of a quality."""
from typing import Dict, List, Tuple

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

    def normaliser(self, matches: Matches) -> Tensor:
        """Scalar that the class loss and the branch's loss are divided by, of this rank."""
        return matches.num_positives

    def targets(self, pred: Predictions, matches: Matches, pos: Positives) -> Tuple[Tensor, Tensor]:
        """What the quality should be at the positives, and how much each positive counts in the box losses.

        Args:
            pred: Predictions of the batch.
            matches: K slots.
            pos: What is predicted at the slots, and the ground truth there.

        Returns:
            Target (K,) in [0, 1] and box weight (K,), both without gradient. Values at invalid slots do not matter.
        """
        raise NotImplementedError

    def losses(self, pred: Predictions, matches: Matches, pos: Positives, target: Tensor,
               norm: Tensor) -> Dict[str, Tensor]:
        """Named scalar losses.

        Args:
            pred, matches, pos: See :meth:`targets`.
            target: (K,) from :meth:`targets`.
            norm: Scalar to divide by: the :meth:`normaliser`, averaged over ranks.
        """
        raise NotImplementedError

    def class_loss(self, pred: Predictions, matches: Matches, labels: Tensor, target: Tensor, norm: Tensor) -> Tensor:
        """``loss_cls`` towards ``target`` (K,) at the classes ``labels`` (K,) of the positives, and 0 elsewhere.

        A loss with a ``closed_form`` is computed on the maps as they are; any other gets one row per prior.
        """
        form = getattr(self.loss_cls, 'closed_form', None)
        if form is None:
            return self.loss_of_rows(*_rows(pred, matches, labels, target), norm)
        sizes = [g.size for g in pred.grids]
        weight = [None] * len(sizes) if matches.cls_weight is None else matches.cls_weight.split(sizes, 1)
        return fused_class_loss(form, pred.cls, _split_by_level(pred, matches, labels, target), weight,
                                self.loss_cls.loss_weight / (norm + EPS))

    def loss_of_rows(self, logits: Tensor, label: Tensor, target: Tensor, weight: Tensor, norm: Tensor) -> Tensor:
        """The class loss by a module that takes one row per prior, such as MMDetection's.

        Args:
            logits: (N, C) of all priors of all images.
            label: (N,) class of each prior, C for background.
            target: (N,) at that class.
            weight: (N,).
            norm: Scalar to divide by.
        """
        dense = dense_target(label, target, logits.shape[1])
        return self.loss_cls(logits, dense, weight=weight[:, None].expand_as(logits), avg_factor=norm)


def _split_by_level(pred: Predictions, matches: Matches, labels: Tensor, target: Tensor) -> List[ClassTargets]:
    """The targets of each of L class maps."""
    valid = [None] * len(matches.sizes) if matches.valid is None else matches.valid.split(matches.sizes)
    parts = zip(pred.grids, *(x.split(matches.sizes) for x in (matches.image, matches.prior, labels, target)), valid)
    return [ClassTargets(image, label, prior - grid.start, y, v) for grid, image, prior, label, y, v in parts]


def _rows(pred: Predictions, matches: Matches, labels: Tensor, target: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, label, target and weight of :meth:`Quality.loss_of_rows`, with N = B * P."""
    logits = pred.logits()
    shape, valid = logits.shape[:2], slice(None) if matches.valid is None else matches.valid
    place = matches.image[valid], matches.prior[valid]
    label = labels.new_full(shape, logits.shape[2]).index_put(place, labels[valid])
    rows = logits.new_zeros(shape).index_put(place, target[valid])
    weight = logits.new_ones(shape) if matches.cls_weight is None else matches.cls_weight
    return logits.flatten(0, 1), label.flatten(), rows.flatten(), weight.flatten()
