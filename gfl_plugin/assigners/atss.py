"""Adaptive Training Sample Selection (ATSS, arXiv:1912.02424, algorithm 1) for a whole batch."""
from functools import lru_cache
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..functional.boxes import box_center, iou, side_distances
from ..functional.priors import CellRange, PriorGrid, num_priors
from ..matches import GroundTruths, Matches
from ..predictions import Peek
from ..registry import TASK_UTILS
from .conflicts import INSIDE_BY, require_iou, resolve_conflicts


@lru_cache(maxsize=8)
def window(topk: int) -> Tuple[Tuple[int, int], ...]:
    """Offsets (x, y) from the nearest cell of a grid that contain its ``topk`` nearest cells, at any border.

    All cells between a cell at (a, b) and the nearest cell are at least as near. There are (|a|+1)(|b|+1) of them.
    """
    reach = range(1 - topk, topk)
    return tuple((x, y) for y in reach for x in reach if (abs(x) + 1) * (abs(y) + 1) <= topk)


def nearest_priors(grids: Sequence[PriorGrid], usable_cells: Sequence[Sequence[CellRange]], gt_boxes: Tensor,
                   gt_image: Tensor, topk: int) -> Tuple[Tensor, Tensor, Tensor]:
    """The ``topk`` priors of each level nearest to the centre of each ground truth, found from the regular grid.

    Of equally near priors it takes those of lower row, then column. Memory is O(G x L x topk).

    Args:
        grids: L levels.
        usable_cells: For each of B images, the usable cells of each level.
        gt_boxes: (G, 4), pixels.
        gt_image: (G,) index of the image of each.
        topk: How many priors of each level.

    Returns:
        Index of the prior, (G, L*topk); its box, (G, L*topk, 4), pixels; and whether it is valid, (G, L*topk) bool. A
        level may have fewer than ``topk`` usable priors. An invalid one is another prior of the same level.
    """
    device = gt_boxes.device
    geometry = torch.tensor([[*g.base, *g.stride, g.start, g.width] for g in grids]).to(device, non_blocking=True)
    base, stride, start, width = geometry.split([4, 2, 1, 1], 1)  # (L, ...)
    offsets = torch.tensor(window(topk)).to(device, non_blocking=True)  # (O, 2)
    limits = torch.tensor(usable_cells).to(device, non_blocking=True)[gt_image]
    low, high = limits[..., None, :2], limits[..., None, 2:]  # (G, L, 1, 2)

    center = box_center(gt_boxes)[:, None]  # (G, 1, 2)
    nearest = ((center - box_center(base)) / stride).round().long()[..., None, :]
    cells = nearest.maximum(low).minimum(high - 1) + offsets  # (G, L, O, 2)
    distance = (box_center(base)[:, None] + cells * stride[:, None] - center[..., None, :]).square().sum(-1)
    distance = distance.masked_fill(((cells < low) | (cells >= high)).any(-1), float('inf'))

    # A stable sort, not topk: the same choice among equals on every device.
    distance, order = distance.sort(dim=-1, stable=True)
    distance, order = distance[..., :topk], order[..., :topk, None]
    cells = cells.gather(2, order.expand(-1, -1, -1, 2))
    boxes = base[:, None] + (cells * stride[:, None]).repeat(1, 1, 1, 2)
    start, valid = start.long(), distance.isfinite()
    prior = torch.where(valid, start + cells[..., 1] * width.long() + cells[..., 0], start)
    return prior.flatten(1), boxes.flatten(1, 2), valid.flatten(1)


def select_positives(boxes: Tensor, valid: Tensor, gt_boxes: Tensor) -> Tuple[Tensor, Tensor]:
    """Which candidates have an IoU of at least mean + standard deviation, and their centre inside the ground truth.

    Args:
        boxes: (G, K, 4) candidates of each ground truth.
        valid: (G, K) bool.
        gt_boxes: (G, 4).

    Returns:
        (G, K) bool, and the IoUs (G, K).
    """
    overlap = iou(boxes, gt_boxes[:, None]) * valid
    count = valid.sum(1, keepdim=True)
    mean = overlap.sum(1, keepdim=True) / count
    deviation = (((overlap - mean) * valid).square().sum(1, keepdim=True) / (count - 1)).sqrt()
    inside = side_distances(box_center(boxes), gt_boxes[:, None]).amin(-1) > INSIDE_BY
    return valid & inside & (overlap >= mean + deviation), overlap


