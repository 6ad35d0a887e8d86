"""Which checkpoint a run goes on from, and in which folder."""
import os
import re
import socket
import zipfile
from typing import List, NamedTuple, Optional

from .. import safe_loading
from ..errors import SetupError

LAUNCH = '.launch'  # in a run's folder: marks it as taken, and names the torchrun that started the run, if one did


class Resumable(NamedTuple):
    """Attributes:
        path: The checkpoint to go on from; None where there is none yet.
        damaged: A sentence for each newer one that is not whole.
    """
    path: Optional[str]
    damaged: List[str]


def newest_whole(folder: str) -> Resumable:
    """The checkpoint that a run in ``folder`` goes on from: the last one, or the one before if that is damaged.

    Raises:
        SetupError: There are checkpoints, and none is whole.
    """
    damaged = []
    for path in _candidates(folder):
        reason = damage(path)
        if reason is None:
            return Resumable(path, damaged)
        damaged.append(f'{path} is not whole ({reason})')
    if damaged:
        raise SetupError(f'There is no checkpoint to resume from: {"; ".join(damaged)}. To start afresh name another '
                         '--work-dir')
    return Resumable(None, [])


def damage(path: str) -> Optional[str]:
    """What is wrong with a checkpoint, or None if it reads back whole: every byte is there and is what was written."""
    try:
        with open(path, 'rb') as file:
            start = file.read(2)
        if start[:1] == b'\x80':  # a bare pickle, of PyTorch < 1.6, has no checksums: it has to be loaded to be known
            return None if isinstance(safe_loading.load_file(path, map_location='cpu'), dict) else 'not a checkpoint'
        if start != b'PK':
            return 'not a checkpoint' if start else 'empty'
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        return broken and f'the checksum of {broken} is wrong'
    except safe_loading.UnsafeCheckpointError:  # The runner refuses the file, or loads it if the user trusts it.
        return None
    except Exception as error:  # readers stumble in many ways over bytes that are not what they expect
        return (str(error).strip() or type(error).__name__).splitlines()[0]


def named_last(folder: str) -> Optional[str]:
    """The checkpoint that a run in ``folder`` wrote last; None if it names none.

    ``last_checkpoint`` holds an absolute path. A run that was moved or copied has its own file of that name, which
    counts, even if the path still leads to the original's.
    """
    try:
        with open(os.path.join(folder, 'last_checkpoint'), errors='replace') as file:
            named = file.read().strip()
    except FileNotFoundError:
        return None
    own = os.path.abspath(os.path.join(folder, os.path.basename(named)))
    return own if os.path.isfile(own) or not os.path.isfile(named) else named


def _candidates(folder: str) -> List[str]:
    """The checkpoints of a run, the one that ``last_checkpoint`` names first, then from new to old."""
    named = named_last(folder)
    place = os.path.dirname(named) if named else folder
    entries = [entry for entry in (os.scandir(place) if os.path.isdir(place) else ()) if entry.is_file()
               and re.fullmatch(r'(?!best_|\.).*_\d+\.pth|interrupted\.pth', entry.name)]
    others = [entry.path for entry in sorted(entries, key=lambda entry: -entry.stat().st_mtime_ns)]
    pointed = [named] if named and os.path.isfile(named) else []
    return pointed + [path for path in others if path not in pointed]


def claim(folder: str) -> bool:
    """Take a folder for a new run, unless another run has it. Of several runs that start together, one gets it.

    Returns:
        Whether the folder is this run's: it was not there or empty, or torchrun has started this run there before.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        if is_started_again(folder):
            return True
        if os.listdir(folder):
            return False
        with open(os.path.join(folder, LAUNCH), 'x'):
            return True
    except FileExistsError:
        return False


def sign(folder: str) -> None:
    """Note in a run's folder which torchrun it belongs to."""
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, LAUNCH), 'w') as file:
            file.write(_launch())


def is_started_again(folder: str) -> bool:
    """Whether the run in ``folder`` belongs to the torchrun that has started this process (``--max-restarts``).

    TORCHELASTIC_RESTART_COUNT does not say so on the machines whose processes ended because another's did.
    """
    try:
        with open(os.path.join(folder, LAUNCH)) as file:
            return 'TORCHELASTIC_RUN_ID' in os.environ and file.read() == _launch()
    except OSError:
        return False


def _launch() -> str:
    """The agent of torchrun is the parent of all processes that it starts, and outlives them."""
    agent = os.getppid()
    try:  # in containers the same number comes again and again; with its time of start it does not
        with open(f'/proc/{agent}/stat') as file:
            start = file.read().rpartition(')')[2].split()[19]
    except OSError:
        start = ''
    return f'{socket.gethostname()} {agent} {start}'
