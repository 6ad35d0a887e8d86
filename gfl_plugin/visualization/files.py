"""Read the images of a data set, and name and write pictures of them."""
import os
from typing import Dict, Sequence

import cv2
import numpy as np
from mmengine.fileio import get

WRITABLE = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')


def read_image(path: str) -> np.ndarray:
    """Read an image (H, W, 3), BGR, from a file or a storage backend, turned as its EXIF data say.

    Raises:
        OSError: The image cannot be read.
    """
    image = cv2.imdecode(np.frombuffer(get(path), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise OSError(f'{path} is not an image that OpenCV can decode')
    return image


def name_pictures(paths: Sequence[str]) -> Dict[str, str]:
    """Give each image a relative path for its picture: its path below the folder that all images share.

    So images of one name in several folders have pictures of different names. The name gets the suffix ``.png`` if
    OpenCV writes no file with the suffix that it has.
    """
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]) if paths else ''
    names = {path: os.path.relpath(path, shared) for path in paths}
    return {path: name if name.lower().endswith(WRITABLE) else f'{name}.png' for path, name in names.items()}


def true_boxes(info: dict) -> np.ndarray:
    """Corners (G, 4) of the objects of an image that are not ignored, pixels of the image, from MMDetection's data set.

    A pipeline's boxes are no use here: it may have flipped or scaled them.
    """
    boxes = [instance['bbox'] for instance in info.get('instances', ()) if not instance.get('ignore_flag')]
    return np.array(boxes, float).reshape(-1, 4)


def write_picture(path: str, picture: np.ndarray) -> None:
    """Write a picture in the format of its suffix, and make its folder if it is missing.

    Raises:
        OSError: The picture cannot be written.
    """
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    is_encoded, content = cv2.imencode(os.path.splitext(path)[1], picture)
    if not is_encoded:
        raise OSError(f'OpenCV cannot encode a picture of this size as {os.path.splitext(path)[1]}')
    with open(path, 'wb') as file:  # OpenCV's own function does not say why it fails
        file.write(content)
