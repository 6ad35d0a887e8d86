"""Checkpoints are loaded weights-only, always: a file from a stranger runs no code.

MMEngine 0.10.7 cannot load its own checkpoints under PyTorch >= 2.6, and onedl-mmengine falls back to an unsafe load.
Both are replaced here by a weights-only load with an allow-list of what a runner saves. :func:`trusting` is the one way
around it.
"""
import contextlib
import os
import pickle
import re
from typing import Any, Iterator

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, checkpoint

from ..errors import SetupError

_trusted = False


class UnsafeCheckpointError(pickle.UnpicklingError):
    """A checkpoint needs more than data to be rebuilt."""


class MissingCheckpointError(SetupError, FileNotFoundError):
    """MMEngine's, as a user's mistake: the weights of a backbone, for one, are first looked for in training."""


@contextlib.contextmanager
def trusting() -> Iterator[None]:
    """Within it, checkpoints are loaded with full pickle, which runs any code that the file asks for."""
    global _trusted
    before, _trusted = _trusted, True
    try:
        yield
    finally:
        _trusted = before


@contextlib.contextmanager
def refusing(source: str) -> Iterator[None]:
    """Turn the refusal of a weights-only load into one sentence that names what the file asked for."""
    try:
        yield
    except UnsafeCheckpointError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r'(?:GLOBAL|class|function) <?(?:class )?([\w.\'"]+)', str(error))
        reason = f'more than data ({str(error).splitlines()[0]})'
        offender = f'the global `{named[1].strip(chr(39))}`' if named else reason
        raise UnsafeCheckpointError(
            f'{source} is refused: to be loaded it needs {offender}, which is not in the list of what a training run '
            'saves, and might run code. If you trust whoever wrote the file, pass --trust-checkpoint to the tool (or '
            'wrap the call in gfl_plugin.compat.checkpoints.trusting()).') from None


def load_file(file: Any, map_location: Any = None, weights_only: Any = None) -> dict:
    """Load a checkpoint from a path or an open file, weights-only unless :func:`trusting`.

    ``weights_only`` is ignored; it is there because MMEngine's own function, which this replaces, has it.
    """
    with refusing(str(getattr(file, 'name', file))):
        return _without_code(torch.load(file, map_location=map_location, weights_only=not _trusted))


def load_url(url: str, **kwargs) -> dict:
    """Load a checkpoint from the web, or its cached copy, weights-only unless :func:`trusting`."""
    with refusing(url):
        return _without_code(torch.hub.load_state_dict_from_url(url, weights_only=not _trusted, **kwargs))


def load_from_local(filename: str, map_location: Any = None) -> dict:
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise MissingCheckpointError(f'There is no checkpoint {filename}')
    return load_file(filename, map_location)


def _without_code(loaded: Any) -> Any:
    # `Runner.resume` executes the text of the config that a checkpoint carries as Python, to look for the `gpu_ids` of
    # MMCV 1.x. Nothing else reads it, so it does not get that far.
    if not _trusted and isinstance(loaded, dict) and isinstance(loaded.get('meta'), dict):
        loaded['meta'].pop('config', None)
    return loaded


def _statistic(owner: type, name: str) -> Any:
    """What ``getattr`` means in a runner's checkpoint: the message hub pickles HistoryBuffer's own statistics so.

    Allowing ``getattr`` itself would hand attribute access to the file.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'GLOBAL getattr({owner!r}, {name!r})')


def install() -> None:
    """Make every checkpoint that MMEngine loads go through here."""
    multiarray = getattr(np, '_core', np.core if np.__version__ < '2' else None).multiarray
    numeric = '?bhilqBHILQefdg'
    torch.serialization.add_safe_globals([
        (_statistic, 'builtins.getattr'), HistoryBuffer, slice, np.ndarray, np.dtype,
        *{type(np.dtype(code)) for code in numeric},
        # NumPy 2 moved these; files of either era name them either way.
        *((getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
          for core in ('core', '_core') for name in ('_reconstruct', 'scalar')),
    ])
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    checkpoint.load_from_local = load_from_local
    checkpoint.load_url = load_url
    checkpoint._safe_torch_load = load_file  # onedl-mmengine's, behind all its other schemes
