"""Draw how sure a detector is of each side of a box (GFL, arXiv:2006.04388, figure 3)."""
from typing import List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from .palette import Color, black_or_white
from .pictures import Canvas, make_tags

AREA = 0.06  # of a curve, as a share of its box's area
TALLEST = 0.4  # of a curve, as a share of its box's shorter side: a taller curve is cut off there
LOWEST = 0.5  # pixels: the ends of a curve that are lower are not drawn
BAND, OUTSIDE, INSIDE, LINE = 0.3, 0.45, 0.85, 0.85  # opacities: a band, a curve outside and inside it, its line
SAMPLES = 8  # points of a curve from one place to the next
SHIFT = 4  # OpenCV takes points in units of 2**-SHIFT pixels


class Curve(NamedTuple):
    """The distribution of one side, drawn as a curve that stands beside the box."""
    side: int  # 0 to 3: left, top, right, bottom
    along: np.ndarray  # (M,) rising, pixels: x for the left and right side, y for the top and bottom side
    height: np.ndarray  # (M,) pixels
    base: float  # where it stands: y for the left and right side, x for the top and bottom side
    sign: int  # the direction in which it rises, -1 for up or left, 1 for down or right

    def outline(self, points: np.ndarray) -> np.ndarray:
        """The corners (K + 2, 2) of the area below the curve, from the first to the last of K points along it."""
        curve = np.stack([points, self.base + self.sign * np.interp(points, self.along, self.height)], 1)
        shape = np.concatenate([[(points[0], self.base)], curve, [(points[-1], self.base)]])
        return shape if self.side % 2 == 0 else shape[:, ::-1]


def draw_distributions(image: np.ndarray, boxes: np.ndarray, scores: Optional[np.ndarray], labels: np.ndarray,
                       classes: Sequence[str], places: np.ndarray, probs: np.ndarray,
                       intervals: Optional[np.ndarray] = None,
                       colors: Optional[Sequence[Color]] = None) -> np.ndarray:
    """Draw detections on a copy of an image, with the distribution of each side as a curve, and its interval as a band.

    The curves of the left and right side stand above the box, and those of the top and bottom side beside it. A curve
    is high and narrow where the detector is sure, and low and wide where it is not, because all curves of a box have
    the same area. It passes through the predicted probabilities, and has no peak that they do not have. A band covers
    the places between the ends of an interval, along the whole side, and the curve has a stronger colour there.

    Few detections at a time look best.

    Args:
        image, boxes, scores, labels, classes, colors: As for :func:`draw_detections`.
        places: (N, 4, n+1) where the left, top, right and bottom side may be, in rising or falling order, pixels of the
            image.
        probs: (N, 4, n+1) the probability of each place. Curves that are not finite are not drawn.
        intervals: (N, 4, 2) lower and upper end of the interval of each side, pixels of the image.

    Returns:
        As :func:`draw_detections`.
    """
    canvas = Canvas(image)
    boxes = np.asarray(boxes, float).reshape(-1, 4) * canvas.zoom
    scores = None if scores is None else np.asarray(scores, float)
    order = np.arange(len(boxes)) if scores is None else (-scores).argsort(kind='stable')
    order = order[canvas.shows(boxes[order])]
    tags = make_tags(np.asarray(labels, int)[order], None if scores is None else scores[order], classes, colors)
    boxes, places, probs = boxes[order], np.asarray(places, float)[order] * canvas.zoom, np.asarray(probs, float)[order]
    bands = np.repeat(boxes[..., None], 2, -1)  # without a width
    if intervals is not None:
        bands = np.asarray(intervals, float)[order] * canvas.zoom

    worst_first = range(len(boxes))[::-1]  # the best on top
    for i in worst_first:
        _draw_bands(canvas, boxes[i], bands[i], tags[i].color)
    for i in worst_first:
        canvas.thin_frame(boxes[i], tags[i].color)
    covered = [area for i in worst_first
               for area in _draw_curves(canvas, boxes[i], bands[i], places[i], probs[i], tags[i].color)]
    canvas.label(boxes, tags, np.reshape(covered, (-1, 4)).clip(0, [*canvas.size] * 2))
    return canvas.pixels


