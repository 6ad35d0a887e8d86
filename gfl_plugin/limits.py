"""How much memory a process may take for a file that it reads. Needs no stack."""
import math
import os
from pathlib import Path
from typing import Iterator

# A few changed bytes make a small JPEG one of 65535 x 16000 pixels, which OpenCV decodes in 16 s and 6.6 GB; a GIF of
# 60 bytes takes 5 GB.
MOST_PIXELS = 2**28


def limit_opencv() -> None:
    """Let OpenCV refuse images of more than :data:`MOST_PIXELS`, unless the user has set its limit already.

    :func:`gfl_plugin.datasets.images.find_damage` reads the size of a JPEG, PNG or GIF itself; of other formats only
    OpenCV knows it. OpenCV reads its limit from the environment once, when it is loaded, and mmcv loads it: so this is
    called before the package imports the stack. In a program that imports cv2, mmcv or mmdet before this package,
    OpenCV keeps its own limit of 2^30 pixels.
    """
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MOST_PIXELS))


def usable_memory(groups: Path = Path('/proc/self/cgroup'), root: Path = Path('/sys/fs/cgroup')) -> float:
    """Memory that this process may use, in bytes: the machine's, or less in a container; inf if the system says none.

    Args:
        groups: The file that lists the control groups of the process.
        root: The folder where the control groups are mounted.
    """
    return min([_machine_memory(), *_group_limits(groups, root)])


def _machine_memory() -> float:
    try:
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):  # not every system knows these names
        return math.inf


def _group_limits(groups: Path, root: Path) -> Iterator[int]:
    """Read the limits of the control groups, version 1 or 2, that the process is in."""
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
        # The limit of every group around it counts. A container may see only the top one: it is its own group.
        for folder in (group, *group.parents):
            try:
                yield int((folder / name).read_text())
            except (OSError, ValueError):  # the folder is not mounted; 'max' is no limit
                pass
            if folder == top:
                break
