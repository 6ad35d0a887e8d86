"""Boxes as x1, y1, x2, y2: centres, distances to the sides, overlaps. Any unit, one unit at a time."""
from typing import Tuple

import torch
from torch import Tensor


def box_center(boxes: Tensor) -> Tensor:
    """Centres (..., 2) as x, y of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def distance_to_box(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (..., 4) from points (..., 2) as x, y and distances (..., 4) to the left, top, right and bottom side."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def clip_boxes(boxes: Tensor, shapes: Tensor) -> Tensor:
    """Boxes (..., 4) cut to images of ``shapes`` (..., 2), height and width, in the unit of the boxes."""
    limit = shapes.flip(-1).to(boxes)  # x before y
    return boxes.clamp(min=0).minimum(torch.cat([limit, limit], -1))


def box_to_distance(points: Tensor, boxes: Tensor, reg_max: float, eps: float = 0.1) -> Tensor:
    """Distances (..., 4) from points (..., 2) to the sides of boxes (..., 4), clamped to [0, reg_max - eps].

    The clamp keeps the bin on the right of a target, ``floor(y) + 1``, inside the distribution (DFL, eq. 6).
    """
    distances = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)
    return distances.clamp(0, reg_max - eps)


def _intersection_and_union(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tuple[Tensor, Tensor]:
    area1, area2 = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes1, boxes2))
    overlap = torch.minimum(boxes1[..., 2:], boxes2[..., 2:]) - torch.maximum(boxes1[..., :2], boxes2[..., :2])
    intersection = overlap.clamp(min=0).prod(-1)
    return intersection, (area1 + area2 - intersection).clamp(min=eps)


def iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-6) -> Tensor:
    """Intersection over union (...) of boxes (..., 4) paired by broadcasting; unions are at least ``eps``."""
    intersection, union = _intersection_and_union(boxes1, boxes2, eps)
    return intersection / union


def giou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Generalized IoU (...) in [-1, 1] of paired boxes (..., 4) (arXiv:1902.09630, algorithm 1)."""
    intersection, union = _intersection_and_union(boxes1, boxes2, eps)
    hull = torch.maximum(boxes1[..., 2:], boxes2[..., 2:]) - torch.minimum(boxes1[..., :2], boxes2[..., :2])
    hull = hull.clamp(min=0).prod(-1).clamp(min=eps)
    return intersection / union - (hull - union) / hull
