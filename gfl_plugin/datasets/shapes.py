"""A synthetic detection set of overlapping, blurred, shaded and cut-off shapes, for a demo without a download.

The boxes are exact: they are computed from the outlines before anything is drawn. The pictures are ambiguous: edges are
soft, dim, shadowed, hidden by another shape or beyond the border. A model can often give only a probability for where a
side lies, which is what a distribution per side is for.
"""
import json
import shutil
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Tuple

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

from ..registry import DATASETS
from .coco import CocoDataset

VERSION = 1  # raise it whenever a change makes the same arguments draw different pictures
STREAMS = {'train': 0, 'val': 1}  # one random stream per split, so that no picture is in both
OVERSAMPLE = 4  # anti-aliasing: outlines are filled at this many times the resolution
LEAST_VISIBLE = 0.3  # share of a shape's area; nobody could tell class and box from less
MOST_SHAPES = 8


class Shape(NamedTuple):
    """An outline placed in an image. Coordinates are pixels; pixel (i, j) covers [j, j+1] x [i, i+1]."""
    label: int  # index into OUTLINES
    area: float  # area of the whole outline, including what the border cuts off
    box: ndarray  # (4,) x1, y1, x2, y2: the exact extent of the part within the image
    mask: ndarray  # (H, W) in [0, 1]: the fraction of each pixel inside the outline


# Outlines, centred on the origin. place_shape scales, rotates and moves them.

def ngon(radii: ndarray) -> ndarray:
    """Make vertices (K, 2) at equal angles and at the given distances (K,) from the origin."""
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.asarray(radii)[:, None]


def plus(arm: float) -> ndarray:
    """Make the 12 corners of a cross that reaches from -1 to 1 and has arms ``2 * arm`` wide."""
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


ROUND = np.ones(96)  # with 96 vertices the polygon is as wide as a circle to 0.1%
OUTLINES: Dict[str, Callable[[Generator], List[ndarray]]] = {
    'ellipse': lambda rng: [ngon(ROUND) * (1, rng.uniform(0.5, 1))],
    'rectangle': lambda rng: [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (1, rng.uniform(0.4, 1))],
    'triangle': lambda rng: [ngon(np.ones(3)) * (1, rng.uniform(0.7, 1.3))],
    'star': lambda rng: [ngon(np.tile([1, rng.uniform(0.4, 0.55)], 5))],
    'ring': lambda rng: [ngon(ROUND), ngon(ROUND * rng.uniform(0.45, 0.7))],
    'cross': lambda rng: [plus(rng.uniform(0.2, 0.4))],
}


def place_shape(rng: Generator, size: int) -> Shape:
    """Draw the class, rotation, size (8 to 60% of the image's side) and place of a shape; the border may cut it."""
    label = int(rng.integers(len(OUTLINES)))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    contours = [contour @ turn for contour in list(OUTLINES.values())[label](rng)]
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    scale = size * np.exp(rng.uniform(np.log(0.08), np.log(0.6))) / (high - low).max()
    centre = rng.uniform(0.03, 0.97, size=2) * size
    contours = [(contour - (low + high) / 2) * scale + centre for contour in contours]
    area, *holes = (cv2.contourArea(contour.astype(np.float32)) for contour in contours)
    return Shape(label, area - sum(holes), bound(contours[0], size), cover(contours, size))


def bound(contour: ndarray, size: int) -> ndarray:
    """Compute the exact box (4,) of a polygon's (K, 2) visible part, often smaller than its clipped whole box."""
    step = np.roll(contour, -1, axis=0) - contour
    crossings = np.stack([-contour, size - contour]) / step  # (2, K, 2): where each edge crosses the four borders
    enter = crossings.min(axis=0).max(axis=1).clip(min=0)
    leave = crossings.max(axis=0).min(axis=1).clip(max=1)
    inside = enter < leave
    ends = [(contour + t[:, None] * step)[inside] for t in (enter, leave)]
    corners = [(x, y) for x in (0, size) for y in (0, size)
               if cv2.pointPolygonTest(contour.astype(np.float32), (x, y), False) > 0]
    points = np.concatenate([*ends, np.reshape(corners, (-1, 2))])
    return np.concatenate([points.min(axis=0), points.max(axis=0)]).clip(0, size)


