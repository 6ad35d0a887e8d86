"""Files that are written completely or not at all, whatever happens meanwhile."""
import contextlib
import errno
import glob
import os
import uuid
from typing import Iterator

SUFFIX = '.writing'


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Give the name of a temporary file to write, in the folder of ``path``; afterwards it takes the place of ``path``.

    At any instant ``path`` is what it was or what it will be, also when the machine loses power: the content reaches
    the disk before the name does. If writing fails nothing is left behind. Of several processes that write one file at
    a time, each has a temporary file of its own, and the last to end counts.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f'.{name}.{uuid.uuid4().hex[:8]}{SUFFIX}')
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    _flush(folder)


def write_text(path: str, text: str) -> None:
    with replacing(path) as temporary, open(temporary, 'w') as file:
        file.write(text)


def remove_leftovers(folder: str) -> int:
    """Remove the temporary files of processes that were killed while they wrote to ``folder``.

    Returns:
        How many files there were.
    """
    leftovers = glob.glob(os.path.join(glob.escape(folder), f'.*{SUFFIX}'))
    for file in leftovers:
        os.remove(file)
    return len(leftovers)


def is_out_of_space(error: OSError) -> bool:
    """Whether a write failed because the disk is full, or because of a quota or a limit on the size of files."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems cannot flush a folder
        if not os.path.isdir(path) or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
