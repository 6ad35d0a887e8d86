"""Read the images to detect on, whatever they come as: files, folders, patterns, arrays or PIL images."""
import glob
import os
from typing import Any, Iterator, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..datasets.images import describe, find_damage
from ..datasets.layouts.common import IMAGE_SUFFIXES, walk_files
from ..errors import SetupError


class ImageError(SetupError):
    """An input is not an image that can be read.

    Attributes:
        name: The path, or the place of the input, such as ``image 3``.
        reason: Why not.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f'{name}: {reason}')
        self.name, self.reason = name, reason


class Source(NamedTuple):
    """One image to read.

    Attributes:
        name: The path, or the place of the input, such as ``image 3``.
        content: A path, an array or a PIL image.
        folder: The folder that was given, if the image was found in one; else the folder of the file.
        is_rgb: Whether an array has its channels in the order red, green, blue instead of OpenCV's.
    """
    name: str
    content: Any
    folder: str = ''
    is_rgb: bool = False

    @property
    def relative_name(self) -> str:
        """The path relative to the folder."""
        return os.path.relpath(self.name, self.folder) if self.folder else self.name


def find_images(images: Any, rgb: bool = False) -> Iterator[Source]:
    """List single images: those of a folder and its subfolders in sorted order, those of a pattern, those of a list.

    Does not open the files.

    Args:
        images: A path, a folder, a pattern such as ``photos/*.jpg``, an array, a PIL image, or an iterable of these.
        rgb: Whether arrays have their channels in the order red, green, blue instead of OpenCV's.
    """
    if _is_single(images):
        images = [images]
    for number, one in enumerate(images):
        if isinstance(one, Source):
            yield one
        elif isinstance(one, (str, os.PathLike)):
            yield from _find_files(os.fspath(one))
        else:
            yield Source(f'image {number}', one, is_rgb=rgb)


def _is_single(images: Any) -> bool:
    return isinstance(images, (str, os.PathLike, np.ndarray, Image.Image, Source)) or not hasattr(images, '__iter__')


def _find_files(path: str) -> Iterator[Source]:
    if os.path.isdir(path):
        yield from (Source(file, file, path) for file in walk_files(path) or [path])
    elif not os.path.lexists(path) and glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))
        for match in matches:
            yield from _find_files(match)
        if not matches:
            yield Source(path, path, os.path.dirname(path))
    else:
        yield Source(path, path, os.path.dirname(path))


def read_image(source: Source) -> np.ndarray:
    """Read an image as the data sets do: eight bits, three channels, turned as its EXIF data say.

    Grey images get three equal channels. Transparency is dropped. Of 16 bits, the upper 8 are kept.

    Returns:
        (H, W, 3) uint8, blue, green, red.

    Raises:
        ImageError: There is no such file, or the input is not an image.
    """
    content = source.content
    try:
        if isinstance(content, str):
            return _read_file(content)
        if isinstance(content, Image.Image):
            return _from_array(_from_pil(content), is_rgb=True)
        if isinstance(content, np.ndarray):
            return _from_array(content, source.is_rgb)
    except (OSError, ValueError, MemoryError, cv2.error) as error:
        raise ImageError(source.name, describe(error)) from error
    raise ImageError(source.name, f'{type(content).__name__} is not an image: give a path, a folder, an array '
                     '(H, W, 3) or a PIL image')


def _read_file(path: str) -> np.ndarray:
    if os.path.isdir(path):
        raise ValueError(f'the folder has no image ({" ".join(sorted(IMAGE_SUFFIXES))})')
    if not os.path.exists(path) and glob.has_magic(path):
        raise ValueError('no file matches this pattern')
    damage = find_damage(path)
    if damage:
        raise ValueError(damage)
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError('not an image that OpenCV can decode')
    return pixels


def _from_pil(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode in ('F', 'I'):  # of any range of values
        raise ValueError(f'a PIL image of mode {image.mode}; convert it to RGB first')
    if image.mode.startswith('I;16'):
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image.convert('RGB'))


def _from_array(array: np.ndarray, is_rgb: bool) -> np.ndarray:
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f'an array of {array.dtype}; it must be of uint8, from 0 to 255')
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise ValueError(f'an array of shape {array.shape}; it must be (H, W), (H, W, 3) or (H, W, 4)')
    if array.shape[2] == 1:
        array = array.repeat(3, 2)
    return np.ascontiguousarray(array[..., 2::-1] if is_rgb else array[..., :3])