def cover(contours: List[ndarray], size: int) -> ndarray:
    """Compute the fraction (H, W) of each pixel inside the contours, filled at ``OVERSAMPLE`` times the resolution."""
    canvas = np.zeros((size * OVERSAMPLE, size * OVERSAMPLE), np.uint8)
    # OpenCV's coordinates start at pixel centres; shift=8 gives them in 1/256 of a pixel.
    corners = [np.round((contour * OVERSAMPLE - 0.5) * 256).astype(np.int32) for contour in contours]
    cv2.fillPoly(canvas, corners, 255, shift=8)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def arrange_shapes(rng: Generator, size: int) -> List[Shape]:
    """Place up to ``MOST_SHAPES`` shapes, listed from back to front; about one image in fifty is left empty."""
    shapes: List[Shape] = []
    for _ in range(0 if rng.random() < 0.02 else rng.integers(1, MOST_SHAPES + 1)):
        candidate = place_shape(rng, size)
        if all_visible(shapes + [candidate]):
            shapes.append(candidate)
    return shapes


def all_visible(shapes: List[Shape]) -> bool:
    """Whether each shape shows at least ``LEAST_VISIBLE`` of its area despite the border and later shapes."""
    free = np.ones_like(shapes[0].mask)
    for shape in reversed(shapes):
        if (shape.mask * free).sum() < LEAST_VISIBLE * shape.area:
            return False
        free = free * (1 - shape.mask)
    return True


# Painting. Images are float32 (H, W, 3) in [0, 1] until they are saved.

def pick_colour(rng: Generator) -> ndarray:
    """Pick a random colour (3,) that is not black, white or neon."""
    hue = np.cos(2 * np.pi * (rng.random() + np.array([0, 1 / 3, 2 / 3])))
    return (rng.uniform(0.2, 0.8) + rng.uniform(0.05, 0.3) * hue).clip(0, 1).astype(np.float32)


def blur(image: ndarray, sigma: float) -> ndarray:
    """Blur with a Gaussian of ``sigma`` pixels; the border pixels are repeated outwards."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) if sigma > 0.1 else image


def cloud(rng: Generator, height: int, width: int, cells: int) -> ndarray:
    """Make a smooth random field (H, W), roughly in [-1, 1], with ``cells`` bumps a side."""
    bumps = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(bumps, (width, height), interpolation=cv2.INTER_CUBIC)


def slope(rng: Generator, height: int, width: int) -> ndarray:
    """Make a plane (H, W) in [-1, 1] that rises in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    across, down = (np.linspace(-1, 1, count, dtype=np.float32) for count in (width, height))
    return (np.float32(np.cos(angle)) * across + np.float32(np.sin(angle)) * down[:, None]) / np.float32(np.sqrt(2))


def stripes(rng: Generator, height: int, width: int) -> ndarray:
    """Make waves (H, W) in [-1, 1], 3 to 10 of them along the diagonal."""
    return np.sin(slope(rng, height, width) * np.float32(np.pi * rng.uniform(3, 10)))


def paint(image: ndarray, colour: ndarray, alpha: ndarray) -> None:
    """Blend a colour, (3,) or (H, W, 3), into the image in place, with opacity ``alpha`` (H, W)."""
    image += (colour - image) * alpha[..., None]


