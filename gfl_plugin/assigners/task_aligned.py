"""Task-aligned assignment (TOOD, arXiv:2108.07755, section 3.2) for a whole batch."""
from typing import Callable, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from ..functional.boxes import ciou, iou, side_distances
from ..functional.priors import PriorGrid, all_priors, num_priors, usable_priors
from ..matches import GroundTruths, Matches
from ..predictions import Peek
from ..registry import TASK_UTILS
from .conflicts import INSIDE_BY, require_iou, resolve_conflicts

# Pairs of a ground truth and a prior that are compared at a time. It bounds the memory, which (G, P) would not.
PAIRS = 1 << 22
# Settings of each variant: topk, alpha, beta, and what is added to t's maximum where it is divided by.
VARIANTS = dict(tood=(13, 1.0, 6.0, 1e-7), yolov8=(10, 0.5, 6.0, 1e-9))


class Alignment(NamedTuple):
    """The best aligned priors of each ground truth."""
    prior: Tensor  # (G, topk)
    metric: Tensor  # (G, topk) t = score^alpha IoU^beta (eq. 6); not positive where the prior is no candidate
    overlap: Tensor  # (G, topk) IoU of the predicted box, CIoU for YOLOv8


@TASK_UTILS.register_module()
class TaskAlignedAssigner:
    """The ``topk`` priors of largest t = score^alpha IoU^beta become positives of a ground truth (TOOD, eq. 6).

    t, scaled so that its maximum for each ground truth is the largest IoU among its positives, is the soft score that
    the class is trained towards. A prior that several ground truths claim goes to the one of highest IoU. The order of
    priors with equal t is undefined.

    Args:
        topk, alpha, beta: By default those of the variant.
        variant: ``'tood'`` takes the best of all priors and keeps those with their centre inside the object, as
            MMDetection does, with topk 13, alpha 1, beta 6. ``'yolov8'`` takes the best of the priors with their centre
            inside, measures by CIoU, and has topk 10, alpha 0.5, beta 6. Its CIoU is MMDetection's, without the
            aspect term up to an IoU of 0.5.
        iou_calculator: Accepted for MMDetection's configs; it must compute the IoU.

    Raises:
        ValueError: ``topk`` is below 1, the variant is unknown, or ``iou_calculator`` computes something else than IoU.
    """

    def __init__(self, topk: Optional[int] = None, alpha: Optional[float] = None, beta: Optional[float] = None,
                 variant: str = 'tood', iou_calculator: Optional[dict] = None) -> None:
        if variant not in VARIANTS:
            raise ValueError(f'variant={variant!r} of TaskAlignedAssigner is not one of {list(VARIANTS)}')
        require_iou(iou_calculator)
        *defaults, self.eps = VARIANTS[variant]
        self.topk, self.alpha, self.beta = (default if given is None else given
                                            for given, default in zip((topk, alpha, beta), defaults))
        if self.topk < 1:
            raise ValueError(f'topk={topk} is below 1')
        self.inside_first = variant == 'yolov8'
        self.overlap_of = _positive_ciou if variant == 'yolov8' else iou

    def match(self, grids: Sequence[PriorGrid], truth: GroundTruths, peek: Peek) -> Matches:
        """Match the priors of L grids to all ground truths of a batch, by what the head predicts."""
        device = truth.boxes.device
        found = self.align(all_priors(grids, device).center, usable_priors(grids, truth.usable_cells, device),
                           peek.boxes(), peek.scores_of, truth)
        key = truth.image[:, None] * num_priors(grids) + found.prior
        positive = (found.metric > 0) & truth.is_class[:, None]
        positive = resolve_conflicts(key, positive, found.overlap, len(truth.counts) * num_priors(grids))
        gt = torch.arange(len(key), device=key.device)[:, None].expand_as(key)
        score = scale_to_overlap(found.metric, found.overlap, positive, self.eps)
        return Matches.of(grids, truth, *(x.flatten() for x in (found.prior, gt, positive, score)))

    def align(self, center: Tensor, usable: Optional[Tensor], boxes: Tensor,
              scores_of: Callable[[Tensor, Tensor], Tensor], truth: GroundTruths) -> Alignment:
        """The best aligned priors of each ground truth.

        Args:
            center: (P, 2) centres of the priors, pixels.
            usable: (B, P) bool, or None if every prior may be used.
            boxes: (B, P, 4) predicted boxes, pixels.
            scores_of: Gives scores (N, P) of all priors for images (N,) and classes (N,).
            truth: The G ground truths.
        """
        chunk = max(1, PAIRS // max(1, len(center)))
        parts = [self._align_chunk(center, usable, boxes, scores_of, *part) for part in
                 zip(*(x.split(chunk) for x in (truth.boxes, truth.labels * truth.is_class, truth.image)))]
        return Alignment(*map(torch.cat, zip(*parts)))

    def _align_chunk(self, center: Tensor, usable: Optional[Tensor], boxes: Tensor,
                     scores_of: Callable[[Tensor, Tensor], Tensor], gt_boxes: Tensor, gt_labels: Tensor,
                     gt_image: Tensor) -> Alignment:
        """:meth:`align` of N ground truths: boxes (N, 4), labels (N,) that are classes, images (N,)."""
        overlap = self.overlap_of(boxes[gt_image], gt_boxes[:, None])  # (N, P)
        metric = scores_of(gt_image, gt_labels)**self.alpha * overlap**self.beta
        inside = side_distances(center, gt_boxes[:, None]).amin(-1) > INSIDE_BY
        allowed = inside if self.inside_first else torch.ones_like(inside)
        if usable is not None:
            allowed = allowed & usable[gt_image]
        metric, prior = metric.where(allowed, -1).topk(min(self.topk, metric.shape[1]), 1)
        metric = metric.where(inside.gather(1, prior), -1)
        return Alignment(prior, metric, overlap.gather(1, prior))


def scale_to_overlap(metric: Tensor, overlap: Tensor, positive: Tensor, eps: float) -> Tensor:
    """t scaled to the largest IoU of each ground truth, (G, K), 0 where not positive (TOOD, section 3.2.2).

    ``eps`` matters as long as predictions are poor: it makes the scores of objects with a tiny t smaller still.
    """
    metric, overlap = (torch.where(positive, x, 0) for x in (metric, overlap))
    return metric / (metric.amax(1, keepdim=True) + eps) * overlap.amax(1, keepdim=True)


def _positive_ciou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return ciou(boxes1, boxes2).clamp(min=0)
