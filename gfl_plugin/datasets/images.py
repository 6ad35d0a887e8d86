"""Find out whether an image file can be read, and if not, why. OpenCV gives no reason. Needs no stack.

Up to 4.10 or later, OpenCV decodes the first part of a truncated JPEG and fills the rest with grey, without an error.
Since 4.12 or earlier, it returns nothing and gives no reason. `find_damage` finds truncated files with two small reads;
`open_image` also decodes the file. No decoder notices noise in the middle of a JPEG.
"""
import os
import stat
from typing import Iterable, Iterator, List, Optional, Tuple

import cv2
import numpy as np

from ..limits import VARIABLE, most_pixels

JPEG, END_OF_JPEG, JPEG_SCAN = b'\xff\xd8', b'\xff\xd9', 0xda
JPEG_FRAMES = frozenset(range(0xc0, 0xd0)) - {0xc4, 0xc8, 0xcc}  # the markers of the segments that hold the size
PNG, END_OF_PNG = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'
GIF = b'GIF8'
HEAD, TAIL = 24, 8  # bytes read: the head reaches the size in a PNG, the tail holds either end marker


def find_damage(path: str) -> Optional[str]:
    """Say why a file is not a usable image, judging by its header and its end; None if they look right.

    This takes about 15 microseconds, where decoding takes 2,700. The whole file is read only if its end looks wrong.
    """
    try:
        # Check this first: opening a pipe or reading a device might never return.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return 'not a file'
        with open(path, 'rb', buffering=0) as file:
            number = file.fileno()
            head, size = os.pread(number, HEAD, 0), os.fstat(number).st_size
            width, height = _read_size(number, head)
            if width * height > most_pixels():
                return f'it claims to have {width} x {height} pixels, more than {VARIABLE} allows'
            if _is_doubtful(head, os.pread(number, TAIL, max(size - TAIL, 0))):
                return _check_content(file.readall(), number)
            return None
    except (OSError, ValueError) as error:  # ValueError: no file can have this name (it contains a NUL)
        return describe(error)


def open_image(path: str) -> Tuple[Optional[str], Optional[Tuple[int, int]]]:
    """Read and decode a file as training would.

    Returns:
        Why the file cannot be decoded, or None; and the image's (height, width), pixels, after its EXIF rotation.
    """
    damage = find_damage(path)
    if damage:
        return damage, None
    try:
        content = np.fromfile(path, np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)  # half the time of colour, same failures
    except (OSError, MemoryError, cv2.error) as error:
        return describe(error), None
    return ('not an image that OpenCV can decode', None) if pixels is None else (None, pixels.shape[:2])


def find_missing(paths: Iterable[str]) -> List[str]:
    """List the paths that have no regular file. Each folder is listed once, which is faster than a query per file."""
    folders, missing = {}, []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = _list_files(folder)
        if name not in folders[folder]:
            missing.append(path)
    return missing


def _list_files(folder: str) -> set:
    try:
        with os.scandir(folder or '.') as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()


def _read_size(file: int, head: bytes) -> Tuple[int, int]:
    """Read the (width, height), pixels, from the header of a JPEG, PNG or GIF; (0, 0) if there is none."""
    if head.startswith(PNG):
        return int.from_bytes(head[16:20], 'big'), int.from_bytes(head[20:24], 'big')
    if head.startswith(GIF):
        return int.from_bytes(head[6:8], 'little'), int.from_bytes(head[8:10], 'little')
    if head.startswith(JPEG):
        for _, marker, segment in _walk_jpeg(file):
            if marker in JPEG_FRAMES:
                return int.from_bytes(segment[7:9], 'big'), int.from_bytes(segment[5:7], 'big')
    return 0, 0


def _walk_jpeg(file: int) -> Iterator[Tuple[int, int, bytes]]:
    """Yield offset, marker and first nine bytes of each segment of a JPEG's header, up to the first scan."""
    at, marker = 2, 0
    while marker != JPEG_SCAN:
        segment = os.pread(file, 9, at)
        if len(segment) < 4 or segment[0] != 0xff:
            return
        marker = segment[1]
        yield at, marker, segment
        at += 2 + int.from_bytes(segment[2:4], 'big')


def _is_doubtful(head: bytes, tail: bytes) -> bool:
    """Whether the first or last bytes of a file differ from those of a complete image."""
    if head.startswith(JPEG):
        return not tail.endswith(END_OF_JPEG)
    if head.startswith(PNG):
        return not tail.endswith(END_OF_PNG)
    return not head.strip(b'\0')


def _check_content(content: bytes, file: int) -> Optional[str]:
    if not content.strip(b'\0'):
        return 'nothing but zeros' if content else 'empty'
    if content.startswith(PNG):
        return None if END_OF_PNG in content else 'truncated'  # bytes after the end are common and harmless
    if content.startswith(JPEG):
        # Search from the pixels on: a thumbnail in the header is a JPEG with its own end marker.
        scan = next((at for at, marker, _ in _walk_jpeg(file) if marker == JPEG_SCAN), len(JPEG))
        return None if content.find(END_OF_JPEG, scan) > 0 else 'truncated'
    return None


def describe(error: Exception) -> str:
    """Say what is wrong with a file that could not be read, on one line."""
    if isinstance(error, FileNotFoundError):
        return 'missing'
    if 'CV_IO_MAX_IMAGE_PIXELS' in str(error):
        return f'it claims to have more pixels than OpenCV decodes ({VARIABLE})'
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return ' '.join(str(error).split())