def draw_background(rng: Generator, size: int) -> ndarray:
    """Draw a gradient between two colours, with clouds and sometimes stripes."""
    field = 0.5 + 0.4 * slope(rng, size, size)
    field += rng.uniform(0.1, 0.5) * cloud(rng, size, size, int(rng.integers(3, 12)))
    if rng.random() < 0.3:
        field += rng.uniform(0.05, 0.25) * stripes(rng, size, size)
    image = np.broadcast_to(pick_colour(rng), (size, size, 3)).copy()
    paint(image, pick_colour(rng), field)
    return image


def draw_clutter(rng: Generator, image: ndarray, most: int) -> None:
    """Draw up to ``most`` scribbles and blots in place: edges that belong to no class."""
    size = len(image)
    for _ in range(rng.integers(most + 1)):
        start, reach = rng.uniform(0, size, 2), size * rng.uniform(0.05, 0.25)
        corners = [start + np.cumsum(rng.normal(0, reach, (int(rng.integers(3, 7)), 2)), axis=0)]
        alpha = np.zeros((size, size), np.float32)
        if rng.random() < 0.6:
            points = [np.round((corners[0] - 0.5) * 256).astype(np.int32)]
            cv2.polylines(alpha, points, False, 1.0, thickness=int(rng.integers(1, 4)), shift=8)
            alpha = blur(alpha, rng.uniform(0.4, 1))
        else:
            alpha = blur(cover(corners, size), rng.uniform(0.02, 0.06) * size)
        paint(image, pick_colour(rng), alpha * np.float32(rng.uniform(0.3, 0.9)))


