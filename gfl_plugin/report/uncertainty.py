"""Compare the predicted spread of sides with their true error, and measure intervals."""
import contextlib
from typing import Any, Dict, Optional

import numpy as np
import torch

from .. import conformal
from ..analysis.quality import SAMPLE
from ..analysis.reading import sample_of
from ..conformal import Calibration, MatchedDetections
from ..errors import SetupError

BINS = 10
SEEDS = (0, )  # of the halves that `calibrate` fits on; 0 is its default
TOLERANCE = 1e-3  # of a factor: the detector that was calibrated had its batch norms folded
UNKNOWN = ('The checkpoint does not say which images its intervals were fitted on. If these images are among them, the '
           'coverage looks better than it is.')
ON_OTHER_HALF = ('The intervals were fitted on a random half of these images. The coverage is measured on the other '
                 'half.')


def compare(matched: MatchedDetections, scores: np.ndarray, calibration: Optional[Calibration]) -> Dict[str, Any]:
    """The spread of the sides of M matched detections against their error, and the coverage of the intervals.

    Args:
        matched: M detections.
        scores: (M,).
        calibration: Of the checkpoint, if it is calibrated.
    """
    std, error = matched.std.ravel(), matched.errors.ravel()
    parts = np.array_split(np.argsort(std, kind='stable'), BINS)
    bins = [dict(std=_rms(std[part]), error=_rms(error[part]), count=len(part)) for part in parts if len(part)]
    return dict(bins=bins, sample=sample_of(dict(std=torch.from_numpy(std), error=torch.from_numpy(error)), SAMPLE),
                rank_correlation=conformal.rank_correlation(std, error),
                definition='The sides of the correct detections, in equally large groups by their predicted standard '
                'deviation, in pixels. Both numbers of a group are root mean squares',
                calibration=calibration and measure_coverage(calibration, matched, scores))


def measure_coverage(calibration: Calibration, matched: MatchedDetections, scores: np.ndarray) -> Dict[str, Any]:
    """Measure the intervals of a calibration on M matched detections, or on those of them that did not fit it."""
    matched = matched.select(scores >= calibration.score_thr)  # it says nothing about lower scores
    fitted = find_fitted_half(calibration, matched)
    report = conformal.evaluate(calibration, matched if fitted is None else matched.select(~fitted))
    return dict(coverage=report['coverage'], detections=report['detections'], images=report['images'],
                sides=report['sides'], boxes=report['boxes'], note=UNKNOWN if fitted is None else ON_OTHER_HALF)


def find_fitted_half(calibration: Calibration, matched: MatchedDetections) -> Optional[np.ndarray]:
    """(M,) which detections the calibration was fitted on, if it was fitted on a half of them; else None.

    A card does not say so. The same half gives the same numbers again.
    """
    for seed in SEEDS:
        half = conformal.first_half(matched.image, seed)
        if half.sum() == calibration.detections:
            with contextlib.suppress(SetupError):  # nothing can be fitted on so few, or for such a coverage
                again = conformal.fit(matched.select(half), calibration.coverage)
                if abs(again.side_factor - calibration.side_factor) <= TOLERANCE * calibration.side_factor:
                    return half
    return None


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
