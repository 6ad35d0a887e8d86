"""What the layouts share: result types, findings, and access to image files. Nothing here writes a file."""
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from PIL import Image

from ...errors import SetupError
from ..annotations import printable
from ..images import describe, open_image

IMAGE_SUFFIXES = frozenset('.avif .bmp .dib .gif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp'.split())
SHOWN = 3  # entries that a finding names
ORIENTATION = 0x0112  # EXIF tag; the values 5 to 8 turn the image by a quarter
CUT = 'boxes that reach beyond the image, cut at its border'
NO_AREA = 'boxes without area inside the image, left out'
NO_LABELS = 'images without a label file, kept as images without objects'
NO_IMAGE = 'label files without an image, left out'
UNREADABLE = 'images that cannot be opened, left out'
NOT_THERE = 'images that a list names and that are not there, left out'
Box = List[float]  # x, y, width, height in pixels


class Split(NamedTuple):
    """One part of a data set."""
    content: dict  # in COCO's format: images, annotations and categories
    images: str  # folder that the images' file names are relative to
    source: str  # file or folder that lists the images


class Finding(NamedTuple):
    """A problem of a data set, counted."""
    what: str
    count: int
    first: Tuple[str, ...]  # the first entries that have it

    def __str__(self) -> str:
        more = ', ...' if self.count > len(self.first) else ''
        return f'{self.what}: {self.count:,} ({", ".join(map(printable, self.first))}{more})'


class Findings:
    """Collects problems and counts them."""

    def __init__(self) -> None:
        self._entries: Dict[str, List[str]] = {}

    def add(self, what: str, where: str) -> None:
        self._entries.setdefault(what, []).append(where)

    def counted(self) -> List[Finding]:
        return [Finding(what, len(where), tuple(where[:SHOWN])) for what, where in self._entries.items()]


class BadLabel(ValueError):
    """One label cannot be used. The message is the ``what`` of a finding."""


class LabelledImage(NamedTuple):
    """An image and its objects."""
    file_name: str  # relative to the image folder of its split
    size: Tuple[int, int]  # width and height in pixels
    objects: List[Tuple[str, Box, int]]  # class name, box, and 1 for what training and evaluation ignore


def to_coco(images: Iterable[LabelledImage], names: Iterable[str]) -> dict:
    """The COCO content of labelled images. Images, annotations and categories are numbered from 1."""
    ids = {name: number for number, name in enumerate(dict.fromkeys(names), 1)}
    content: dict = dict(images=[], annotations=[], categories=[dict(id=ids[name], name=name) for name in ids])
    for number, image in enumerate(images, 1):
        content['images'].append(
            dict(id=number, file_name=image.file_name, width=image.size[0], height=image.size[1]))
        for name, box, ignored in image.objects:
            content['annotations'].append(
                dict(id=len(content['annotations']) + 1, image_id=number, category_id=ids[name], bbox=box,
                     area=box[2] * box[3], iscrowd=ignored))
    return content


def cut_box(corners: Sequence[float], size: Sequence[float]) -> Box:
    """A box (x1, y1, x2, y2) as x, y, width and height, cut at the border of its image; all in pixels.

    Nine decimals are kept: the others are rounding errors, which would make a box of one pixel thinner than that.

    Raises:
        BadLabel: Nothing is left of the box.
    """
    x1, y1 = (max(value, 0) for value in corners[:2])
    x2, y2 = (min(value, limit) for value, limit in zip(corners[2:], size))
    box = [round(value, 9) for value in (x1, y1, x2 - x1, y2 - y1)]
    if box[2] <= 0 or box[3] <= 0:
        raise BadLabel(NO_AREA)
    return box


def overshoot(corners: Sequence[float], size: Sequence[float]) -> float:
    """How far a box (x1, y1, x2, y2) reaches beyond its image; negative if it lies inside."""
    return max(-corners[0], -corners[1], corners[2] - size[0], corners[3] - size[1])


# Files.

def split_of(name: str) -> Optional[str]:
    """The split that a file or folder is named after: 'train', 'val', 'test', or None."""
    match = re.search(r'(?<![a-z])(train|val|test)(ing|id|idation)?(?![a-z])', name.lower())
    return match[1] if match else None


def list_folder(folder: str) -> List[str]:
    """Sorted paths of what is in a folder, without hidden names; none if there is no such folder."""
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if not name.startswith('.')]
    except OSError:
        return []


def walk_files(folder: str, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> List[str]:
    """Sorted paths of all files below a folder that have one of the suffixes."""
    found = []
    for parent, folders, names in os.walk(folder):
        # Skip hidden names: macOS leaves a ._photo.jpg beside each photo.jpg on other systems' disks.
        folders[:] = [name for name in folders if not name.startswith('.')]
        found += [os.path.join(parent, name) for name in names
                  if not name.startswith('.') and os.path.splitext(name)[1].lower() in suffixes]
    return sorted(found)


def stem(path: str, folder: str) -> str:
    """The path of a file relative to a folder, without its suffix."""
    return os.path.splitext(os.path.relpath(path, folder))[0]


def read_lines(path: str) -> List[str]:
    """The lines of a text file, without the space around them.

    Raises:
        SetupError: The file cannot be read.
    """
    try:
        with open(path, encoding='utf-8-sig', errors='surrogateescape') as file:
            return [line.strip() for line in file]
    except OSError as error:
        raise SetupError(f'{path} cannot be read: {error.strerror or error}') from error


def map_files(function: Callable, *arguments: Iterable) -> list:
    """Call a function that reads files for each argument, 16 at a time: a network drive answers late."""
    Image.init()  # before the threads race for it at the first image of a rare format
    with warnings.catch_warnings(), ThreadPoolExecutor(16) as pool:
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # only headers are read
        return list(pool.map(function, *arguments))


def read_size(path: str) -> Tuple[Optional[str], Optional[Tuple[int, int]]]:
    """Read the size of an image from its header.

    Returns:
        The reason if that is impossible, else None; and the (width, height) in pixels of the image as training loads
        it, which is turned as its EXIF entry says.
    """
    if not os.path.isfile(path):  # opening a pipe would not return
        return 'not a file' if os.path.exists(path) else 'missing', None
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned, kind = _is_turned(image), image.format
    except Image.UnidentifiedImageError:
        return 'not an image', None
    except Exception as error:  # a decoder may raise anything on a broken header
        return describe(error), None
    if is_turned and kind not in ('JPEG', 'MPO'):
        # OpenCV's releases differ in the other formats that they turn: ask the one that will load the image.
        damage, shape = open_image(path)
        return damage, (shape[1], shape[0]) if shape else None
    return None, (height, width) if is_turned else (width, height)


def _is_turned(image: Image.Image) -> bool:
    # Not image.getexif(): it decodes all of a PNG, and reads XMP entries, which OpenCV does not.
    if 'exif' not in image.info:
        return False
    entries = Image.Exif()
    entries.load(image.info['exif'])
    return entries.get(ORIENTATION) in (5, 6, 7, 8)
