"""Greedy non-maximum suppression in plain tensor operations, on any device."""
from typing import Optional, Tuple

import torch
from torch import Tensor

# Boxes of each group are taken in blocks of this many, best first: the largest temporaries are (G, kept, BLOCK).
BLOCK = 256


def overlap_exceeds(boxes1: Tensor, boxes2: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Whether the IoU of each pair is above a threshold, in the arithmetic of mmcv's NMS.

    Args:
        boxes1: (..., N, 4) boxes as x1, y1, x2, y2, in pixels.
        boxes2: (..., M, 4) boxes.
        iou_threshold: In [0, 1].
        offset: 1 where x2 and y2 are the last pixel inside the box (width is x2 - x1 + 1), 0 where they are its edge.

    Returns:
        (..., N, M) bool.
    """
    x1, y1, x2, y2 = boxes1[..., None, :].unbind(-1)
    u1, v1, u2, v2 = boxes2[..., None, :, :].unbind(-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1) + offset).clamp_(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1) + offset).clamp_(min=0)
    intersection = width.mul_(height)
    area1, area2 = (x2 - x1 + offset) * (y2 - y1 + offset), (u2 - u1 + offset) * (v2 - v1 + offset)
    return intersection / (area1 + area2 - intersection) > iou_threshold


def greedy_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0, max_keep: Optional[int] = None,
               group: Optional[Tensor] = None) -> Tensor:
    """Keep a box unless it overlaps, by more than a threshold, a better box of its group that is kept.

    Equal scores keep the order of the input. All groups go on together, a block of boxes of each at a time, and stop
    when all have ``max_keep``; memory is bounded by the block, not by the square of the number of boxes.

    Args:
        boxes: (N, 4) boxes as x1, y1, x2, y2, in pixels.
        scores: (N,) scores.
        iou_threshold: Boxes with an IoU above it suppress each other; an equal one does not.
        offset: See :func:`overlap_exceeds`.
        max_keep: The best so many of each group; ``None`` or a negative number for all.
        group: (N,) integers >= 0, such as the image of each box; ``None`` for one group.

    Returns:
        (K,) indices into ``boxes`` of what is kept, by group, best first.
    """
    order = scores.argsort(descending=True, stable=True)
    if group is None:
        ranked = order[None]
        valid = torch.ones_like(ranked, dtype=torch.bool)
    else:
        ranked, valid = _rows_of_groups(order, group)
    limit = ranked.shape[1] if max_keep is None or max_keep < 0 else max_keep

    kept, is_kept = ranked[:, :0], valid[:, :0]
    for block, alive in zip(ranked.split(BLOCK, 1), valid.split(BLOCK, 1)):
        alive = alive & (is_kept.sum(1, keepdim=True) < limit)
        if not alive.any():
            break
        suppressed = overlap_exceeds(boxes[kept], boxes[block], iou_threshold, offset) & is_kept[..., None]
        block, alive = _compact(block, alive & ~suppressed.any(1))
        suppresses = overlap_exceeds(boxes[block], boxes[block], iou_threshold, offset).triu_(1) & alive[..., None]
        block, alive = _compact(block, _greedy_choice(suppresses) & alive)
        kept, is_kept = torch.cat([kept, block], 1), torch.cat([is_kept, alive], 1)
    return kept[is_kept & (is_kept.cumsum(1) <= limit)]


def _rows_of_groups(order: Tensor, group: Tensor) -> Tuple[Tensor, Tensor]:
    """Indices (G, M) of the boxes of each group in the given ``order`` (N,), and which entries are not padding."""
    order = order[group[order].argsort(stable=True)]
    count = group.bincount()
    column = torch.arange(int(count.max()) if count.numel() else 0, device=group.device)
    valid = column < count[:, None]
    position = (count.cumsum(0) - count)[:, None] + column
    return order[position.where(valid, 0)], valid


def _compact(index: Tensor, keep: Tensor) -> Tuple[Tensor, Tensor]:
    """Move what is kept of each row (G, M) to its front, and cut the columns that no row fills."""
    front = keep.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :int(keep.sum(1).max())]
    return index.gather(1, front), keep.gather(1, front)


def _greedy_choice(suppresses: Tensor) -> Tensor:
    """The greedy choice (G, N) among N boxes, best first, as the fixed point of "kept = no kept box suppresses me".

    ``suppresses`` is (G, N, N), strictly upper triangular, so the first k boxes are settled after k rounds at the
    latest, and the fixed point is unique; chains of suppression are short in practice and a few rounds are enough.
    """
    keep = suppresses.new_ones(suppresses.shape[:2])
    while True:
        settled = ~(suppresses & keep[..., None]).any(1)
        if torch.equal(settled, keep):
            return keep
        keep = settled


def class_aware_nms(boxes: Tensor, scores: Tensor, labels: Tensor, image: Tensor, iou_threshold: float,
                    max_keep: Optional[int] = None, class_agnostic: bool = False) -> Tensor:
    """Greedy NMS within each class of each image: the choice of mmcv's ``batched_nms``, for a whole batch.

    Args:
        boxes: (N, 4) boxes as x1, y1, x2, y2, in pixels.
        scores, labels, image: (N,).
        iou_threshold: See :func:`greedy_nms`.
        max_keep: The best so many of each image.
        class_agnostic: Whether boxes of different classes suppress each other.

    Returns:
        (K,) indices of what is kept, by image, best first.
    """
    if not class_agnostic and len(boxes):
        # Classes are moved apart, as in mmcv: with the same rounding the same boxes are kept.
        extent = boxes.amax(1)
        extent = extent.new_full((int(image.max()) + 1, ), -torch.inf).scatter_reduce(0, image, extent, 'amax')
        boxes = boxes + (labels.to(boxes) * (extent[image] + 1))[:, None]
    return greedy_nms(boxes, scores, iou_threshold, max_keep=max_keep, group=image)
