"""Boxes as x1, y1, x2, y2: centres, distances to the sides, overlaps. Any unit, one unit at a time."""
import math
from typing import Tuple

import torch
from torch import Tensor

# exp(dw) of a predicted size stays within 16/1000 and 1000/16 (MMDetection's constant).
MAX_LOG_RATIO = math.log(1000 / 16)
# A distance is a target of DFL up to this far below the last bin, in bins (likewise).
BELOW_LAST_BIN = 0.1


def box_center(boxes: Tensor) -> Tensor:
    """Centres (..., 2) as x, y of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def distance_to_box(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (..., 4) from points (..., 2) as x, y and distances (..., 4) to the left, top, right and bottom side."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def distances_to_places(points: Tensor, distances: Tensor) -> Tensor:
    """Places (K, 4, M) of the sides of boxes: x of the left and right side, y of the top and bottom side.

    Args:
        points: (K, 2) as x, y.
        distances: (K, 4, M) from the points to M places of the left, top, right and bottom side.
    """
    points = points[..., None]
    return torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1)


def clip_boxes(boxes: Tensor, shapes: Tensor) -> Tensor:
    """Boxes (..., 4) cut to images of ``shapes`` (..., 2), height and width, in the unit of the boxes."""
    limit = shapes.flip(-1).to(boxes)  # x before y
    return boxes.clamp(min=0).minimum(torch.cat([limit, limit], -1))


def side_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances (..., 4) from points (..., 2) to the left, top, right and bottom side of boxes (..., 4)."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def box_to_distance(points: Tensor, boxes: Tensor, reg_max: float, eps: float = BELOW_LAST_BIN) -> Tensor:
    """Distances (..., 4) from points (..., 2) to the sides of boxes (..., 4), clamped to [0, reg_max - eps].

    The clamp keeps the bin on the right of a target, ``floor(y) + 1``, inside the distribution (DFL, eq. 6).
    """
    return side_distances(points, boxes).clamp(0, reg_max - eps)


def delta_to_box(priors: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (..., 4) from deltas (..., 4) to prior boxes (..., 4) (R-CNN, arXiv:1311.2524, appendix C).

    (dx, dy) moves the centre, in units of the prior's size. (dw, dh) is the logarithm of the ratio of the sizes.
    """
    size = priors[..., 2:] - priors[..., :2]
    center = box_center(priors) + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    return torch.cat([center - half, center + half], -1)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), (...) in [0, 1] (FCOS, arXiv:1904.01355, eq. 3).

    1 in the middle of the box, 0 on its sides and outside.

    Args:
        points: (..., 2) as x, y.
        boxes: (..., 4).
    """
    left_top, right_bottom = side_distances(points, boxes).split(2, -1)
    far = torch.maximum(left_top, right_bottom).clamp(min=torch.finfo(points.dtype).tiny)
    return (torch.minimum(left_top, right_bottom).clamp(min=0) / far).prod(-1).sqrt()


def _area(size: Tensor) -> Tensor:
    """Width times height, (...) of (..., 2). Not ``prod``: its derivative takes a dozen steps on a GPU."""
    return size[..., 0] * size[..., 1]


def _intersection_and_union(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tuple[Tensor, Tensor]:
    area1, area2 = (_area(b[..., 2:] - b[..., :2]) for b in (boxes1, boxes2))
    overlap = torch.minimum(boxes1[..., 2:], boxes2[..., 2:]) - torch.maximum(boxes1[..., :2], boxes2[..., :2])
    intersection = _area(overlap.clamp(min=0))
    return intersection, (area1 + area2 - intersection).clamp(min=eps)


def iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-6) -> Tensor:
    """Intersection over union (...) of boxes (..., 4) paired by broadcasting; unions are at least ``eps``."""
    intersection, union = _intersection_and_union(boxes1, boxes2, eps)
    return intersection / union


def best_iou(boxes: Tensor, labels: Tensor, gt_boxes: Tensor, gt_labels: Tensor) -> Tensor:
    """(N,) largest IoU of each box (N, 4) and a ground truth (G, 4) of its label (N,); 0 if there is none."""
    if not len(gt_boxes):
        return boxes.new_zeros(len(boxes))
    return (iou(boxes[:, None], gt_boxes) * (labels[:, None] == gt_labels)).amax(1)


def giou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Generalized IoU (...) in [-1, 1] of paired boxes (..., 4) (arXiv:1902.09630, algorithm 1)."""
    intersection, union = _intersection_and_union(boxes1, boxes2, eps)
    hull = torch.maximum(boxes1[..., 2:], boxes2[..., 2:]) - torch.minimum(boxes1[..., :2], boxes2[..., :2])
    hull = _area(hull.clamp(min=0)).clamp(min=eps)
    return intersection / union - (hull - union) / hull


def ciou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU (...) of paired boxes (..., 4): IoU - rho^2 / c^2 - alpha v (arXiv:2005.03572, eq. 10 to 13).

    rho is the distance of the centres, c the diagonal of the hull, v how far the aspect ratios differ, and alpha,
    which has no gradient, 0 up to an IoU of one half (as MMDetection does; not in the paper).
    """
    overlap = torch.div(*_intersection_and_union(boxes1, boxes2, eps))
    hull = torch.maximum(boxes1[..., 2:], boxes2[..., 2:]) - torch.minimum(boxes1[..., :2], boxes2[..., :2])
    diagonal = hull.clamp(min=0).square().sum(-1) + eps
    distance = (box_center(boxes1) - box_center(boxes2)).square().sum(-1)
    width1, width2 = ((b[..., 2] - b[..., 0]) for b in (boxes1, boxes2))
    height1, height2 = ((b[..., 3] - b[..., 1] + eps) for b in (boxes1, boxes2))
    v = 4 / math.pi**2 * ((width2 / height2).atan() - (width1 / height1).atan()).square()
    with torch.no_grad():
        alpha = (overlap > 0.5) * v / (1 - overlap + v).clamp(min=eps)
    return overlap - distance / diagonal - alpha * v
