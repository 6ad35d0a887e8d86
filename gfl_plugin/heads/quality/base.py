"""What the head asks of a quality."""
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor, nn

from ...functional.priors import Cells
from ...losses.sweep import ClassCells, dense_target
from ...targets import Positives, Targets


class Quality(nn.Module):
    """What the classification score means, and what it is multiplied by in the end.

    A kind names its layers and, in :meth:`forward`, turns the class maps and the positives into losses.

    Attributes:
        cls_layer: Name, in the head, of the convolution of the class maps: it is in checkpoints.
        branch_layer: Of the convolution of a map whose sigmoid multiplies the scores of detections, ``None`` for none.
        loss_cls: The classification loss.
    """
    cls_layer = 'gfl_cls'
    branch_layer: Optional[str] = None

    def __init__(self, loss_cls: ConfigType) -> None:
        super().__init__()
        self.loss_cls = MODELS.build(loss_cls)

    def layers(self, channels: int, num_classes: int) -> Dict[str, nn.Module]:
        """What the head registers under these names; a branch reads the features of the box tower."""
        layers = {self.cls_layer: nn.Conv2d(channels, num_classes, 3, padding=1)}
        if self.branch_layer:
            layers[self.branch_layer] = nn.Conv2d(channels, 1, 3, padding=1)
        return layers

    def forward(self, cls_scores: List[Tensor], branch: Optional[List[Tensor]], targets: Targets,
                positives: Positives) -> Tuple[Dict[str, Tensor], Tensor]:
        """Losses, and how much each positive counts in the box losses.

        Args:
            cls_scores: L class maps of logits (B, C, H, W).
            branch: L maps of logits (B, 1, H, W) of a kind with a ``branch_layer``.
            targets: Of the batch, and ``num_positives`` to divide by, averaged over the ranks.
            positives: The K positives.

        Returns:
            Named scalars, and weights (K,) without gradient; those of invalid slots do not matter.
        """
        raise NotImplementedError

    def loss_of_classes(self, cls_scores: List[Tensor], targets: Targets, cells: List[Cells], score: Tensor) -> Tensor:
        """``loss_cls`` with the targets ``score`` (K,) at the classes of the positives, 0 elsewhere."""
        if hasattr(self.loss_cls, 'forward_maps'):
            return self.loss_cls.forward_maps(cls_scores, *_by_level(cls_scores, targets, cells, score),
                                              targets.num_positives)
        return self.loss_of_rows(*_rows(cls_scores, targets, score), targets.num_positives)

    def loss_of_rows(self, logits: Tensor, label: Tensor, score: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
        """The same by a loss without ``forward_maps``, as MMDetection's: one row a prior, of all images.

        Args:
            logits: (N, C).
            label: (N,) class of each prior, C for background.
            score: (N,) target at that class.
            weight: (N,).
            factor: What the sum is divided by.
        """
        target = dense_target(label, score, logits.shape[1])
        return self.loss_cls(logits, target, weight=weight[:, None].expand_as(logits), avg_factor=factor)


def _by_level(cls_scores: List[Tensor], targets: Targets, cells: List[Cells], score: Tensor) -> tuple:
    """For each level the places of its positives, their targets, and the weight (B, H, W) of its priors."""
    sizes = targets.places.sizes
    valid = [None] * len(cells) if targets.valid is None else targets.valid.split(sizes)
    places = [ClassCells(image, label, row, column, v)
              for (image, row, column), label, v in zip(cells, targets.label.split(sizes), valid)]
    weight = targets.weight
    if weight is not None:
        parts = weight.split([m[0, 0].numel() for m in cls_scores], 1)
        weight = [part.view(m[:, 0].shape) for part, m in zip(parts, cls_scores)]
    return places, score.split(sizes), weight


def _rows(cls_scores: Sequence[Tensor], targets: Targets, score: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arguments of :meth:`Quality.loss_of_rows` but the last, N = B * P."""
    logits = torch.cat([c.flatten(2) for c in cls_scores], 2).transpose(1, 2).float()  # (B, P, C)
    shape, valid = logits.shape[:2], slice(None) if targets.valid is None else targets.valid
    place = targets.places.image[valid], targets.places.prior[valid]
    label = targets.label.new_full(shape, logits.shape[2]).index_put(place, targets.label[valid])
    rows = logits.new_zeros(shape).index_put(place, score[valid])
    weight = logits.new_ones(shape) if targets.weight is None else targets.weight
    return logits.flatten(0, 1), label.flatten(), rows.flatten(), weight.flatten()
