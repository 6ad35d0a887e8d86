"""The detections of one image."""
import os
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..conformal import Calibration
from ..errors import SetupError
from ..heads.test_time_augmentation import SIDE_FIELDS
from ..visualization import draw_detections, draw_distributions
from ..visualization.files import WRITABLE, write_picture
from ..visualization.gallery import make_tile
from .images import Source, read_image

DETECTION_FIELDS = ('boxes', 'scores', 'labels', *SIDE_FIELDS)


@dataclass(frozen=True, eq=False)  # arrays have no equality that is true or false
class Result:
    """N detections in one image, best first.

    Attributes:
        boxes: (N, 4) float32, left, top, right, bottom, in pixels of the original image.
        scores: (N,) float32, from 0 to 1.
        labels: (N,) int64, indices of ``classes``.
        classes: The names of all classes.
        size: Width and height of the original image, pixels.
        source: Where the image came from.
        side_std: (N, 4) standard deviation of the left, top, right and bottom side, pixels. This and the following are
            None unless the detector was asked for them.
        side_places, side_probs: (N, 4, n+1) where each side may be, x or y in pixels, and how probable each place is.
        calibration: What turns ``side_std`` into intervals, if the detector was calibrated.
    """
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: Tuple[str, ...]
    size: Tuple[int, int]
    source: Source = field(repr=False)
    side_std: Optional[np.ndarray] = None
    side_places: Optional[np.ndarray] = field(default=None, repr=False)
    side_probs: Optional[np.ndarray] = field(default=None, repr=False)
    calibration: Optional[Calibration] = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: Any) -> 'Result':
        """Some of the detections, by a mask (N,), indices, a slice, or one index."""
        if isinstance(keep, (int, np.integer)):
            if not -len(self) <= keep < len(self):
                raise IndexError(f'there is no detection {keep} among {len(self)}')
            keep = [keep]
        given = {name: getattr(self, name) for name in DETECTION_FIELDS}
        return replace(self, **{name: values[keep] for name, values in given.items() if values is not None})

    @property
    def path(self) -> Optional[str]:
        """The file of the image; None if it was given as an array or as a PIL image."""
        return self.source.content if isinstance(self.source.content, str) else None

    @property
    def names(self) -> List[str]:
        """The class name of each detection."""
        return [self.classes[label] for label in self.labels]

    @property
    def side_interval(self) -> Optional[np.ndarray]:
        """(N, 4, 2) lower and upper end of an interval for each side, pixels; None without ``tools/calibrate.py``.

        See :mod:`gfl_plugin.conformal` for what the intervals promise.
        """
        return self._intervals(whole_box=False)

    @property
    def box_interval(self) -> Optional[np.ndarray]:
        """As :attr:`side_interval`, but wider: all four sides of a box lie in their intervals at once."""
        return self._intervals(whole_box=True)

    @property
    def doubt(self) -> Optional[float]:
        """Of the detections, the largest mean spread of the sides, as a share of the square root of the box's area.

        None without detections, or without spreads.
        """
        if self.side_std is None or not len(self):
            return None
        size = np.sqrt((self.boxes[:, 2:] - self.boxes[:, :2]).clip(1).prod(1))
        return float((self.side_std.mean(1) / size).max())

    def _intervals(self, whole_box: bool) -> Optional[np.ndarray]:
        if self.side_std is None or self.calibration is None:
            return None
        return self.calibration.intervals(self.boxes, self.side_std, whole_box)

    def to_coco(self, image_id: int = 0, category_ids: Optional[Sequence[int]] = None) -> List[Dict[str, Any]]:
        """The detections as entries of COCO's results format.

        Args:
            image_id: Of this image.
            category_ids: The id of each class; by default they count from 1.
        """
        ids = range(1, len(self.classes) + 1) if category_ids is None else category_ids
        corner, size = self.boxes[:, :2].astype(float), (self.boxes[:, 2:] - self.boxes[:, :2]).astype(float)
        return [dict(image_id=image_id, category_id=int(ids[label]), bbox=box, score=float(score))
                for box, score, label in zip(np.hstack([corner, size]).tolist(), self.scores, self.labels)]

    def to_supervision(self) -> Any:
        """``supervision.Detections``, for its trackers, annotators and video tools.

        Raises:
            SetupError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise SetupError(f'to_supervision() needs supervision ({error}): pip install supervision') from error
        return supervision.Detections(xyxy=self.boxes, confidence=self.scores, class_id=self.labels,
                                      data=dict(class_name=np.array(self.names, dtype=str)))

    def draw(self) -> np.ndarray:
        """The image with its detections drawn on it, (H, W, 3) uint8, blue, green, red.

        If the distributions of the sides are known, they are drawn as curves, and the intervals as bands.
        """
        return self._draw_on(self.image(), 1.0)

    def tile(self) -> np.ndarray:
        """The drawn image, shrunk to a square tile for a sheet of several images."""
        return make_tile(self.image(), self._draw_on)

    def _draw_on(self, image: np.ndarray, zoom: float) -> np.ndarray:
        """Draw on an image of ``zoom`` times the original size."""
        found = self.boxes * zoom, self.scores, self.labels, self.classes
        if self.side_probs is None:
            return draw_detections(image, *found)
        intervals = self.side_interval
        return draw_distributions(image, *found, self.side_places * zoom, self.side_probs,
                                  None if intervals is None else intervals * zoom)

    def save(self, path: str) -> None:
        """Write the drawn image to a file, in the format of its suffix.

        Raises:
            SetupError: The suffix is no format of images.
            OSError: The file cannot be written.
        """
        suffix = os.path.splitext(path)[1]
        if suffix.lower() not in WRITABLE:
            raise SetupError(f'{path} cannot be written: {suffix or "a name without a suffix"} is no format of images')
        write_picture(path, self.draw())

    def image(self) -> np.ndarray:
        """The original image, (H, W, 3) uint8, blue, green, red. A file is read again.

        Raises:
            ImageError: The file has changed since.
        """
        return read_image(self.source)
