"""A detection set that writes itself: overlapping, blurred, shaded and cut-off shapes, for a demo without a download.

The boxes are exact, computed from the outlines before anything is drawn; the pictures are not. Edges are soft, dim,
shadowed, behind another shape or beyond the border, so that where a side lies is often a matter of probability:
what a distribution per side is for.
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

VERSION = 1  # of the pictures; raise it whenever the same arguments would draw others
STREAMS = {'train': 0, 'val': 1}  # one random stream per split: held-out pictures are never training pictures
OVERSAMPLE = 4  # sub-pixels a side in which outlines are filled: the anti-aliasing
LEAST_VISIBLE = 0.3  # of a shape's area: nobody can tell the class and box of a sliver
MOST_SHAPES = 8


class Shape(NamedTuple):
    """An outline in its place. Coordinates are pixels; pixel (i, j) covers [j, j+1] x [i, i+1]."""
    label: int  # index into OUTLINES
    area: float  # of the whole outline, whatever the border cuts off
    box: ndarray  # (4,) x1, y1, x2, y2: the exact extent of the part within the image
    mask: ndarray  # (H, W) in [0, 1]: the fraction of each pixel inside the outline


# Outlines, about the origin; size, rotation and place come later.

def ngon(radii: ndarray) -> ndarray:
    """Vertices (K, 2) at equal angles and the given distances (K,) from the origin."""
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.asarray(radii)[:, None]


def plus(arm: float) -> ndarray:
    """The 12 corners of a cross of unit reach whose arms are ``2 * arm`` wide."""
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


ROUND = np.ones(96)  # so many vertices that the polygon's extent is a circle's to 0.1%
OUTLINES: Dict[str, Callable[[Generator], List[ndarray]]] = {
    'ellipse': lambda rng: [ngon(ROUND) * (1, rng.uniform(0.5, 1))],
    'rectangle': lambda rng: [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (1, rng.uniform(0.4, 1))],
    'triangle': lambda rng: [ngon(np.ones(3)) * (1, rng.uniform(0.7, 1.3))],
    'star': lambda rng: [ngon(np.tile([1, rng.uniform(0.4, 0.55)], 5))],
    'ring': lambda rng: [ngon(ROUND), ngon(ROUND * rng.uniform(0.45, 0.7))],
    'cross': lambda rng: [plus(rng.uniform(0.2, 0.4))],
}


def place_shape(rng: Generator, size: int) -> Shape:
    """A shape of random class, rotation, size (8 to 60% of the image's side) and place, possibly cut by the border."""
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
    """The exact box (4,) of a polygon's (K, 2) part within the image, often less than its box cut by the border."""
    step = np.roll(contour, -1, axis=0) - contour
    crossings = np.stack([-contour, size - contour]) / step  # (2, K, 2): where each edge meets the image's four lines
    enter = crossings.min(axis=0).max(axis=1).clip(min=0)
    leave = crossings.max(axis=0).min(axis=1).clip(max=1)
    inside = enter < leave
    ends = [(contour + t[:, None] * step)[inside] for t in (enter, leave)]
    corners = [(x, y) for x in (0, size) for y in (0, size)
               if cv2.pointPolygonTest(contour.astype(np.float32), (x, y), False) > 0]
    points = np.concatenate([*ends, np.reshape(corners, (-1, 2))])
    return np.concatenate([points.min(axis=0), points.max(axis=0)]).clip(0, size)


def cover(contours: List[ndarray], size: int) -> ndarray:
    """The fraction (H, W) of each pixel inside the contours, by filling them at ``OVERSAMPLE`` times the resolution."""
    canvas = np.zeros((size * OVERSAMPLE, size * OVERSAMPLE), np.uint8)
    # OpenCV counts from pixel centres, and in 1/256 of a pixel with shift=8.
    corners = [np.round((contour * OVERSAMPLE - 0.5) * 256).astype(np.int32) for contour in contours]
    cv2.fillPoly(canvas, corners, 255, shift=8)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def arrange_shapes(rng: Generator, size: int) -> List[Shape]:
    """Up to ``MOST_SHAPES`` shapes from back to front; none, on about one image in fifty, is a lesson too."""
    shapes: List[Shape] = []
    for _ in range(0 if rng.random() < 0.02 else rng.integers(1, MOST_SHAPES + 1)):
        candidate = place_shape(rng, size)
        if all_visible(shapes + [candidate]):
            shapes.append(candidate)
    return shapes


def all_visible(shapes: List[Shape]) -> bool:
    """Whether each shape shows ``LEAST_VISIBLE`` of its area: some of it is beyond the border or under later shapes."""
    free = np.ones_like(shapes[0].mask)
    for shape in reversed(shapes):
        if (shape.mask * free).sum() < LEAST_VISIBLE * shape.area:
            return False
        free = free * (1 - shape.mask)
    return True


# Paint. Images are float32 (H, W, 3) in [0, 1] until they are saved.

def pick_colour(rng: Generator) -> ndarray:
    """A colour (3,) of any hue, saturation and lightness, short of black, white and neon."""
    hue = np.cos(2 * np.pi * (rng.random() + np.array([0, 1 / 3, 2 / 3])))
    return (rng.uniform(0.2, 0.8) + rng.uniform(0.05, 0.3) * hue).clip(0, 1).astype(np.float32)


def blur(image: ndarray, sigma: float) -> ndarray:
    """Gaussian blur of ``sigma`` pixels; what lies beyond the border is taken to go on as it is at the border."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) if sigma > 0.1 else image


def cloud(rng: Generator, height: int, width: int, cells: int) -> ndarray:
    """A smooth random field (H, W), about [-1, 1], with ``cells`` bumps a side."""
    bumps = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(bumps, (width, height), interpolation=cv2.INTER_CUBIC)


def slope(rng: Generator, height: int, width: int) -> ndarray:
    """A plane (H, W) in [-1, 1] that rises in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    across, down = (np.linspace(-1, 1, count, dtype=np.float32) for count in (width, height))
    return (np.float32(np.cos(angle)) * across + np.float32(np.sin(angle)) * down[:, None]) / np.float32(np.sqrt(2))


def stripes(rng: Generator, height: int, width: int) -> ndarray:
    """Waves (H, W) in [-1, 1], 3 to 10 of them along the diagonal."""
    return np.sin(slope(rng, height, width) * np.float32(np.pi * rng.uniform(3, 10)))


def paint(image: ndarray, colour: ndarray, alpha: ndarray) -> None:
    """Lay a colour, (3,) or (H, W, 3), over the image, in place, with opacity ``alpha`` (H, W)."""
    image += (colour - image) * alpha[..., None]


def draw_background(rng: Generator, size: int) -> ndarray:
    """A gradient between two colours, with clouds and, on some, stripes."""
    field = 0.5 + 0.4 * slope(rng, size, size)
    field += rng.uniform(0.1, 0.5) * cloud(rng, size, size, int(rng.integers(3, 12)))
    if rng.random() < 0.3:
        field += rng.uniform(0.05, 0.25) * stripes(rng, size, size)
    image = np.broadcast_to(pick_colour(rng), (size, size, 3)).copy()
    paint(image, pick_colour(rng), field)
    return image


def draw_clutter(rng: Generator, image: ndarray, most: int) -> None:
    """Up to ``most`` scribbles and blots, in place: edges that belong to no class."""
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
    """Paint a shape, in place, with its own softness and shading and a shadow away from the ``light`` (2,)."""
    side = float((shape.box[2:] - shape.box[:2]).max())
    reach = 0.3 * side + 1  # pixels beyond the box that a soft edge or a shadow may touch
    left, top = (shape.box[:2] - reach).clip(0).astype(int)
    right, bottom = (shape.box[2:] + reach).clip(0, len(image)).astype(int)
    image, mask = image[top:bottom, left:right], shape.mask[top:bottom, left:right]
    # A third of the shapes are out of focus: the box remains the outline's, the edge that is seen is a slope.
    alpha = blur(mask, side * rng.uniform(0.02, 0.07) if rng.random() < 0.35 else 0)
    if rng.random() < 0.6:
        offset = light[:, None] * side * rng.uniform(0.04, 0.12)
        shadow = cv2.warpAffine(blur(mask, side * rng.uniform(0.02, 0.06)), np.hstack([np.eye(2), -offset]),
                                mask.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        image *= 1 - np.float32(rng.uniform(0.2, 0.6)) * shadow[..., None]
    behind = (image * mask[..., None]).sum(axis=(0, 1)) / mask.sum()
    contrast = np.float32(rng.uniform(0.3, 1))  # a shape may all but vanish into what it lies on
    texture = rng.uniform(0.05, 0.3) * slope(rng, *mask.shape) + rng.uniform(0, 0.12) * cloud(rng, *mask.shape, 8)
    if rng.random() < 0.25:
        texture += rng.uniform(0.05, 0.15) * stripes(rng, *mask.shape)
    colour = (behind + contrast * (pick_colour(rng) - behind)) * (1 + texture[..., None])
    paint(image, colour, alpha * np.float32(rng.uniform(0.75, 1)))


def render_image(rng: Generator, size: int) -> Tuple[ndarray, List[Shape]]:
    """A picture (H, W, 3), uint8, with ``size`` pixels a side, and the shapes in it from back to front."""
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
    """Write ``images/*.png``, ``annotations.json`` and, last, ``manifest.json`` to an existing folder."""
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
    """Make sure that ``folder`` holds the split that the manifest describes, whoever else may be writing it now.

    Raises:
        ValueError: a split made from other arguments, or something else, is there already.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
        scratch.chmod(0o755)  # mkdtemp's 0o700 would hide the finished split from other users
        try:
            write_split(scratch, manifest)
            scratch.rename(folder)  # atomic: the split is there whole or not at all
        except OSError:
            if not folder.exists():  # else another rank or process was first: its files are the same to the byte
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    file = folder / 'manifest.json'
    found = json.loads(file.read_text()) if file.exists() else 'no manifest'
    if found != manifest:
        raise ValueError(f'{folder} holds {found}, but this dataset is {manifest}: delete the folder or choose another '
                         'data_root')


@DATASETS.register_module()
class ShapesDataset(CocoDataset):
    """``num_images`` synthetic pictures in COCO format, written to ``data_root/split`` on first use.

    The files are the same to the byte for the same arguments (and OpenCV and NumPy releases).

    Args:
        split: ``'train'`` or ``'val'``, two disjoint random streams.
        num_images: How many; about one in fifty shows no shape.
        image_size: Pixels a side; images are square.
        seed: Chooses another set of the same kind.
        data_root: Where the splits' folders are, or will be.
        kwargs: As for ``CocoDataset``, but for ``ann_file`` and ``data_prefix``, which follow from the split.
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
        # Here, not in the constructor: with lazy_init=True a config is built without writing anything.
        ensure_split(Path(self.data_root, self.manifest['split']), self.manifest)
        return super().load_data_list()
