"""What the page draws over a picture: frames, names, and the curves of the sides, as numbers and SVG paths."""
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from ..visualization.distributions import trace_curves
from ..visualization.labels import place_labels

# What the page calls a kind of error.
KINDS = dict(correct='correct', wrong_class='wrong class', poorly_placed='poorly placed', duplicate='duplicate',
             background='background', missed='missed')
LONGEST_NAME = 24  # characters of a label on a picture
GAP = 3  # pixels between a box and its curves
LONGEST_SIDE = 720  # of a picture that cannot be shown
# Of a label: CSS pixels of a letter, of its rim, and of a line; and the width of the narrowest picture, a phone's.
LETTER, PADDING, LINE, NARROWEST = 7.6, 10, 17, 340
UNSEEN = 0.1  # pixels: a corner of a curve that stands out less is dropped
TENTHS = 10  # the coordinates of a path are tenths of a pixel


def lay_out(image: Dict[str, Any]) -> Dict[str, Any]:
    """Convert the boxes of one image to pixels of its picture, the largest first, so that small ones stay on top."""
    size = _picture_size(image)
    zoom = np.tile([size[0] / image['width'], size[1] / image['height']], 2)
    truth = [dict(_frame(entry, zoom), missed=entry['missed'], about=f'ground truth: {entry["name"]}',
                  labels=[f'missed: {shorten(entry["name"])}', 'missed'] if entry['missed'] else [])
             for entry in image['truth']]
    found = [dict(_frame(entry, zoom), index=index, kind=entry['kind'], about=_describe(entry), labels=_labels(entry),
                  curves=draw_curves(entry, zoom, size)) for index, entry in enumerate(image['found'])]
    _write_labels([entry for entry in truth + found if entry['labels']], size)
    return dict(file=image['file'], width=size[0], height=size[1], src=_embedded(image['src']),
                truth=_largest_first(truth), found=_largest_first(found), summary=_sum_up(image))


def draw_curves(found: Dict[str, Any], zoom: np.ndarray, size: Sequence[float]) -> List[str]:
    """Draw the distributions of a detection's sides as paths of an SVG, in tenths of a pixel."""
    if found['places'] is None or found['probs'] is None:
        return []
    places = np.asarray(found['places'], float) * zoom[:, None]
    curves = trace_curves(np.asarray(found['box'], float) * zoom, places, np.asarray(found['probs'], float), size, GAP)
    return [_path(curve.outline(curve.along)) for curve in curves]


def shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME - 1] + '…'


def _path(corners: np.ndarray) -> str:
    corners = np.round(_drop_straight(corners) * TENTHS).astype(int)
    steps = np.diff(corners, axis=0)
    steps = ' '.join(f'{x} {y}' for x, y in steps[steps.any(1)])
    return f'M{corners[0, 0]} {corners[0, 1]}l{steps}z'


def _drop_straight(corners: np.ndarray) -> np.ndarray:
    """Drop every second corner (M, 2) that lies nearly on the line between its neighbours, then those between them."""
    for start in (1, 2):
        before, corner, after = corners[start - 1:-2:2], corners[start:-1:2], corners[start + 1::2]
        count = min(map(len, (before, corner, after)))
        (x, y), (to_x, to_y) = (corner[:count] - before[:count]).T, (after[:count] - before[:count]).T
        distance = abs(x * to_y - y * to_x) / np.hypot(to_x, to_y).clip(1e-9)
        corners = np.delete(corners, start + 2 * np.flatnonzero(distance < UNSEEN), axis=0)
    return corners


def _picture_size(image: Dict[str, Any]) -> List[int]:
    if image['view']:
        return image['view']
    zoom = min(1, LONGEST_SIDE / max(image['width'], image['height']))
    return [max(1, round(image[side] * zoom)) for side in ('width', 'height')]


def _embedded(src: Optional[str]) -> Optional[str]:
    """A picture, if the page itself carries it. Nothing is loaded from elsewhere."""
    return src if src and src.startswith('data:image/') else None


def _frame(entry: Dict[str, Any], zoom: np.ndarray) -> Dict[str, float]:
    left, top, right, bottom = (np.asarray(entry['box'], float) * zoom).round(1).tolist()
    return dict(x=left, y=top, width=max(right - left, 0), height=max(bottom - top, 0))


def _write_labels(entries: List[Dict[str, Any]], size: Sequence[int]) -> None:
    """Find the text of each label and its place, so that labels hide neither boxes nor each other.

    Errors choose first. A label without a place stands above its box, and is seen only while the box is pointed at.
    """
    entries = sorted(entries, key=lambda entry: entry.get('kind') == 'correct')
    boxes = np.array([_corners(entry) for entry in entries]).reshape(-1, 4).clip(0, [*size] * 2)
    unit = size[0] / NARROWEST
    versions = [[(round((LETTER * len(text) + PADDING) * unit), round(LINE * unit)) for text in entry['labels']]
                for entry in entries]
    places = place_labels(boxes, boxes.round().astype(int), versions, size, np.zeros((0, 4)))
    for entry, box, sizes, place in zip(entries, boxes, versions, places):
        entry['is_crowded'] = place is None
        x, y = (place.x, place.y) if place else (box[0], box[1] - sizes[0][1])
        version = place.version if place else 0
        entry.update(_anchor(box, x, y, *sizes[version]), text=entry['labels'][version])


def _anchor(box: np.ndarray, x: float, y: float, width: float, height: float) -> Dict[str, Any]:
    """The corner of a label that lies nearest to the box. There the label stays, whatever the size of its text."""
    def nearest(low: float, high: float, ends: np.ndarray) -> int:
        return int(np.abs(ends - high).min() < np.abs(ends - low).min())

    is_end, is_bottom = nearest(x, x + width, box[::2]), nearest(y, y + height, box[1::2])
    return dict(label_x=round(float(x + width * is_end), 1), label_y=round(float(y + height * is_bottom), 1),
                anchor=('start', 'end')[is_end], is_above=bool(is_bottom))


def _corners(frame: Dict[str, float]) -> List[float]:
    return [frame['x'], frame['y'], frame['x'] + frame['width'], frame['y'] + frame['height']]


def _labels(found: Dict[str, Any]) -> List[str]:
    """What a label says, and what it says where room is short."""
    score = f'{found["score"]:.2f}'
    if found['kind'] == 'correct':
        return [f'{shorten(found["name"])} {score}', score]
    kind = KINDS[found['kind']]
    return [f'{shorten(found["name"])} {score} · {kind}', kind]


def _describe(found: Dict[str, Any]) -> str:
    return f'prediction: {found["name"]}, score {found["score"]:.2f}, {KINDS[found["kind"]]}'


def _largest_first(frames: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    return sorted(frames, key=lambda frame: -frame['width'] * frame['height'])


def _sum_up(image: Dict[str, Any]) -> List[Dict[str, Any]]:
    """How many errors of each kind an image has."""
    return [dict(kind=kind, name=name, count=image['counts'][kind]) for kind, name in KINDS.items()
            if image['counts'].get(kind)]
