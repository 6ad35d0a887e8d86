"""Sort detections into kinds of error (TIDE, Bolya et al., arXiv:2008.08115), and count confusions of classes."""
from typing import Dict, List, NamedTuple

import numpy as np
from pycocotools import mask

from ..evaluation.matching import ABSORBED, UNMATCHED, match_detections, to_xywh

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoUs
KINDS: Dict[str, str] = {
    'correct': f'It has the class of an object and an IoU of at least {FOREGROUND:g} with it, and no detection with a '
               'higher score took this object before.',
    'wrong_class': f'It has an IoU of at least {FOREGROUND:g} with an object of another class.',
    'poorly_placed': f'Its largest IoU with an object lies between {BACKGROUND:g} and {FOREGROUND:g}. TIDE counts '
                     'it apart if that object is of another class.',
    'duplicate': f'It has the class of an object and an IoU of at least {FOREGROUND:g} with it, but a detection with a '
                 'higher score took this object before.',
    'background': f'It has no IoU of {BACKGROUND:g} or more with any object.',
    'missed': 'An object without a correct detection. It does not count if a detection of another class, or a poorly '
              'placed one of its own class, covers it: that error is counted already.',
}
IGNORED = 'ignored'  # the kind of a detection in a crowd, which counts neither way


class Truth(NamedTuple):
    """The G objects of an image."""
    boxes: np.ndarray  # (G, 4) corners, pixels
    labels: np.ndarray  # (G,)
    ignored: np.ndarray  # (G,) bool: crowds, and what else counts neither way

    @property
    def objects(self) -> 'Truth':
        """Those that count."""
        return Truth(*(values[~self.ignored] for values in self))


class Judged(NamedTuple):
    """What the N detections of an image are, and what became of its G objects that count."""
    kinds: List[str]  # N, of KINDS, or IGNORED
    gt_index: np.ndarray  # (N,) the object of a correct detection, among those that count; else -1
    missed: np.ndarray  # (G,) bool


def judge_detections(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, truth: Truth) -> Judged:
    """Find the kind of each detection of an image. See :data:`KINDS`.

    Args:
        boxes, scores, labels: (N, 4), (N,) and (N,).
        truth: The objects of the image.
    """
    found = match_detections(boxes, scores, labels, *truth).gt_index
    place = np.cumsum(~truth.ignored) - 1  # of an object among those that count
    gt_index = np.array([place[index] if index >= 0 else UNMATCHED for index in found], int)
    objects = truth.objects
    is_missed = np.ones(len(objects.labels), bool)
    is_missed[gt_index[gt_index >= 0]] = False
    kinds = ['correct' if index >= 0 else IGNORED if index == ABSORBED else '' for index in found]
    if not len(objects.labels):
        return Judged([kind or 'background' for kind in kinds], gt_index, is_missed)
    iou = mask.iou(to_xywh(boxes), to_xywh(objects.boxes), [0] * len(objects.labels)) if len(boxes) else None
    for index in np.flatnonzero(found == UNMATCHED):
        is_same = objects.labels == labels[index]
        same, other = np.where(is_same, iou[index], -1), np.where(is_same, -1, iou[index])
        kinds[index] = _kind_of_error(same.max(), other.max())
        if BACKGROUND <= same.max() < FOREGROUND:
            is_missed[same.argmax()] = False
        elif kinds[index] == 'wrong_class':
            is_missed[other.argmax()] = False
    return Judged(kinds, gt_index, is_missed)


def _kind_of_error(same: float, other: float) -> str:
    """The kind by the largest IoUs with an object of the same and of another class, in the order of TIDE."""
    if BACKGROUND <= same < FOREGROUND:
        return 'poorly_placed'
    if other >= FOREGROUND:
        return 'wrong_class'
    if same >= FOREGROUND:
        return 'duplicate'
    return 'background' if max(same, other) < BACKGROUND else 'poorly_placed'


def count_confusions(matrix: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray,
                     truth: Truth) -> None:
    """Add the detections of an image to a matrix, in place.

    A detection takes the object of the highest IoU, whatever its class, as :func:`match_detections` does.

    Args:
        matrix: (C+1, C+1), rows of true classes and columns of predicted ones; the last of each is the background.
        boxes, scores, labels, truth: As of :func:`judge_detections`.
    """
    background = len(matrix) - 1
    found = match_detections(boxes, scores, np.zeros(len(boxes), int), truth.boxes, np.zeros(len(truth.boxes), int),
                             truth.ignored, FOREGROUND).gt_index
    is_match, is_free = found >= 0, ~truth.ignored
    np.add.at(matrix, (truth.labels[found[is_match]], np.asarray(labels)[is_match]), 1)
    np.add.at(matrix, (background, np.asarray(labels)[found == UNMATCHED]), 1)
    is_free[found[is_match]] = False
    np.add.at(matrix, (truth.labels[is_free], background), 1)
