"""Greedy non-maximum suppression in plain tensor operations, on any device."""
from typing import Optional

import torch
from torch import Tensor

# Boxes are taken in blocks of this many, best first: the largest temporaries are (kept, BLOCK) and (BLOCK, BLOCK).
BLOCK = 256


def overlap_exceeds(boxes1: Tensor, boxes2: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Whether the IoU of each pair is above a threshold, in the arithmetic of mmcv's NMS.

    Args:
        boxes1: (N, 4) boxes as x1, y1, x2, y2, in pixels.
        boxes2: (M, 4) boxes.
        iou_threshold: In [0, 1].
        offset: 1 where x2 and y2 are the last pixel inside the box (width is x2 - x1 + 1), 0 where they are its edge.

    Returns:
        (N, M) bool.
    """
    area1, area2 = ((b[:, 2] - b[:, 0] + offset) * (b[:, 3] - b[:, 1] + offset) for b in (boxes1, boxes2))
    x1, y1, x2, y2 = boxes1.unsqueeze(2).unbind(1)
    width = (torch.minimum(x2, boxes2[:, 2]) - torch.maximum(x1, boxes2[:, 0]) + offset).clamp_(min=0)
    height = (torch.minimum(y2, boxes2[:, 3]) - torch.maximum(y1, boxes2[:, 1]) + offset).clamp_(min=0)
    intersection = width.mul_(height)
    return intersection / (area1[:, None] + area2 - intersection) > iou_threshold


def greedy_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0,
               max_keep: Optional[int] = None) -> Tensor:
    """Keep a box unless it overlaps, by more than a threshold, a better box that is kept.

    Equal scores keep the order of the input. Memory is bounded by the block, not by the square of the number of boxes.

    Args:
        boxes: (N, 4) boxes as x1, y1, x2, y2, in pixels.
        scores: (N,) scores.
        iou_threshold: Boxes with an IoU above it suppress each other; an equal one does not.
        offset: See :func:`overlap_exceeds`.
        max_keep: Stop once this many are kept; ``None`` or a negative number for all.

    Returns:
        (K,) indices into ``boxes`` of what is kept, best first.
    """
    order = scores.argsort(descending=True, stable=True)
    if max_keep is None or max_keep < 0:
        max_keep = order.numel()
    kept = order[:0]
    for block in order.split(BLOCK):
        if kept.numel() >= max_keep:
            break
        block = block[~overlap_exceeds(boxes[kept], boxes[block], iou_threshold, offset).any(0)]
        suppresses = overlap_exceeds(boxes[block], boxes[block], iou_threshold, offset).triu_(1)
        kept = torch.cat([kept, block[_greedy_choice(suppresses)]])
    return kept[:max_keep]


def _greedy_choice(suppresses: Tensor) -> Tensor:
    """The greedy choice among N boxes, best first, as the fixed point of "kept = no kept box suppresses me".

    ``suppresses`` is (N, N), strictly upper triangular, so the first k boxes are settled after k rounds at the latest,
    and the fixed point is unique; chains of suppression are short in practice and a few rounds do.
    """
    keep = torch.ones(suppresses.shape[0], dtype=torch.bool, device=suppresses.device)
    while True:
        settled = ~(suppresses & keep[:, None]).any(0)
        if torch.equal(settled, keep):
            return keep
        keep = settled
