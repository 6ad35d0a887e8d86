"""Find places for the labels of boxes."""
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

MOST_HIDDEN = 0.08  # the share of a box that a label may hide
MOST_LABELS = 300  # boxes beyond these get no label: they take time, and there is no room for them
HIDING = 5.0  # cost of hiding all of a box
# Cost of each position around a box, in the order of `_positions`.
PREFERENCE = np.array([0, .1, .2, .3, .4, .45, .5, .55, .6, .65])

Size = Tuple[int, int]  # (width, height), pixels


class Place(NamedTuple):
    """Where a label goes, and which of its versions."""
    version: int
    x: int
    y: int


def place_labels(boxes: np.ndarray, frames: np.ndarray, versions: Sequence[Sequence[Size]], canvas: Size,
                 others: np.ndarray) -> List[Optional[Place]]:
    """Find a place for the label of each box, so that labels overlap nothing that matters.

    A label lies inside the picture, overlaps no other label and hides at most a share of ``MOST_HIDDEN`` of any box. If
    no position allows this, the next version of the label is tried. The positions are above the box, below it, inside
    it at its corners, and beside it. Earlier positions are preferred, and so are those that hide less.

    Args:
        boxes: (N, 4) visible parts of the boxes, pixels. Those that come first choose first.
        frames: (N, 4) integers, the outer edges of the frames around the boxes.
        versions: For each box the sizes of its label's versions, the preferred one first.
        canvas: Width and height of the picture.
        others: (M, 4) boxes that have no label, but that labels should not hide either.

    Returns:
        A place for each box, or None if no version of its label fits.
    """
    targets = np.concatenate([boxes, others])
    taken = np.zeros((0, 4))
    places: List[Optional[Place]] = []
    for frame, sizes in zip(frames[:MOST_LABELS], versions):
        place = next(filter(None, (_place(version, size, frame, canvas, targets, taken)
                                   for version, size in enumerate(sizes))), None)
        if place is not None:
            taken = np.concatenate([taken, [_rectangle(place, sizes[place.version])]])
        places.append(place)
    return places + [None] * (len(boxes) - len(places))


def _place(version: int, size: Size, frame: np.ndarray, canvas: Size, targets: np.ndarray,
           taken: np.ndarray) -> Optional[Place]:
    corners = _positions(frame, size, canvas)
    rectangles = np.concatenate([corners, corners + size], axis=1)
    inside = (corners >= 0).all(1) & (corners + size <= canvas).all(1)
    hidden = overlaps(rectangles, targets) / areas(targets).clip(min=1)
    allowed = inside & (hidden <= MOST_HIDDEN).all(1) & ~(overlaps(rectangles, taken) > 0).any(1)
    if not allowed.any():
        return None
    best = np.where(allowed, PREFERENCE + HIDING * hidden.sum(1), np.inf).argmin()
    return Place(version, *map(int, corners[best]))


def _positions(frame: np.ndarray, size: Size, canvas: Size) -> np.ndarray:
    """Top left corners (10, 2) of a label around a frame."""
    (left, top, right, bottom), (width, height) = frame, size
    last = max(canvas[0] - width, 0)
    start, end = min(max(left, 0), last), min(max(right - width, 0), last)  # moved sideways into the picture
    return np.array([
        (start, top - height), (end, top - height), (start, bottom), (end, bottom),  # above, below
        (left, top), (right - width, top), (left, bottom - height), (right - width, bottom - height),  # inside
        (right, top), (left - width, top)])  # beside


def _rectangle(place: Place, size: Size) -> Tuple[int, int, int, int]:
    return place.x, place.y, place.x + size[0], place.y + size[1]


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Areas (K, N) of the intersections of K with N boxes."""
    corner = np.maximum(first[:, None, :2], second[:, :2])
    sides = (np.minimum(first[:, None, 2:], second[:, 2:]) - corner).clip(min=0)
    return sides[..., 0] * sides[..., 1]


def areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1)
