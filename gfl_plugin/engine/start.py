"""How a training starts: in which folder, from which checkpoint, and whether that checkpoint is whole."""
import os
import re
import zipfile
from typing import List, NamedTuple, Optional

from mmengine.config import Config

from .. import safe_loading
from ..errors import SetupError
from . import run_folders
from .config import Options


class Start(NamedTuple):
    """How a training starts.

    Attributes:
        folder: The folder that the run writes to.
        checkpoint: The checkpoint to load; None for a start from scratch.
        resume: Whether the run goes on from the checkpoint, or only takes its weights.
        remarks: Warnings for the log.
    """
    folder: str
    checkpoint: Optional[str]
    resume: bool
    remarks: List[str]


def decide_start(options: Options, config: Config) -> Start:
    """Start a new run, or go on with one as ``--resume`` says. A run that torchrun restarts goes on without it.

    Raises:
        SetupError: The folder is another run's, or a checkpoint does not exist, is damaged, or holds weights only.
    """
    weights = config.get('load_from')
    if weights and options.resume is None:
        existing_file(weights)  # before a folder is made
    folder = run_folders.training_folder(options, config)
    started_again = run_folders.is_started_again(folder)
    run_folders.sign(folder)
    remarks: List[str] = []
    if started_again or options.resume == 'auto':
        path, damaged = newest_whole(folder)
        if path is not None:
            return Start(folder, path, True, [f'{one}: the run goes on from {path}' for one in damaged])
        remarks = [f'There is no checkpoint in {folder} to go on from yet: the run starts']
    if options.resume in (None, 'auto'):
        return Start(folder, weights and existing_file(weights), False, remarks)
    advice = '--resume without a name goes on from the newest checkpoint that is whole'
    if os.path.basename(options.resume).startswith('best_'):
        raise SetupError(f'{options.resume} holds weights only, and no state of a run to resume: name an epoch_N.pth, '
                         'or none')
    return Start(folder, existing_file(options.resume, advice), True, remarks)


def existing_file(checkpoint: str, advice: str = 'Copy or download it again') -> str:
    """Check that a checkpoint exists and is whole, unless it is on the web, and return its name.

    Args:
        checkpoint: Path or URL.
        advice: What the user can do if the file is damaged.
    """
    if '://' in checkpoint:
        return checkpoint
    if not os.path.isfile(checkpoint):
        raise SetupError(f'There is no checkpoint {os.path.abspath(checkpoint)}')
    reason = damage(checkpoint)
    if reason is not None:
        raise SetupError(f'{checkpoint} is not whole ({reason}). {advice}')
    return checkpoint


class Resumable(NamedTuple):
    """What a run can go on from.

    Attributes:
        path: The checkpoint to go on from; None if there is none yet.
        damaged: A sentence about each newer checkpoint that is not whole.
    """
    path: Optional[str]
    damaged: List[str]


def newest_whole(folder: str) -> Resumable:
    """Find the checkpoint that a run in ``folder`` goes on from: the newest one that is not damaged.

    Raises:
        SetupError: There are checkpoints, but none is whole.
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
    """Say what is wrong with a checkpoint, or return None if it is whole: every byte is there and as it was written."""
    try:
        with open(path, 'rb') as file:
            start = file.read(2)
        if start[:1] == b'\x80':  # a bare pickle, from PyTorch < 1.6, has no checksums, so load it
            return None if isinstance(safe_loading.load_file(path, map_location='cpu'), dict) else 'not a checkpoint'
        if start != b'PK':
            return 'not a checkpoint' if start else 'empty'
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        return broken and f'the checksum of {broken} is wrong'
    except safe_loading.UnsafeCheckpointError:  # The runner refuses the file, or loads it if the user trusts it.
        return None
    except Exception as error:  # unexpected bytes make readers raise errors of many kinds
        return (str(error).strip() or type(error).__name__).splitlines()[0]


def named_last(folder: str) -> Optional[str]:
    """The checkpoint that a run in ``folder`` wrote last; None if the run names none.

    The file ``last_checkpoint`` holds an absolute path. A run that was moved or copied has a file of the same name of
    its own. That one counts, even if the path still leads to the original.
    """
    try:
        with open(os.path.join(folder, 'last_checkpoint'), errors='replace') as file:
            named = file.read().strip()
    except FileNotFoundError:
        return None
    own = os.path.abspath(os.path.join(folder, os.path.basename(named)))
    return own if os.path.isfile(own) or not os.path.isfile(named) else named


def _candidates(folder: str) -> List[str]:
    """The checkpoints of a run: first the one that ``last_checkpoint`` names, then the others from new to old."""
    named = named_last(folder)
    place = os.path.dirname(named) if named else folder
    entries = [entry for entry in (os.scandir(place) if os.path.isdir(place) else ()) if entry.is_file()
               and re.fullmatch(r'(?!best_|\.).*_\d+\.pth|interrupted\.pth', entry.name)]
    others = [entry.path for entry in sorted(entries, key=lambda entry: -entry.stat().st_mtime_ns)]
    pointed = [named] if named and os.path.isfile(named) else []
    return pointed + [path for path in others if path not in pointed]
