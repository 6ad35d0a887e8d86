"""Adaptive Training Sample Selection (ATSS, arXiv:1912.02424, algorithm 1) for a whole batch."""
from functools import lru_cache
from typing import NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..functional.boxes import box_center, iou
from ..functional.priors import CellRange, Places, PriorGrid, num_priors
from ..registry import TASK_UTILS

# A positive prior's centre is inside its ground truth by more than this, in pixels (MMDetection's constant).
INSIDE_BY = 0.01


class Assignment(NamedTuple):
    """K positives of a batch."""
    places: Places
    gt: Tensor  # (K,) index among the G ground truths of all images
    valid: Optional[Tensor]  # (K,) bool; False for a slot that is no positive, None for none of these


class Candidates(NamedTuple):
    """The priors of each ground truth that may become its positives. Each tensor is (G, L*topk)."""
    prior: Tensor  # some prior of the same level where it is not valid
    box: Tensor  # (G, L*topk, 4), pixels
    valid: Tensor  # bool; a level may have fewer than topk priors


@lru_cache(maxsize=8)
def window(topk: int) -> Tuple[Tuple[int, int], ...]:
    """Offsets (x, y) from the nearest cell of a grid, among which its ``topk`` nearest cells are, wherever it ends.

    With a cell at (a, b) all cells between it and the nearest one are at least as near, (|a|+1)(|b|+1) in number.
    """
    reach = range(1 - topk, topk)
    return tuple((x, y) for y in reach for x in reach if (abs(x) + 1) * (abs(y) + 1) <= topk)


def candidates_on_grids(grids: Sequence[PriorGrid], ranges: Tensor, gt_boxes: Tensor, topk: int) -> Candidates:
    """The ``topk`` priors of each level nearest to the centre of each ground truth, found from the regular grid.

    Of equally near ones those of lower row, then column. Memory is O(G x L x topk).

    Args:
        grids: L levels.
        ranges: (G, L, 4) the :data:`CellRange` of each level in the image of each ground truth.
        gt_boxes: (G, 4), pixels.
        topk: How many.
    """
    device = gt_boxes.device
    geometry = torch.tensor([[*g.base, *g.stride, g.start, g.width] for g in grids]).to(device, non_blocking=True)
    base, stride, start, width = geometry.split([4, 2, 1, 1], 1)  # (L, ...)
    offsets = torch.tensor(window(topk)).to(device, non_blocking=True)  # (O, 2)
    low, high = ranges[..., None, :2], ranges[..., None, 2:]  # (G, L, 1, 2)

    center = box_center(gt_boxes)[:, None]  # (G, 1, 2)
    nearest = ((center - box_center(base)) / stride).round().long()[..., None, :]
    nearest = nearest.maximum(low).minimum(high - 1)
    cells = nearest + offsets  # (G, L, O, 2)
    distance = (box_center(base)[:, None] + cells * stride[:, None] - center[..., None, :]).square().sum(-1)
    distance = distance.masked_fill(((cells < low) | (cells >= high)).any(-1), float('inf'))

    # A stable sort, not topk: the same choice among equals on every device.
    distance, order = distance.sort(dim=-1, stable=True)
    distance, order = distance[..., :topk], order[..., :topk, None]
    cells = cells.gather(2, order.expand(-1, -1, -1, 2))
    box = base[:, None] + (cells * stride[:, None]).repeat(1, 1, 1, 2)
    start, valid = start.long(), distance.isfinite()
    prior = torch.where(valid, start + cells[..., 1] * width.long() + cells[..., 0], start)
    return Candidates(prior.flatten(1), box.flatten(1, 2), valid.flatten(1))


def select_positives(candidates: Candidates, gt_boxes: Tensor) -> Tuple[Tensor, Tensor]:
    """Which candidates have an IoU of at least mean + standard deviation and their centre inside the box.

    Returns:
        (G, L*topk) bool, and the IoUs.
    """
    valid = candidates.valid
    overlap = iou(candidates.box, gt_boxes[:, None]) * valid
    count = valid.sum(1, keepdim=True)
    mean = overlap.sum(1, keepdim=True) / count
    deviation = (((overlap - mean) * valid).square().sum(1, keepdim=True) / (count - 1)).sqrt()
    center = box_center(candidates.box)
    sides = torch.cat([center - gt_boxes[:, None, :2], gt_boxes[:, None, 2:] - center], -1)
    return valid & (overlap >= mean + deviation) & (sides.amin(-1) > INSIDE_BY), overlap


def resolve_conflicts(key: Tensor, positive: Tensor, overlap: Tensor, num_keys: int) -> Tensor:
    """Leave a prior to the ground truth of highest IoU, the first of equals.

    Args:
        key: (G, K) prior of each candidate, numbered over all images, 0..num_keys-1.
        positive: (G, K) bool.
        overlap: (G, K) IoUs.

    Returns:
        (G, K) bool, True once at most for each key.
    """
    flat_key = key.flatten()
    claim = torch.where(positive, overlap, -1).flatten()
    best = claim.new_full((num_keys, ), -1).scatter_reduce(0, flat_key, claim, 'amax')
    wins = positive & (overlap == best[key])
    gt = torch.arange(len(key), device=key.device)[:, None].expand_as(key)
    first = gt.new_full((num_keys, ), len(key)).scatter_reduce(
        0, flat_key, torch.where(wins, gt, len(key)).flatten(), 'amin')
    return wins & (gt == first[key])


