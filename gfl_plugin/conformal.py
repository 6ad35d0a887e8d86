"""Intervals that contain the true sides of boxes with about a chosen probability (split conformal prediction).

Errors are measured in units of the predicted spread (Lei et al., arXiv:1604.04173, section 5.2). A quantile of these
errors on calibration images becomes the factor of all intervals.

What is promised: if new images are like the calibration images (exchangeable), about the chosen share of all sides of
matched detections (same class, IoU of at least 0.5, score above the threshold) lies in their intervals. This is a mean
over many images.

Why only about: split conformal prediction is exact for independent units. Here the independent units are images, but
the quantile pools the sides of all images, and the sides in one image depend on each other. More images make the share
more exact; more objects in the same images hardly do.

What is not promised: the same share for each size, class or image, and anything about detections that match no object.
"""
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from .errors import SetupError

# Pixels that are added to each spread. Labels lie on whole pixels, so that even a perfect detector is off by up to half
# a pixel; without it, a spread of 0 would promise an error of 0. It is a constant, because the probability above holds
# only if nothing but the factor depends on the errors.
EPS = 0.5
# The fewest detections of a size or class that is reported. With 50 of them, a coverage of 90% has a standard error of
# 4 points.
MIN_GROUP = 50
SIZES = dict(small=(0, 32**2), medium=(32**2, 96**2), large=(96**2, math.inf))  # COCO's, in square pixels
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LARGEST = 1e9  # of a number in a calibration, to refuse what would overflow
LARGEST_BY_NAME = dict(coverage=1, score_thr=1)
ROUNDING = 1e-9  # a product such as 10 * 0.9 must not count as more than 9


class MatchedDetections(NamedTuple):
    """M detections and the objects that they match. Sides are left, top, right and bottom, in pixels."""
    sides: np.ndarray  # (M, 4) predicted
    truth: np.ndarray  # (M, 4)
    std: np.ndarray  # (M, 4) predicted standard deviations of the sides
    image: np.ndarray  # (M,) the image of each detection, as any number

    @classmethod
    def of(cls, sides: Sequence, truth: Sequence, std: Sequence, image: Sequence) -> 'MatchedDetections':
        """Check and convert the arrays.

        Raises:
            SetupError: A value is not finite, or a standard deviation is negative.
            ValueError: The arrays have other shapes.
        """
        matched = cls(*(np.asarray(x, np.float64) for x in (sides, truth, std)), np.asarray(image))
        shapes, count = [x.shape for x in matched], len(matched.image)
        if shapes != [(count, 4)] * 3 + [(count, )]:
            raise ValueError(f'sides, truth and std should be (M, 4), and image (M,), but the shapes are {shapes}')
        for values, name, lowest in ((matched.sides, 'side', -np.inf), (matched.truth, 'true side', -np.inf),
                                     (matched.std, 'standard deviation', 0)):
            is_bad = ~(np.isfinite(values) & (values >= lowest)).all(1)
            if is_bad.any():
                raise SetupError(f'{is_bad.sum()} of {count} matched detections have a {name} that is not a finite '
                                 f'number{" of at least 0" if lowest == 0 else ""}, such as '
                                 f'{values[is_bad][0].tolist()}: nothing can be calibrated with them')
        return matched

    def select(self, keep: np.ndarray) -> 'MatchedDetections':
        """Some of the detections, by a mask (M,) or indices."""
        return MatchedDetections(*(x[keep] for x in self))

    @property
    def errors(self) -> np.ndarray:
        """(M, 4) distances between predicted and true sides, pixels."""
        return np.abs(self.sides - self.truth)

    @property
    def areas(self) -> np.ndarray:
        """(M,) areas of the true boxes, square pixels."""
        return (self.truth[:, 2:] - self.truth[:, :2]).prod(1)