def draw_shape(rng: Generator, image: ndarray, shape: Shape, light: ndarray) -> None:
    """Paint a shape in place with random softness and shading; its shadow falls in the direction ``light`` (2,)."""
    side = float((shape.box[2:] - shape.box[:2]).max())
    reach = 0.3 * side + 1  # pixels beyond the box that a soft edge or a shadow may touch
    left, top = (shape.box[:2] - reach).clip(0).astype(int)
    right, bottom = (shape.box[2:] + reach).clip(0, len(image)).astype(int)
    image, mask = image[top:bottom, left:right], shape.mask[top:bottom, left:right]
    # A third of the shapes are out of focus: the box stays that of the outline, while the visible edge is a ramp.
    alpha = blur(mask, side * rng.uniform(0.02, 0.07) if rng.random() < 0.35 else 0)
    if rng.random() < 0.6:
        offset = light[:, None] * side * rng.uniform(0.04, 0.12)
        shadow = cv2.warpAffine(blur(mask, side * rng.uniform(0.02, 0.06)), np.hstack([np.eye(2), -offset]),
                                mask.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        image *= 1 - np.float32(rng.uniform(0.2, 0.6)) * shadow[..., None]
    behind = (image * mask[..., None]).sum(axis=(0, 1)) / mask.sum()
    contrast = np.float32(rng.uniform(0.3, 1))  # a shape may almost vanish into the background
    texture = rng.uniform(0.05, 0.3) * slope(rng, *mask.shape) + rng.uniform(0, 0.12) * cloud(rng, *mask.shape, 8)
    if rng.random() < 0.25:
        texture += rng.uniform(0.05, 0.15) * stripes(rng, *mask.shape)
    colour = (behind + contrast * (pick_colour(rng) - behind)) * (1 + texture[..., None])
    paint(image, colour, alpha * np.float32(rng.uniform(0.75, 1)))


def render_image(rng: Generator, size: int) -> Tuple[ndarray, List[Shape]]:
    """Render a picture (H, W, 3), uint8, ``size`` pixels a side; also return its shapes from back to front."""
    shapes = arrange_shapes(rng, size)
    image = draw_background(rng, size)
    draw_clutter(rng, image, most=5)
    angle = rng.uniform(0, 2 * np.pi)
    for shape in shapes:
        draw_shape(rng, image, shape, light=np.array([np.cos(angle), np.sin(angle)]))
    draw_clutter(rng, image, most=1)
    image *= 1 + 0.25 * slope(rng, size, size)[..., None]
    image = blur(image, rng.uniform(0, 0.7))
    image += np.float32(rng.uniform(0.005, 0.04)) * rng.standard_normal(image.shape, np.float32)
    return (image.clip(0, 1) * 255).round().astype(np.uint8), shapes


# Files.

def write_split(folder: Path, manifest: dict) -> None:
    """Write ``images/*.png``, ``annotations.json`` and finally ``manifest.json`` to an existing folder."""
    size = manifest['image_size']
    images, annotations = [], []
    (folder / 'images').mkdir()
    for index in range(manifest['num_images']):
        rng = np.random.default_rng([manifest['seed'], STREAMS[manifest['split']], index])
        pixels, shapes = render_image(rng, size)
        images.append(dict(id=index, file_name=f'{index:06d}.png', width=size, height=size))
        cv2.imwrite(str(folder / 'images' / images[-1]['file_name']), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        for shape in shapes:
            x, y, width, height = np.concatenate([shape.box[:2], shape.box[2:] - shape.box[:2]]).round(3).tolist()
            annotations.append(dict(id=len(annotations) + 1, image_id=index, category_id=shape.label + 1,
                                    bbox=[x, y, width, height], area=width * height, iscrowd=0))
    categories = [dict(id=label + 1, name=name) for label, name in enumerate(OUTLINES)]
    coco = dict(info={}, licenses=[], images=images, annotations=annotations, categories=categories)
    (folder / 'annotations.json').write_text(json.dumps(coco))
    (folder / 'manifest.json').write_text(json.dumps(manifest))


def ensure_split(folder: Path, manifest: dict) -> None:
    """Make sure that ``folder`` holds the split that the manifest describes, even if other processes write it too.

    Raises:
        ValueError: The folder already holds a split made from other arguments, or something else.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
        scratch.chmod(0o755)  # mkdtemp sets 0o700, which would hide the finished split from other users
        try:
            write_split(scratch, manifest)
            scratch.rename(folder)  # atomic: nobody ever sees half a split
        except OSError:
            if not folder.exists():  # otherwise another process was first, with identical files
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    file = folder / 'manifest.json'
    found = json.loads(file.read_text()) if file.exists() else 'no manifest'
    if found != manifest:
        raise ValueError(f'{folder} holds {found}, but this data set needs {manifest}: delete the folder or choose '
                         'another data_root')


@DATASETS.register_module()
class ShapesDataset(CocoDataset):
    """A data set of ``num_images`` synthetic pictures in COCO format, written to ``data_root/split`` on first use.

    The same arguments give the same files to the byte (with the same releases of OpenCV and NumPy).

    Args:
        split: ``'train'`` or ``'val'``, two disjoint random streams.
        num_images: Number of images; about one in fifty shows no shape.
        image_size: Side of the square images, pixels.
        seed: Another seed gives other pictures of the same kind.
        data_root: The folder in which the splits have, or get, their folders.
        kwargs: As for ``CocoDataset``, except ``ann_file`` and ``data_prefix``, which follow from the split.
    """
    METAINFO = dict(
        classes=tuple(OUTLINES),
        palette=[(86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0)])

    def __init__(self, split: str, num_images: int, image_size: int = 128, seed: int = 0,
                 data_root: str = 'data/shapes', **kwargs) -> None:
        if split not in STREAMS:
            raise ValueError(f'split must be one of {sorted(STREAMS)}, not {split!r}')
        self.manifest = dict(version=VERSION, split=split, num_images=num_images, image_size=image_size, seed=seed)
        super().__init__(data_root=data_root, ann_file=f'{split}/annotations.json',
                         data_prefix=dict(img=f'{split}/images/'), **kwargs)

    def load_data_list(self) -> List[dict]:
        # Not in the constructor: a data set built with lazy_init=True should write nothing.
        ensure_split(Path(self.data_root, self.manifest['split']), self.manifest)
        return super().load_data_list()
