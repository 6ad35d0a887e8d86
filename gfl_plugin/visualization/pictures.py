"""Draw boxes and their labels on an image. Every picture of this package is drawn here."""
import functools
import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .fonts import clean, font_for, shorten
from .labels import place_labels
from .palette import WHITE, Color, black_or_white, class_color

SMALLEST = 320  # pixels of a picture's longer side: smaller images are enlarged
TEXT, LINE = 0.018, 0.0028  # size of the text and width of a line, as shares of the geometric mean of the sides
CASING = 0.6  # opacity of the thin lines around a frame
NAME_WIDTHS = 20, 8  # the most that a name may take, and the most where room is short, in sizes of the text


class Tag(NamedTuple):
    """A label to be drawn on a plate of one colour."""
    name: str
    score: str  # '' for none
    color: Color


def draw_detections(image: np.ndarray, boxes: np.ndarray, scores: Optional[np.ndarray], labels: np.ndarray,
                    classes: Sequence[str], gt_boxes: Optional[np.ndarray] = None,
                    gt_labels: Optional[np.ndarray] = None, colors: Optional[Sequence[Color]] = None) -> np.ndarray:
    """Draw detections on a copy of an image, and thin white frames around the ground truth.

    Frames lie outside their boxes, so that small objects stay visible. Labels hide neither small boxes nor each other:
    where room is short, a label shrinks to its score, or is left out. Boxes that are not finite, or that lie outside
    the image, are not drawn.

    Args:
        image: (H, W, 3) uint8, BGR.
        boxes: (N, 4) corners, pixels of the image. They may lie partly outside.
        scores: (N,) in [0, 1], or None for boxes without scores, such as ground truth with names.
        labels: (N,) indices into ``classes``.
        classes: Names of the classes, in any script.
        gt_boxes: (G, 4) ground truth, pixels of the image.
        gt_labels: (G,) indices into ``classes``, to write the names of the ground truth too.
        colors: (red, green, blue) of each class, instead of those of ``palette``. They repeat if there are too few.

    Returns:
        The picture, uint8, BGR, of the size of the image. If the image's longer side has less than ``SMALLEST`` pixels,
        the picture is larger by the smallest integer factor that reaches it.
    """
    canvas = Canvas(image)
    boxes, labels = np.asarray(boxes, float).reshape(-1, 4) * canvas.zoom, np.asarray(labels, int).reshape(-1)
    scores = None if scores is None else np.asarray(scores, float).reshape(-1)
    order = np.arange(len(boxes)) if scores is None else (-scores).argsort(kind='stable')  # the best first
    order = order[canvas.shows(boxes[order])]
    boxes = boxes[order]
    tags = make_tags(labels[order], None if scores is None else scores[order], classes, colors)
    truth = np.asarray([] if gt_boxes is None else gt_boxes, float).reshape(-1, 4) * canvas.zoom
    visible = canvas.shows(truth)
    truth = truth[visible]

    for box in truth:
        canvas.thin_frame(box, WHITE)
    for box, tag in zip(boxes[::-1], tags[::-1]):  # the best on top
        canvas.frame(box, tag.color)
    if gt_labels is None:
        canvas.label(boxes, tags, truth)
    else:
        names = [_name(classes, label) for label in np.asarray(gt_labels, int).reshape(-1)[visible]]
        canvas.label(np.concatenate([boxes, truth]), tags + [Tag(name, '', WHITE) for name in names], truth[:0])
    return canvas.pixels


def make_tags(labels: np.ndarray, scores: Optional[np.ndarray], classes: Sequence[str],
              colors: Optional[Sequence[Color]]) -> List[Tag]:
    """The tags of N detections. ``scores`` may be None."""
    written = [''] * len(labels) if scores is None else [f'{100 * score:.0f}%' for score in scores]
    return [Tag(_name(classes, label), score, _color(label, colors)) for label, score in zip(labels.tolist(), written)]


def _color(label: int, colors: Optional[Sequence[Color]]) -> Color:
    return class_color(label) if colors is None else tuple(map(int, colors[label % len(colors)]))


def _name(classes: Sequence[str], label: int) -> str:
    return clean(str(classes[label])) if 0 <= label < len(classes) else f'class {label}'