@dataclass(frozen=True)
class Calibration:
    """What turns the spreads of sides into intervals.

    An interval is the side, plus and minus a factor times (its standard deviation + ``eps``).

    Attributes:
        coverage: The probability that it is for, between 0 and 1.
        side_factor: Factor of intervals that each contain their side with this probability.
        box_factor: Factor of intervals of which all four contain their side with this probability.
        side_fixed, box_fixed: Half the width, in pixels, of intervals that ignore the spreads, for comparison.
        eps: Pixels added to each standard deviation.
        detections, images: How many it was fitted on.
        score_thr: The lowest score of these detections, from 0 to 1. It says nothing about lower scores.
    """
    coverage: float
    side_factor: float
    box_factor: float
    side_fixed: float
    box_fixed: float
    eps: float
    detections: int
    images: int
    score_thr: float

    def intervals(self, sides: np.ndarray, std: np.ndarray, whole_box: bool = False) -> np.ndarray:
        """(N, 4, 2) lower and upper end of the interval of each side, pixels.

        Args:
            sides: (N, 4) predicted sides, pixels.
            std: (N, 4) their standard deviations.
            whole_box: Whether all four sides of a box should lie in their intervals at once.
        """
        half = (self.box_factor if whole_box else self.side_factor) * (std + self.eps)
        return np.stack([sides - half, sides + half], -1)

    def to_dict(self) -> Dict[str, Any]:
        """Plain numbers, for JSON or a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> 'Calibration':
        """Read what :meth:`to_dict` wrote. The content may come from a stranger's file.

        Raises:
            SetupError: A key is missing or unknown, or a value is no number that it can be.
        """
        names = {field.name: field.type for field in fields(cls)}
        if not isinstance(content, dict) or content.keys() != names.keys():
            raise SetupError(f'The calibration is not a table of {", ".join(names)}: calibrate the detector again')
        for name, value in content.items():
            is_number = isinstance(value, int if names[name] is int else (int, float)) and not isinstance(value, bool)
            is_possible = is_number and 0 <= value <= LARGEST_BY_NAME.get(name, LARGEST)
            if not is_possible or (name == 'coverage' and value == 1):
                raise SetupError(f'The calibration has {name}={value!r:.50}, which it cannot be: calibrate the '
                                 'detector again')
        return cls(**content)


def fit(matched: MatchedDetections, coverage: float, score_thr: float = 0.0) -> Calibration:
    """Choose the factors that cover a share of the errors, on images that did not train the detector.

    Args:
        matched: M detections in one half of the images; the other half measures the intervals.
        coverage: Probability that an interval contains the truth, between 0 and 1.
        score_thr: The threshold that the scores of these detections reach, from 0 to 1.

    Raises:
        SetupError: ``coverage`` is not between 0 and 1, or M is too small for it.
    """
    if not 0 < coverage < 1:
        raise SetupError(f'A coverage of {coverage:g} is not between 0 and 1')
    needed, count = fewest(coverage), len(matched.image)
    if count < needed:
        raise SetupError(f'A coverage of {coverage:g} needs at least {needed} detections that match an object, and '
                         f'this half of the images has {count}: use more images, or a lower coverage')
    errors = matched.errors
    scaled = errors / (matched.std + EPS)
    side_factor, side_fixed = (_quantile(x.ravel(), coverage) for x in (scaled, errors))
    box_factor, box_fixed = (_quantile(x.max(1), coverage) for x in (scaled, errors))
    return Calibration(float(coverage), side_factor, box_factor, side_fixed, box_fixed, EPS, count,
                       len(np.unique(matched.image)), float(score_thr))


def first_half(image: np.ndarray, seed: int) -> np.ndarray:
    """(M,) which detections lie in a random half of the images; all detections of an image go the same way.

    Args:
        image: (M,) the image of each detection.
        seed: Another seed gives another half.
    """
    images = np.random.default_rng(seed).permutation(np.unique(image))
    return np.isin(image, images[:len(images) // 2])


def evaluate(calibration: Calibration, matched: MatchedDetections, labels: Optional[np.ndarray] = None,
             classes: Sequence[str] = ()) -> Dict[str, Any]:
    """Measure intervals on images that the calibration has not seen, beside intervals of a fixed width.

    Args:
        calibration: From :func:`fit`.
        matched: M detections of other images.
        labels: (M,) indices into ``classes``, to measure each class too.
        classes: Names.

    Returns:
        Numbers for JSON: ``detections``, ``images``, what :func:`_measure` returns, ``by_size`` and ``by_class``.
        Sizes and classes with fewer than ``MIN_GROUP`` detections are left out.
    """
    groups: Dict[str, Dict[str, np.ndarray]] = dict(
        by_size={name: (low <= matched.areas) & (matched.areas < high) for name, (low, high) in SIZES.items()},
        by_class={} if labels is None else {name: np.asarray(labels) == i for i, name in enumerate(classes)})
    report = dict(coverage=calibration.coverage, images=len(np.unique(matched.image)), **_measure(calibration, matched))
    for kind, members in groups.items():
        report[kind] = {name: _measure(calibration, matched.select(mask)) for name, mask in members.items()
                        if mask.sum() >= MIN_GROUP}
    return report


def _measure(calibration: Calibration, matched: MatchedDetections) -> Dict[str, Any]:
    """Coverage and mean width, in pixels, of sides and of whole boxes, and the rank correlation of spread and error.

    A box counts as covered if all of its sides are. The width of a box's intervals is their mean over its sides.
    """
    count, scale, errors = len(matched.image), matched.std + calibration.eps, matched.errors
    report: Dict[str, Any] = dict(detections=count, rank_correlation=rank_correlation(matched.std, errors))
    for name, factor, fixed in (('sides', calibration.side_factor, calibration.side_fixed),
                                ('boxes', calibration.box_factor, calibration.box_fixed)):
        inside, inside_fixed = errors / scale <= factor, errors <= fixed  # as they were fitted: equal counts
        if name == 'boxes':
            inside, inside_fixed = inside.all(1), inside_fixed.all(1)
        report[name] = dict(coverage=_mean(inside), width=_mean(2 * factor * scale),
                            fixed_coverage=_mean(inside_fixed), fixed_width=2 * fixed)
    return report


def reliability(calibrating: MatchedDetections, measured: MatchedDetections,
                levels: Sequence[float] = LEVELS) -> List[Dict[str, float]]:
    """What intervals of several coverages really cover, on images that the calibration has not seen.

    Returns:
        For each level a dict of ``coverage``, which was asked for, and of ``sides`` and ``boxes``, which were measured.
        Levels that need more detections are left out.
    """
    rows = []
    for level in levels:
        if fewest(level) <= len(calibrating.image):
            report = _measure(fit(calibrating, level), measured)
            rows.append(dict(coverage=level, **{name: report[name]['coverage'] for name in ('sides', 'boxes')}))
    return rows


def rank_correlation(first: np.ndarray, second: np.ndarray) -> Optional[float]:
    """Spearman's rank correlation of two arrays of one shape; None if all values of one of them are equal."""
    ranks = [_ranks(x.ravel()) for x in (first, second)]
    if not all(len(x) and np.ptp(x) for x in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks (N,) from 1; equal values share the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[index]


def fewest(coverage: float) -> int:
    """How many detections :func:`fit` needs: the smallest m that has a ceil((m + 1) coverage)-th smallest value."""
    return math.ceil(coverage / (1 - coverage) - ROUNDING)


def _quantile(values: np.ndarray, coverage: float) -> float:
    """The ceil((m + 1) coverage)-th smallest of m values: a new one is at most as large with this probability."""
    rank = min(math.ceil((len(values) + 1) * coverage - ROUNDING), len(values))
    return float(np.partition(values, rank - 1)[rank - 1])


def _mean(values: np.ndarray) -> Optional[float]:
    return float(values.mean()) if values.size else None