@TASK_UTILS.register_module()
class ATSSAssigner:
    """ATSS. Same assignment and arguments as MMDetection's ATSSAssigner; it never looks at predictions.

    Args:
        topk: Candidates per level.
        alpha: Must be None.
        iou_calculator: Accepted for MMDetection's configs; it must compute the IoU.
        ignore_iof_thr: A prior is neither positive nor negative if more than this fraction of it is covered by a box to
            be ignored. At 0 or below, such boxes have no effect.

    Raises:
        ValueError: ``topk`` is below 1, ``alpha``, the dynamic cost of DDOD, is given, or ``iou_calculator`` computes
            something else than IoU.
    """

    def __init__(self, topk: int, alpha: Optional[float] = None, iou_calculator: Optional[dict] = None,
                 ignore_iof_thr: float = -1) -> None:
        if topk < 1:
            raise ValueError(f'topk={topk} is below 1')
        if alpha is not None:
            raise ValueError('gfl_plugin.ATSSAssigner has no dynamic cost (alpha, of DDOD): use MMDetection\'s')
        require_iou(iou_calculator)
        self.topk, self.ignore_iof_thr = topk, ignore_iof_thr

    def match(self, grids: Sequence[PriorGrid], truth: GroundTruths, peek: Optional[Peek] = None) -> Matches:
        """Match the priors of L grids to all ground truths of a batch at once."""
        prior, boxes, valid = nearest_priors(grids, truth.usable_cells, truth.boxes, truth.image, self.topk)
        positive, overlap = select_positives(boxes, valid, truth.boxes)
        key, positive = truth.image[:, None] * num_priors(grids) + prior, positive & truth.is_class[:, None]
        positive = resolve_conflicts(key, positive, overlap, len(truth.counts) * num_priors(grids))
        gt = torch.arange(len(prior), device=prior.device)[:, None].expand_as(prior)
        # (G, L*topk) to (L, G*topk): the slots of each level.
        slots = (x.unflatten(1, (len(grids), -1)).transpose(0, 1).flatten(1) for x in (prior, gt, positive))
        return Matches.of(grids, truth, *slots)

    def assign(self, pred_instances, num_level_priors: Sequence[int], gt_instances, gt_instances_ignore=None):
        """Assign one image with any set of priors. Signature and result are MMDetection's.

        Returns:
            mmdet ``AssignResult``.
        """
        from mmdet.models.task_modules import AssignResult
        priors, gt_boxes = pred_instances.priors[:, :4], gt_instances.bboxes
        gt_index = priors.new_zeros(len(priors), dtype=torch.long)
        max_overlap = priors.new_full((len(priors), ), -1e8 if len(gt_boxes) and len(priors) else 0)
        labels = torch.full_like(gt_index, -1)
        if len(gt_boxes) and len(priors):
            ignored = self._ignored(priors, gt_instances_ignore)
            gt_index[ignored] = -1
            nearest = _nearest_among(priors, num_level_priors, gt_boxes, ignored, self.topk)
            positive, overlap = select_positives(priors[nearest], torch.ones_like(nearest, dtype=torch.bool), gt_boxes)
            positive = resolve_conflicts(nearest, positive, overlap, len(priors))
            gt, prior = positive.nonzero()[:, 0], nearest[positive]
            gt_index[prior], max_overlap[prior], labels[prior] = gt + 1, overlap[positive], gt_instances.labels[gt]
        return AssignResult(len(gt_boxes), gt_index, max_overlap, labels=labels)

    def _ignored(self, priors: Tensor, gt_instances_ignore) -> Tensor:
        """(N,) bool: which priors (N, 4) are covered by a box to be ignored."""
        if self.ignore_iof_thr <= 0 or gt_instances_ignore is None or not len(gt_instances_ignore.bboxes):
            return priors.new_zeros(len(priors), dtype=torch.bool)
        boxes = gt_instances_ignore.bboxes
        overlap = torch.minimum(priors[:, None, 2:], boxes[:, 2:]) - torch.maximum(priors[:, None, :2], boxes[:, :2])
        area = (priors[:, 2:] - priors[:, :2]).prod(1).clamp(min=1e-6)
        return (overlap.clamp(min=0).prod(-1).amax(1) / area) > self.ignore_iof_thr


def _nearest_among(priors: Tensor, num_level_priors: Sequence[int], gt_boxes: Tensor, ignored: Tensor,
                   topk: int) -> Tensor:
    """(G, K) index of the nearest priors, as :func:`nearest_priors`, among any (N, 4) priors of one image."""
    distance = torch.cdist(box_center(gt_boxes), box_center(priors), compute_mode='donot_use_mm_for_euclid_dist')
    distance = distance.masked_fill(ignored, 1e8)  # last rather than never, as in MMDetection
    nearest, start = [], 0
    for level in distance.split(list(num_level_priors), 1):
        nearest.append(start + level.sort(dim=1, stable=True).indices[:, :topk])
        start += level.shape[1]
    return torch.cat(nearest, 1)
