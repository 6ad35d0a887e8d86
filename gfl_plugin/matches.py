"""Which priors are trained towards which ground truth."""
from typing import List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from .functional.boxes import iou
from .functional.priors import CellRange, PriorGrid, Priors, num_priors, usable_priors
from .predictions import Predictions


class GroundTruths(NamedTuple):
    """The G objects of a batch, those of one image after those of another."""
    boxes: Tensor  # (G, 4), pixels
    labels: Tensor  # (G,)
    image: Tensor  # (G,) index of the image in the batch
    is_class: Tensor  # (G,) bool: the label is one of the C classes; other objects are background
    counts: Sequence[int]  # B, objects of each image; known on the host
    usable_cells: Sequence[Sequence[CellRange]]  # B x L, the cells of each level that may be used
    ignored: Sequence[Optional[Tensor]]  # B, boxes (_, 4) to be ignored in each image

    @classmethod
    def of(cls, boxes: Sequence[Tensor], labels: Sequence[Tensor], ignored: Sequence[Optional[Tensor]],
           usable_cells: Sequence[Sequence[CellRange]], num_classes: int) -> 'GroundTruths':
        """Join the objects of B images: boxes (G_i, 4), labels (G_i,)."""
        counts, label = [len(b) for b in boxes], torch.cat(list(labels))
        image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts), output_size=sum(counts))
        is_class = (label >= 0) & (label < num_classes)
        return cls(torch.cat(list(boxes)).float(), label, image.to(label.device, non_blocking=True), is_class, counts,
                   usable_cells, ignored)


class Matches(NamedTuple):
    """K slots, grouped by level; each matches a prior of an image to a ground truth.

    On a device that the host must not wait for, the number of positives is unknown. A slot may be invalid there.
    """
    image: Tensor  # (K,) index of the image in the batch
    prior: Tensor  # (K,) index among the P priors; no valid slot repeats a prior of an image
    gt: Tensor  # (K,) index among the G ground truths
    sizes: Sequence[int]  # L, how many of the K belong to each level; known on the host
    valid: Optional[Tensor]  # (K,) bool, or None if every slot is valid
    soft_score: Optional[Tensor]  # (K,) in [0, 1] if the assigner gives one, 0 at invalid slots
    cls_weight: Optional[Tensor]  # (B, P) weight of each prior's class loss, or None for 1 everywhere
    num_positives: Tensor  # scalar, of this rank; an image without any counts as one, as in MMDetection

    @classmethod
    def of(cls, grids: Sequence[PriorGrid], truth: GroundTruths, prior: Tensor, gt: Tensor, valid: Tensor,
           soft_score: Optional[Tensor] = None) -> 'Matches':
        """Make matches from slots.

        Args:
            grids: L levels.
            truth: The G ground truths.
            prior, gt, valid, soft_score: (L, S), the slots of each level; or (S,), if priors may be of any level. A
                prior must be of its level even where the slot is invalid.
        """
        if prior.dim() == 1:
            prior, gt, valid, soft_score = _repeat_on_levels(grids, prior, gt, valid, soft_score)
        valid = valid & truth.is_class[gt]
        if can_be_read_at_once(valid):
            sizes, valid, chosen = valid.sum(1).tolist(), None, valid
        else:
            sizes, valid, chosen = [prior.shape[1]] * len(grids), valid.flatten(), slice(None)
        prior, gt, soft_score = (x if x is None else x[chosen].flatten() for x in (prior, gt, soft_score))
        if soft_score is not None and valid is not None:
            soft_score = soft_score.where(valid, 0)
        usable, image = usable_priors(grids, truth.usable_cells, gt.device), truth.image[gt]
        return cls(image, prior, gt, sizes, valid, soft_score, None if usable is None else usable.float(),
                   count_positives(image, valid, len(truth.counts)))

    def with_pos_weight(self, pos_weight: float, grids: Sequence[PriorGrid], num_images: int) -> 'Matches':
        """The same matches with ``pos_weight`` instead of 1 as the class-loss weight of the positives."""
        shape = (num_images, num_priors(grids))
        weight = self.num_positives.new_ones(shape) if self.cls_weight is None else self.cls_weight
        change = weight.new_full(self.gt.shape, pos_weight - 1)
        if self.valid is not None:  # an invalid slot may share its prior with a valid one, so it adds 0
            change = change * self.valid
        return self._replace(cls_weight=weight.index_put((self.image, self.prior), change, accumulate=True))


def can_be_read_at_once(x: Tensor) -> bool:
    """Whether shapes may depend on the values of ``x``. On a GPU they may not: the host would have to wait."""
    return x.device.type == 'cpu'


def _repeat_on_levels(grids: Sequence[PriorGrid], prior: Tensor, gt: Tensor, valid: Tensor,
                      soft_score: Optional[Tensor]) -> List[Optional[Tensor]]:
    """(L, S) slots from (S,): every level gets all of them, and those of other levels are invalid there."""
    limits = torch.tensor([[g.start, g.start + g.size] for g in grids]).to(prior.device, non_blocking=True)
    start, end = limits[:, :1], limits[:, 1:]
    inside = (prior >= start) & (prior < end)
    gt, soft_score = (x if x is None else x.expand(len(grids), -1) for x in (gt, soft_score))
    return [torch.where(inside, prior, start), gt, valid & inside, soft_score]


def count_positives(image: Tensor, valid: Optional[Tensor], num_images: int) -> Tensor:
    """The number of positives of a batch. An image without any counts as one, as in MMDetection."""
    ones = torch.ones_like(image, dtype=torch.float32) if valid is None else valid.float()
    return ones.new_zeros(num_images).index_add(0, image, ones).clamp(min=1).sum()


class Positives(NamedTuple):
    """What the head predicts for K matched priors, and the ground truth. All lengths are in strides."""
    raw: Tensor  # (K, D) what the box predicts
    priors: Priors  # K
    decoded: Tensor  # (K, 4) the predicted box
    gt_boxes: Tensor  # (K, 4)
    labels: Tensor  # (K,)

    @property
    def iou(self) -> Tensor:
        """(K,) IoU of each predicted box with its ground truth, without gradient."""
        return iou(self.decoded.detach(), self.gt_boxes)


def gather_positives(pred: Predictions, matches: Matches, truth: GroundTruths, box) -> Positives:
    """Read and decode the K matched priors, once for all losses.

    In strides, so that no loss depends on the level.
    """
    priors, raw = pred.priors_at(matches), pred.box_at(matches)
    gt_boxes = truth.boxes[matches.gt] / priors.stride.repeat(1, 2)
    priors = priors.in_strides()
    return Positives(raw, priors, box.decode(raw, priors), gt_boxes, truth.labels[matches.gt])