class Canvas:
    """A picture to draw on. Sizes of lines and text follow the size of the picture. Coordinates are its pixels.

    Attributes:
        pixels: (H, W, 3) uint8, BGR: the picture so far.
        zoom: Pixels of the picture for each pixel of the image, an integer.
        line: Width of a frame's line, pixels.
        casing: Width of the dark or light line around a frame, pixels.
        text: Size of the text, pixels.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.zoom = max(math.ceil(SMALLEST / max(image.shape[:2])), 1)
        if self.zoom > 1:
            self.pixels = cv2.resize(image, None, fx=self.zoom, fy=self.zoom, interpolation=cv2.INTER_CUBIC)
        else:
            self.pixels = image.copy()
        side = math.sqrt(self.pixels.shape[0] * self.pixels.shape[1])
        self.line = max(round(LINE * side), 2)
        self.casing = max(self.line // 3, 1)
        self.text = max(round(TEXT * side), 12)

    @property
    def size(self) -> Tuple[int, int]:
        """Width and height, pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def shows(self, boxes: np.ndarray) -> np.ndarray:
        """Which of N boxes are finite and lie at least partly on the picture: (N,) bool."""
        first, last = boxes[:, :2], boxes[:, 2:]
        with np.errstate(invalid='ignore'):
            return np.isfinite(boxes).all(1) & (first <= last).all(1) & (last > 0).all(1) & (first < self.size).all(1)

    def frame(self, box: np.ndarray, color: Color) -> None:
        """Draw a frame around a box: a line between two thin ones, which are black or white to contrast with it."""
        outer = self._outer(box, self.line + 2 * self.casing)
        casing = (self.casing, black_or_white(color), CASING)
        self._rings(outer, casing, (self.line, color, 1), casing)

    def thin_frame(self, box: np.ndarray, color: Color) -> None:
        """Draw a frame with a line of half the width.

        It lies inside a large box, so that it can be seen together with the frame of an equal box, and outside a small
        one.
        """
        width = max(self.line // 2, 1)
        is_large = min(box[2:] - box[:2]) >= 16 * width
        outer = self._outer(box, self.casing if is_large else width + 2 * self.casing)
        casing = (self.casing, black_or_white(color), CASING)
        self._rings(outer, casing, (width, color, 1), casing)

    def label(self, boxes: np.ndarray, tags: Sequence[Tag], others: np.ndarray) -> None:
        """Draw a tag at each of N boxes where there is room; boxes that come first choose first.

        Args:
            boxes: (N, 4).
            tags: One for each box. If a tag does not fit, its name is cut, then left out.
            others: (M, 4) boxes that the tags must not hide either.
        """
        if not len(boxes):
            return
        frames = np.array([self._outer(box, self.line + 2 * self.casing) for box in boxes])
        versions = [self._versions(tag) for tag in tags]
        sizes = [[plate.shape[1::-1] for plate in plates] for plates in versions]
        places = place_labels(self._clip(boxes), frames, sizes, self.size, self._clip(others))
        for place, plates in zip(places, versions):
            if place is not None:
                plate = plates[place.version]
                self.pixels[place.y:place.y + plate.shape[0], place.x:place.x + plate.shape[1]] = plate

    def _versions(self, tag: Tag) -> List[np.ndarray]:
        """Pictures of a tag, the longest first: with its name, with its name cut, and with its score alone."""
        font = font_for(tag.name, self.text)
        names = [shorten(tag.name, font, min(width * self.text, 0.6 * self.size[0])) for width in NAME_WIDTHS]
        versions = [tuple(filter(None, (name, tag.score))) for name in (*names, '')]
        return [_plate(texts, tag.color, self.text, self.casing) for texts in dict.fromkeys(versions) if texts]

    def _clip(self, boxes: np.ndarray) -> np.ndarray:
        return boxes.clip(0, [*self.size, *self.size])

    def _outer(self, box: np.ndarray, margin: int) -> Tuple[int, int, int, int]:
        """Outer edges of a frame of ``margin`` pixels around a box. At the picture's border it moves inside."""
        left, top, right, bottom = (round(float(edge)) for edge in self._clip(box))
        right, bottom = max(right, left + 1), max(bottom, top + 1)  # even a box without area is seen
        return (max(left - margin, 0), max(top - margin, 0),
                min(right + margin, self.size[0]), min(bottom + margin, self.size[1]))

    def _rings(self, outer: Tuple[int, int, int, int], *rings: Tuple[int, Color, float]) -> None:
        """Draw rings (width, colour, opacity) from the outermost to the innermost."""
        left, top, right, bottom = outer
        for width, color, opacity in rings:
            if left >= right or top >= bottom:
                return
            low, high = min(top + width, bottom), max(bottom - width, top + width)
            self._fill((left, top, right, low), color, opacity)
            self._fill((left, high, right, bottom), color, opacity)
            self._fill((left, low, min(left + width, right), high), color, opacity)
            self._fill((max(right - width, left + width), low, right, high), color, opacity)
            left, top, right, bottom = left + width, top + width, right - width, bottom - width

    def _fill(self, area: Tuple[int, int, int, int], color: Color, opacity: float) -> None:
        left, top, right, bottom = area
        pixels = self.pixels[top:bottom, left:right]
        pixels[:] = color[::-1] if opacity == 1 else np.round(opacity * np.array(color[::-1]) + (1 - opacity) * pixels)


@functools.lru_cache(maxsize=512)
def _plate(texts: Tuple[str, ...], color: Color, size: int, border: int) -> np.ndarray:
    """A plate (h, w, 3), BGR, with texts beside each other on one baseline, each in a font of its own.

    Callers must not change it.
    """
    fonts = [font_for(text, size) for text in texts]
    bounds = [font.getbbox(text, anchor='ls') for text, font in zip(texts, fonts)]
    pad, gap = border + max(round(size / 4), 2), round(size / 3)
    above = max(round(0.78 * size), *(-box[1] for box in bounds))  # tall scripts need more than Latin capitals
    below = max(round(0.22 * size), *(box[3] for box in bounds))
    lengths = [math.ceil(max(font.getlength(text), box[2])) for text, font, box in zip(texts, fonts, bounds)]
    width = sum(lengths) + gap * (len(texts) - 1) + 2 * pad
    rise = border + max(round(size / 10), 1)
    mask = Image.new('L', (width, above + below + 2 * rise))
    x = pad
    for text, font, length in zip(texts, fonts, lengths):
        ImageDraw.Draw(mask).text((x, rise + above), text, 255, font, anchor='ls')
        x += length + gap
    return _ink(np.asarray(mask), color, border)


def _ink(mask: np.ndarray, color: Color, border: int) -> np.ndarray:
    """Blend black or white text of a mask (h, w) onto a plate of a colour, with a border in the text's colour."""
    ink = black_or_white(color)
    plate = np.empty((*mask.shape, 3), np.uint8)
    plate[:] = ink[::-1]
    share = mask[border:-border, border:-border, None] / 255
    plate[border:-border, border:-border] = np.round(share * ink[::-1] + (1 - share) * color[::-1])
    return plate