def can_be_read_at_once(x: Tensor) -> bool:
    """Whether sizes may depend on what ``x`` holds: elsewhere than on a CPU the host would have to wait for it."""
    return x.device.type == 'cpu'


@TASK_UTILS.register_module()
class ATSSAssigner:
    """ATSS; the assignment of MMDetection's ATSSAssigner, arguments as there.

    Args:
        topk: Candidates of each level.
        iou_calculator: Accepted for MMDetection's configs; IoU is what it must compute.
        ignore_iof_thr: Priors covered by a box to be ignored by more than this fraction of themselves are neither
            positive nor negative; not above 0: such boxes play no part.

    Raises:
        ValueError: ``topk`` is below 1, or ``alpha``, the dynamic cost of DDOD, is asked for.
    """

    def __init__(self, topk: int, alpha: Optional[float] = None, iou_calculator: Optional[dict] = None,
                 ignore_iof_thr: float = -1) -> None:
        if topk < 1:
            raise ValueError(f'topk={topk} is below 1')
        if alpha is not None:
            raise ValueError('gfl_plugin.ATSSAssigner has no dynamic cost (alpha, of DDOD): use MMDetection\'s')
        self.topk, self.ignore_iof_thr = topk, ignore_iof_thr

    def assign_batch(self, grids: Sequence[PriorGrid], ranges: Sequence[Sequence[CellRange]], gt_boxes: Tensor,
                     gt_image: Tensor) -> Assignment:
        """Assign the ground truths of all images at once.

        Args:
            grids: L levels.
            ranges: For each of B images, the cells of each level that may be used.
            gt_boxes: (G, 4) of all images, pixels.
            gt_image: (G,) index of the image of each.
        """
        cell_ranges = torch.tensor(ranges).to(gt_boxes.device, non_blocking=True)[gt_image]
        candidates = candidates_on_grids(grids, cell_ranges, gt_boxes, self.topk)
        positive, overlap = select_positives(candidates, gt_boxes)
        prior = candidates.prior
        key = gt_image[:, None] * num_priors(grids) + prior
        positive = resolve_conflicts(key, positive, overlap, len(ranges) * num_priors(grids))

        def by_level(x: Tensor) -> Tensor:  # (G, L*topk) to (L, G*topk)
            return x.unflatten(1, (len(grids), -1)).transpose(0, 1).flatten(1)

        gt = torch.arange(len(gt_boxes), device=gt_boxes.device)[:, None].expand_as(prior)
        image, prior, gt, positive = (by_level(x) for x in (gt_image[:, None].expand_as(prior), prior, gt, positive))
        if can_be_read_at_once(positive):
            places = Places(image[positive], prior[positive], positive.sum(1).tolist())
            return Assignment(places, gt[positive], None)
        places = Places(image.flatten(), prior.flatten(), [positive.shape[1]] * len(grids))
        return Assignment(places, gt.flatten(), positive.flatten())

    def assign(self, pred_instances, num_level_priors: Sequence[int], gt_instances, gt_instances_ignore=None):
        """Assign one image with any set of priors; MMDetection's signature and result.

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
            candidates = _candidates_among(priors, num_level_priors, gt_boxes, ignored, self.topk)
            positive, overlap = select_positives(candidates, gt_boxes)
            positive = resolve_conflicts(candidates.prior, positive, overlap, len(priors))
            gt, prior = positive.nonzero()[:, 0], candidates.prior[positive]
            gt_index[prior], max_overlap[prior], labels[prior] = gt + 1, overlap[positive], gt_instances.labels[gt]
        return AssignResult(len(gt_boxes), gt_index, max_overlap, labels=labels)

    def _ignored(self, priors: Tensor, gt_instances_ignore) -> Tensor:
        if self.ignore_iof_thr <= 0 or gt_instances_ignore is None or not len(gt_instances_ignore.bboxes):
            return priors.new_zeros(len(priors), dtype=torch.bool)
        boxes = gt_instances_ignore.bboxes
        overlap = torch.minimum(priors[:, None, 2:], boxes[:, 2:]) - torch.maximum(priors[:, None, :2], boxes[:, :2])
        area = (priors[:, 2:] - priors[:, :2]).prod(1).clamp(min=1e-6)
        return (overlap.clamp(min=0).prod(-1).amax(1) / area) > self.ignore_iof_thr


def _candidates_among(priors: Tensor, num_level_priors: Sequence[int], gt_boxes: Tensor, ignored: Tensor,
                      topk: int) -> Candidates:
    """As :func:`candidates_on_grids` for any (N, 4) priors of one image, from all distances."""
    distance = torch.cdist(box_center(gt_boxes), box_center(priors), compute_mode='donot_use_mm_for_euclid_dist')
    distance = distance.masked_fill(ignored, 1e8)  # MMDetection takes them last rather than never
    nearest, start = [], 0
    for level in distance.split(list(num_level_priors), 1):
        nearest.append(start + level.sort(dim=1, stable=True).indices[:, :topk])
        start += level.shape[1]
    prior = torch.cat(nearest, 1)
    return Candidates(prior, priors[prior], torch.ones_like(prior, dtype=torch.bool))
