"""Match detections to ground truths as COCO does, and find the score threshold of the best F1."""
from typing import NamedTuple, Optional

import numpy as np
from pycocotools import mask

UNMATCHED, ABSORBED = -1, -2


class DetectionMatches(NamedTuple):
    """What the N detections of an image are.

    Attributes:
        gt_index: (N,) int, index of the matched ground truth; :data:`UNMATCHED` for a false positive;
            :data:`ABSORBED` for a detection in an ignored region, which counts neither way.
        iou: (N,) IoU with the matched ground truth, or with the ignored region by the detection's area; else 0.
    """
    gt_index: np.ndarray
    iou: np.ndarray


class OperatingPoint(NamedTuple):
    """The best F1, and the score threshold that gives it: detections with a higher score are kept."""
    f1: float
    score_thr: float


def match_detections(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, gt_boxes: np.ndarray,
                     gt_labels: np.ndarray, gt_ignored: np.ndarray, iou_thr: float = 0.5) -> DetectionMatches:
    """Match the detections of one image, greedily from the highest score to the lowest.

    A detection takes the ground truth of its class that has the highest IoU among those that are still free. If none
    reaches the threshold, an ignored region of its class may absorb it, as often as needed. Ties are broken as in
    pycocotools: the first of equal scores comes first, and the last of equal IoUs is taken.

    Args:
        boxes, gt_boxes: (N, 4), (G, 4) corners (x1, y1, x2, y2).
        scores, labels: (N,).
        gt_labels: (G,).
        gt_ignored: (G,) bool, crowds and other regions to ignore.
        iou_thr: The smallest IoU of a match.
    """
    gt_index, matched_iou = np.full(len(boxes), UNMATCHED), np.zeros(len(boxes))
    if len(boxes) == 0 or len(gt_boxes) == 0:
        return DetectionMatches(gt_index, matched_iou)
    ignored = np.asarray(gt_ignored, dtype=bool)
    iou = mask.iou(to_xywh(boxes), to_xywh(gt_boxes), ignored.astype(np.uint8))
    iou = np.where(np.asarray(labels)[:, None] == np.asarray(gt_labels)[None], iou, -1.0)
    iou_thr = min(iou_thr, 1 - 1e-10)
    is_free = ~ignored
    order = np.argsort(-np.asarray(scores), kind='stable')
    for index in order[iou.max(1)[order] >= iou_thr]:  # most detections reach no ground truth
        for usable, is_region in ((is_free, False), (ignored, True)):
            best = _last_largest(np.where(usable, iou[index], -1.0))
            if iou[index, best] >= iou_thr and usable[best]:
                matched_iou[index] = iou[index, best]
                if is_region:
                    gt_index[index] = ABSORBED
                else:
                    gt_index[index], is_free[best] = best, False
                break
    return DetectionMatches(gt_index, matched_iou)


def best_f1(scores: np.ndarray, is_true: np.ndarray, num_truth: int) -> Optional[OperatingPoint]:
    """Find the score threshold of the best F1 over all classes and images.

    The threshold lies halfway between the lowest score that is kept and the next lower one, or 0 if there is none. Of
    equal F1 the highest threshold is taken.

    Args:
        scores: (N,) of the detections, without those that an ignored region absorbs.
        is_true: (N,) bool, whether a detection matches a ground truth.
        num_truth: The number of ground truths.

    Returns:
        None if there are no ground truths, or no detection matches one.
    """
    order = np.argsort(-np.asarray(scores), kind='stable')
    scores, is_true = np.asarray(scores, dtype=np.float64)[order], np.asarray(is_true, dtype=bool)[order]
    if num_truth == 0 or not is_true.any():
        return None
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # equal scores are kept or dropped together
    f1 = 2 * np.cumsum(is_true)[ends] / (ends + 1 + num_truth)
    best = int(f1.argmax())
    next_lower = scores[ends[best] + 1] if best + 1 < len(ends) else 0.0
    return OperatingPoint(float(f1[best]), float((scores[ends[best]] + next_lower) / 2))


def to_xywh(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) corner and size, as pycocotools takes boxes, from corners (x1, y1, x2, y2)."""
    boxes = np.array(boxes, dtype=np.float64)  # a copy
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _last_largest(values: np.ndarray) -> int:
    return len(values) - 1 - int(values[::-1].argmax())
