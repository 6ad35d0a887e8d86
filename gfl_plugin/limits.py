"""Limit the memory that a process uses for a file that it reads. Needs no stack."""
import math
import os
import re
from pathlib import Path
from typing import Iterator

# A few changed bytes give a small JPEG 65535 x 16000 pixels, and OpenCV takes 16 s and 6.6 GB to decode it. A GIF of
# 60 bytes can take 5 GB.
MOST_PIXELS = 2**28
VARIABLE = 'OPENCV_IO_MAX_IMAGE_PIXELS'


def limit_opencv() -> None:
    """Make OpenCV refuse images of more than :data:`MOST_PIXELS`, unless the user has set a limit already.

    :func:`gfl_plugin.datasets.images.find_damage` reads the size of a JPEG, PNG or GIF itself. For other formats only
    OpenCV knows the size. OpenCV reads its limit from the environment once, when it is loaded. mmcv loads OpenCV, so
    the package calls this function before it imports the stack. In a program that imports cv2, mmcv or mmdet before
    this package, OpenCV keeps its own limit of 2^30 pixels.
    """
    os.environ.setdefault(VARIABLE, str(MOST_PIXELS))


def most_pixels() -> int:
    """Return the limit that the user has set for OpenCV, or else :data:`MOST_PIXELS`."""
    value = re.fullmatch(r'(\d+)(|KB|Kb|kb|MB|Mb|mb)', os.environ.get(VARIABLE, ''))  # as OpenCV reads it
    return int(value[1]) * {'': 1, 'k': 2**10, 'm': 2**20}[value[2][:1].lower()] if value else MOST_PIXELS


def usable_memory(groups: Path = Path('/proc/self/cgroup'), root: Path = Path('/sys/fs/cgroup')) -> float:
    """Return how many bytes of memory this process may use, in a container too; inf if the system does not say.

    Args:
        groups: The file that lists the control groups of the process.
        root: The folder where the control groups are mounted.
    """
    return min([_machine_memory(), *_group_limits(groups, root)])


def _machine_memory() -> float:
    try:
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):  # not every system has these names
        return math.inf


def _group_limits(groups: Path, root: Path) -> Iterator[int]:
    """Yield the memory limits, bytes, of the control groups (version 1 or 2) of the process."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # only Linux has control groups
        return
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if controllers == '':  # version 2
            top, name = root, 'memory.max'
        elif 'memory' in controllers.split(','):
            top, name = root / 'memory', 'memory.limit_in_bytes'
        else:
            continue
        group = top / path.strip('/')
        # The limits of all enclosing groups apply. A container may see only the top one, which is then its own group.
        for folder in (group, *group.parents):
            try:
                yield int((folder / name).read_text())
            except (OSError, ValueError):  # the folder is not mounted, or holds 'max': no limit
                pass
            if folder == top:
                break
