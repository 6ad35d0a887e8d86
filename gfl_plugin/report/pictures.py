"""The images that the page shows, small enough to embed, with their objects and detections as numbers."""
import base64
from typing import Any, Dict, List, Optional, Tuple

import cv2
import numpy as np

from ..inference import ImageError
from .mistakes import IGNORED
from .tally import Seen

LONGEST, QUALITY = 720, 80  # pixels of the longer side, and of JPEG


def describe(seen: Seen) -> Dict[str, Any]:
    """An image as plain data. ``src`` and ``view`` are None if its file has gone since the detection."""
    result, (width, height) = seen.result, seen.result.size
    view, src = embed(seen)
    objects = seen.truth.objects
    return dict(
        file=seen.file, width=width, height=height, view=view, src=src,
        truth=[dict(box=_round(box, 2), name=result.classes[label], missed=bool(missed))
               for box, label, missed in zip(objects.boxes, objects.labels, seen.judged.missed)],
        found=[_describe_detection(seen, index) for index, kind in enumerate(seen.judged.kinds) if kind != IGNORED],
        counts=seen.counts, doubt=result.doubt)


def _describe_detection(seen: Seen, index: int) -> Dict[str, Any]:
    result = seen.result

    def rounded(values: Optional[np.ndarray], digits: int) -> Any:
        return None if values is None else _round(values[index], digits)

    return dict(box=rounded(result.boxes, 2), name=result.names[index], score=rounded(result.scores, 4),
                kind=seen.judged.kinds[index], std=rounded(result.side_std, 3), places=rounded(result.side_places, 2),
                probs=rounded(result.side_probs, 5))


def embed(seen: Seen) -> Tuple[Optional[List[int]], Optional[str]]:
    """The size and the data URL of an image as a JPEG of at most :data:`LONGEST` pixels a side."""
    try:
        image = seen.result.image()
    except ImageError:
        return None, None
    height, width = image.shape[:2]
    zoom = min(LONGEST / max(height, width), 1)
    view = [max(round(side * zoom), 1) for side in (width, height)]
    if zoom < 1:
        image = cv2.resize(image, view, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return view, f'data:image/jpeg;base64,{base64.b64encode(content.tobytes()).decode()}'


def _round(values: np.ndarray, digits: int) -> Any:
    return np.round(np.asarray(values, np.float64), digits).tolist()
