"""Collect, image by image, what the page shows about the detections of a data set."""
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from ..analysis.quality import LEAST_SCORE, SAMPLE
from ..analysis.reading import rank_correlation, sample_of
from ..conformal import MatchedDetections
from ..functional.boxes import best_iou
from ..inference import Result
from .mistakes import IGNORED, KINDS, Judged, Truth, count_confusions, judge_detections

MOST_IMAGES = 12  # of the worst, and of the most doubtful
MOST_CONFUSED = 20  # classes in the confusion matrix
BINS = 10
ERRORS = tuple(kind for kind in KINDS if kind != 'correct')


class Seen(NamedTuple):
    """An image to show."""
    order: int  # its place among the images
    file: str  # its name in the data set
    result: Result  # the detections that reach the threshold
    judged: Judged
    truth: Truth

    @property
    def counts(self) -> Dict[str, int]:
        """How many there are of each kind."""
        found = {kind: self.judged.kinds.count(kind) for kind in KINDS}
        return dict(found, missed=int(self.judged.missed.sum()))


class Tally:
    """The numbers of all images so far.

    It keeps some numbers of each detection, and whole results of few images only: the distributions of all detections
    would not fit into memory.

    Args:
        num_classes: C.
        score_thr: The lowest score of the detections that are sorted into kinds; :data:`LEAST_SCORE` is that of those
            whose score is compared with their IoU.

    Attributes:
        num_images: So far.
        has_spreads: Whether the detections have spreads of their sides.
        objects: (C,) number of objects of each class.
    """

    def __init__(self, num_classes: int, score_thr: float) -> None:
        self.num_images, self.has_spreads, self._score_thr = 0, False, score_thr
        self.objects, self._found, self._right = (np.zeros(num_classes, int) for _ in range(3))
        self._confusions = np.zeros((num_classes + 1, num_classes + 1), int)
        self._kinds = dict.fromkeys(KINDS, 0)
        self._scores: List[Tuple[np.ndarray, np.ndarray]] = []
        self._matched: List[Tuple[np.ndarray, ...]] = []
        self._worst: List[Seen] = []
        self._doubtful: List[Seen] = []

    def add(self, file: str, result: Result, truth: Truth) -> None:
        """Add the detections of an image, with all scores."""
        self._compare_scores(result, truth)
        result = result[result.scores >= self._score_thr]
        found = result.boxes, result.scores, result.labels
        judged = judge_detections(*found, truth)
        count_confusions(self._confusions, *found, truth)
        seen = Seen(self.num_images, file, result, judged, truth)
        for kind, count in seen.counts.items():
            self._kinds[kind] += count
        is_right = np.array([kind == 'correct' for kind in judged.kinds], bool)
        counts_as_found = np.array([kind != IGNORED for kind in judged.kinds], bool)
        for count, labels in ((self.objects, truth.objects.labels), (self._right, result.labels[is_right]),
                              (self._found, result.labels[counts_as_found])):
            count += np.bincount(labels, minlength=len(count))
        if result.side_std is not None:
            self.has_spreads = True
            self._matched.append((result.boxes[is_right], truth.objects.boxes[judged.gt_index[is_right]],
                                  result.side_std[is_right], np.full(is_right.sum(), self.num_images),
                                  result.scores[is_right]))
        self._keep(seen)
        self.num_images += 1

    def _compare_scores(self, result: Result, truth: Truth) -> None:
        """Note the score of each detection, and its true IoU. Those in crowds are left out."""
        result = result[result.scores > LEAST_SCORE]
        if truth.ignored.any():
            kinds = judge_detections(result.boxes, result.scores, result.labels, truth).kinds
            result = result[np.array([kind != IGNORED for kind in kinds], bool)]
        objects = truth.objects
        ious = best_iou(*(torch.as_tensor(values) for values in (
            result.boxes, result.labels, objects.boxes.astype(np.float32), objects.labels)))
        self._scores.append((result.scores, ious.numpy()))

    def _keep(self, seen: Seen) -> None:
        """Keep an image if it is among the worst or the most doubtful so far."""
        if _errors(seen):
            _insert(self._worst, seen, lambda one: (-_errors(one), one.counts['correct'], one.order))
        if seen.result.doubt is not None:
            _insert(self._doubtful, seen, lambda one: (-one.result.doubt, one.order))

    # ---- what the page shows ----

    def classes(self, names: Sequence[str], ap: Sequence[Optional[float]],
                ap50: Sequence[Optional[float]]) -> List[Dict[str, Any]]:
        """A row for each class. Values that a class without objects, or without detections, has not are None."""
        return [dict(name=name, objects=int(objects), AP=ap[i] if objects else None, AP50=ap50[i] if objects else None,
                     precision=int(self._right[i]) / int(self._found[i]) if objects and self._found[i] else None,
                     recall=int(self._right[i]) / int(objects) if objects else None)
                for i, (name, objects) in enumerate(zip(names, self.objects))]

    def confusion(self, names: Sequence[str]) -> Dict[str, Any]:
        """The confusion matrix, of the classes with most confusions if there are many."""
        matrix, count = self._confusions, len(names)
        shown = range(count)
        if count > MOST_CONFUSED:
            wrong = matrix - np.diag(matrix.diagonal())
            confusions = (wrong.sum(0) + wrong.sum(1))[:count]
            shown = sorted(np.argsort(-confusions, kind='stable')[:MOST_CONFUSED].tolist())
        rows = [*shown, count]
        return dict(labels=[*(names[index] for index in shown), 'background'],
                    matrix=matrix[np.ix_(rows, rows)].tolist(),
                    shown='all' if count <= MOST_CONFUSED else f'the {MOST_CONFUSED} classes with the most confusions')

    def errors(self) -> Dict[str, Any]:
        """How many detections, or objects, there are of each kind, and what the kinds are."""
        return dict(self._kinds, definitions=dict(KINDS))

    def quality(self) -> Dict[str, Any]:
        """Score against true IoU."""
        score, iou = (torch.from_numpy(np.concatenate([np.empty(0, np.float32), *column]))
                      for column in (zip(*self._scores) if self._scores else ((), ())))
        place = (score * BINS).long().clamp(max=BINS - 1)
        bins = [dict(score=float(score[place == index].mean()), iou=float(iou[place == index].mean()),
                     count=int((place == index).sum())) for index in range(BINS) if (place == index).any()]
        return dict(bins=bins, sample=sample_of(dict(score=score, iou=iou), SAMPLE),
                    rank_correlation=rank_correlation(score, iou), least_score=LEAST_SCORE, count=len(score),
                    definition=f'All detections with a score above {LEAST_SCORE:g}. The true IoU is the largest one '
                    'with an object of the same class, or 0 without one. The study "quality" of the tool analyze takes '
                    'the boxes before non-maximum suppression instead')

    def matched(self) -> Tuple[MatchedDetections, np.ndarray]:
        """The correct detections whose sides have a spread, and their scores (M,)."""
        shapes = (0, 4), (0, 4), (0, 4), (0, ), (0, )
        *columns, scores = (np.concatenate([np.empty(shape), *column]) for shape, column in zip(
            shapes, zip(*self._matched) if self._matched else [()] * 5))
        usable = np.isfinite(np.hstack(columns[:3])).all(1)
        return MatchedDetections.of(*(column[usable] for column in columns)), scores[usable]

    def images(self) -> Tuple[List[Seen], List[int], List[int]]:
        """The images to show, and which of them are the worst and the most doubtful, first the most so."""
        shown = list({one.order: one for one in (*self._worst, *self._doubtful)}.values())
        place = {one.order: index for index, one in enumerate(shown)}
        worst, doubtful = ([place[one.order] for one in kept] for kept in (self._worst, self._doubtful))
        return shown, worst, doubtful


def _errors(seen: Seen) -> int:
    return sum(seen.counts[kind] for kind in ERRORS)


def _insert(kept: List[Seen], seen: Seen, key: Callable[[Seen], Any]) -> None:
    kept.append(seen)
    kept.sort(key=key)
    del kept[MOST_IMAGES:]