def density(places: np.ndarray, probs: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """A smooth curve through probabilities, as points (M,), rising, and densities (M,) per pixel.

    Between two places it is monotone (Fritsch and Butland, doi:10.1137/0905021). Beyond the first and the last place it
    falls to 0 within the distance to the next one.

    Args:
        places: (n+1,) rising or falling, pixels.
        probs: (n+1,).
    """
    if places[0] > places[-1]:
        places, probs = places[::-1], probs[::-1]
    places = np.concatenate([[2 * places[0] - places[1]], places, [2 * places[-1] - places[-2]]])
    values = np.concatenate([[0], probs / ((places[2:] - places[:-2]) / 2), [0]])
    step = np.diff(places)
    slope = np.diff(values) / step
    before, after = slope[:-1], slope[1:]
    is_monotone = before * after > 0
    tangent = np.zeros(len(places))
    tangent[1:-1][is_monotone] = (2 * before * after)[is_monotone] / (before + after)[is_monotone]
    t = np.arange(SAMPLES)[:, None] / SAMPLES
    curve = ((1 + 2 * t) * (1 - t)**2 * values[:-1] + t * (1 - t)**2 * step * tangent[:-1]
             + t**2 * (3 - 2 * t) * values[1:] + t**2 * (t - 1) * step * tangent[1:])
    return np.append((places[:-1] + t * step).T.ravel(), places[-1]), np.append(curve.T.ravel(), 0)


def trace_curves(box: np.ndarray, places: np.ndarray, probs: np.ndarray, size: Sequence[float], gap: float,
                 bands: Optional[np.ndarray] = None) -> List[Curve]:
    """Place the curves of the sides of a box beside it. Curves that are nowhere high enough to be seen are left out.

    Args:
        box: (4,) corners, pixels of the picture.
        places, probs: (4, n+1) as for :func:`draw_distributions`, pixels of the picture.
        size: Width and height of the picture.
        gap: Pixels between the box and its curves.
        bands: (4, 2) the interval of each side. The curves stand outside the intervals too.

    Returns:
        One curve for each visible side, or none if a number is not finite.
    """
    bands = np.repeat(box[:, None], 2, 1) if bands is None else bands
    if not all(np.isfinite(x).all() for x in (box, bands, places, probs)):
        return []
    lengths, curves = box[2:] - box[:2], []
    for axis in (0, 1):  # left and right, then top and bottom
        traced = [(side, *density(places[side], probs[side])) for side in (axis, axis + 2)]
        traced = [(side, along, (AREA * lengths.prod() * height).clip(max=TALLEST * lengths.min()))
                  for side, along, height in traced]
        outside = min(box[1 - axis], bands[1 - axis].min()), max(box[3 - axis], bands[3 - axis].max())
        base, sign = _stand(outside, max(height.max() for *_, height in traced), size[1 - axis], gap, axis)
        curves += [Curve(side, *_trim(along, height), base, sign) for side, along, height in traced
                   if (height >= LOWEST).any()]
    return curves


def _trim(along: np.ndarray, height: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Cut off the ends of a curve that are too low to be seen."""
    seen = np.flatnonzero(height >= LOWEST)
    keep = slice(max(seen[0] - 1, 0), seen[-1] + 2)
    return along[keep], height[keep]


def _stand(outside: Tuple[float, float], tallest: float, length: float, gap: float, axis: int) -> Tuple[float, int]:
    """Where the curves of an axis stand, and in which direction they rise: -1 for up or left, 1 for down or right.

    They stand above the box or to the right of it if there is room, else on the opposite side. Near the border of the
    picture they move inside.

    Args:
        outside: The ends of the box across the axis, with its bands.
        tallest: Height of the taller curve.
        length: Of the picture across the axis.
        gap: Pixels between the box and its curves.
    """
    room = {-1: outside[0], 1: length - outside[1]}
    sign = -1 if axis == 0 else 1
    if room[sign] < tallest + gap and room[-sign] > room[sign]:
        sign = -sign
    if sign < 0:
        return max(outside[0] - gap, tallest), sign
    return min(outside[1] + gap, length - tallest), sign


def _draw_bands(canvas: Canvas, box: np.ndarray, bands: np.ndarray, color: Color) -> None:
    """Cover the places between the ends of each interval (4, 2), along the whole side."""
    if not np.isfinite(bands).all():
        return
    spans = [np.stack([box[axis::2], *bands[axis::2]]) for axis in (0, 1)]  # of the box and its two bands, x and y
    first, last = np.transpose([(span.min(), span.max()) for span in spans]).clip(0, canvas.size)
    left, top, right, bottom = *np.floor(first).astype(int), *np.ceil(last).astype(int)
    (x, *x_bands), (y, *y_bands) = (_covered(span, np.arange(*ends))
                                    for span, ends in zip(spans, ((left, right), (top, bottom))))
    share = np.maximum(np.outer(y, np.maximum(*x_bands)), np.outer(np.maximum(*y_bands), x))  # an overlap counts once
    _blend(canvas.pixels[top:bottom, left:right], share, color, BAND)


def _covered(ends: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The share of each of M pixels in a row that intervals (K, 2) cover, (K, M)."""
    return (np.minimum(ends[:, 1:], pixels + 1) - np.maximum(ends[:, :1], pixels)).clip(0, 1)


def _draw_curves(canvas: Canvas, box: np.ndarray, bands: np.ndarray, places: np.ndarray, probs: np.ndarray,
                 color: Color) -> List[np.ndarray]:
    """Draw the distributions of the sides of a box, and return the rectangles (4,) that they cover."""
    if not np.isfinite(bands).all():
        return []
    curves = trace_curves(box, places, probs, canvas.size, 2 * canvas.casing, bands)
    return [_draw_curve(canvas, curve, bands[curve.side], color) for curve in curves]


def _draw_curve(canvas: Canvas, curve: Curve, band: np.ndarray, color: Color) -> np.ndarray:
    """Draw the curve of one side, and return the rectangle that it covers."""
    whole = curve.outline(curve.along)
    _paint(canvas, whole, color, OUTSIDE)
    low, high = band.clip(curve.along[0], curve.along[-1])
    if low < high:
        inner = curve.along[(low < curve.along) & (curve.along < high)]
        _paint(canvas, curve.outline(np.concatenate([[low], inner, [high]])), color, INSIDE)
    _paint(canvas, whole, black_or_white(color), LINE, max(canvas.line // 2, 1))
    return np.concatenate([whole.min(0), whole.max(0)])


def _paint(canvas: Canvas, polygon: np.ndarray, color: Color, opacity: float, line: int = 0) -> None:
    """Blend a polygon (M, 2) into the picture, or its outline, if it has a width."""
    left, top = np.floor(polygon.min(0) - line - 1).clip(0, canvas.size).astype(int)
    right, bottom = np.ceil(polygon.max(0) + line + 1).clip(0, canvas.size).astype(int)
    if left >= right or top >= bottom:
        return
    mask = np.zeros((bottom - top, right - left), np.uint8)
    points = (polygon - (left, top) - 0.5).clip(-2**14, 2**14)  # OpenCV counts from the centre of the first pixel
    points = np.round(points * 2**SHIFT).astype(np.int32)
    if line:
        cv2.polylines(mask, [points], True, 255, line, cv2.LINE_AA, SHIFT)
    else:
        cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, SHIFT)
    _blend(canvas.pixels[top:bottom, left:right], mask / 255, color, opacity)


def _blend(pixels: np.ndarray, share: np.ndarray, color: Color, opacity: float) -> None:
    share = opacity * share[..., None]
    pixels[:] = np.round(share * color[::-1] + (1 - share) * pixels)
