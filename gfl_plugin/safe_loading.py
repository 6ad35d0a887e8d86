"""Checkpoints are loaded weights-only: a file from a stranger runs no code.

MMEngine 0.10.7 cannot load its own checkpoints under PyTorch >= 2.6, and onedl-mmengine falls back to an unsafe load.
This module makes both load weights-only, with a list of what a runner saves. MMEngine also executes the texts of
configs that a checkpoint carries, so this module removes them. :func:`trusting` makes an exception for the files that
it names.
"""
import contextlib
import errno
import os
import pickle
import re
import struct
from typing import Any, FrozenSet, Iterator, List, Optional
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.infer import BaseInferencer
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, checkpoint

from . import patches
from .errors import SetupError

# The texts that MMEngine executes as Python. Runner.resume looks for the `gpu_ids` of MMCV 1.x in the first one.
# BaseInferencer builds its model from one of the others if it gets no config.
EXECUTED_TEXTS = (('meta', 'config'), ('meta', 'cfg'), ('message_hub', 'runtime_info', 'cfg'))

# PyTorch's error about a pickle of protocol 4 or newer, which starts with this operand. Weights-only loads stop there.
FRAME = re.compile(r'Unsupported operand 149\b')

# PyTorch's RuntimeErrors about a file that ends too early.
TRUNCATED = re.compile(r'PytorchStreamReader|unexpected EOF')

_trusted: FrozenSet[str] = frozenset()
_is_loading_trusted = False
_load_by_scheme = CheckpointLoader.load_checkpoint
_init_model = BaseInferencer._init_model


class UnsafeCheckpointError(pickle.UnpicklingError):
    """A checkpoint needs more than data to be rebuilt."""


class MissingCheckpointError(SetupError, FileNotFoundError):
    """A checkpoint does not exist, such as the weights of a backbone that a training starts from."""


@contextlib.contextmanager
def trusting(*names: str) -> Iterator[None]:
    """Within it, the named checkpoints are loaded with full pickle, which runs any code that such a file asks for.

    All other files, such as the weights of a backbone, are still loaded weights-only.

    Args:
        names: Paths, or the URLs by which MMEngine is told to load them.
    """
    global _trusted
    before, _trusted = _trusted, _trusted.union(map(_identity, names))
    try:
        yield
    finally:
        _trusted = before


def _identity(name: str) -> str:
    """The absolute path of a file, or the URL: the same for all names of a file."""
    name = os.fspath(name)
    return name if '://' in name else os.path.realpath(os.path.expanduser(name))


@contextlib.contextmanager
def refusing(source: str) -> Iterator[None]:
    """Explain why a weights-only load fails: the file asks for more than data, or it cannot be read at all."""
    try:
        with explaining_damage(source, 'Copy or download it again'):
            yield
    except UnsafeCheckpointError:
        raise
    except pickle.UnpicklingError as error:
        offender = _offender(error)
        raise UnsafeCheckpointError(
            f'{source} is refused: to be loaded it needs {offender}, which is not in the list of what a training run '
            'saves, and might run code. If you trust whoever wrote the file: --trust-checkpoint loads the checkpoint '
            'that you name to a tool, and gfl_plugin.safe_loading.trusting(NAME) any file in your own '
            'code') from None


@contextlib.contextmanager
def explaining_damage(file: str, advice: str) -> Iterator[None]:
    """Raise a SetupError that names the file if a load fails because the file is truncated or not a checkpoint."""
    try:
        yield
    except Exception as error:
        if not _is_about_damage(error):
            raise
        raise SetupError(f'{file} is damaged or not a checkpoint. {advice}') from None


def _is_about_damage(error: Exception) -> bool:
    if isinstance(error, pickle.UnpicklingError):  # full pickle could not read the file either
        return not isinstance(error, UnsafeCheckpointError) and _offender(error) is None
    if isinstance(error, RuntimeError):
        return TRUNCATED.search(str(error)) is not None
    if isinstance(error, OSError):  # PyTorch looks for the end of a zip archive before its start
        return error.errno == errno.EINVAL
    return isinstance(error, (EOFError, IndexError, struct.error))  # the unpickler ran out of bytes


def _offender(error: pickle.UnpicklingError) -> Optional[str]:
    """Name what a file needs and a weights-only load does not give; None if that is not the trouble."""
    named = re.search(r'(?:GLOBAL|class|function) <?(?:class )?([\w.\'"]+)', str(error))
    if named:
        return f'the global `{named[1].strip(chr(39))}`'
    return 'pickle protocol 4 or newer' if FRAME.search(str(error)) else None


def load_checkpoint(filename: str, map_location: Any = None, logger: Any = 'current') -> dict:
    """Load a checkpoint from wherever MMEngine can, in place of ``CheckpointLoader.load_checkpoint``.

    Raises:
        UnsafeCheckpointError: The file needs more than data to be rebuilt, and it is not trusted.
        SetupError: The file is damaged, or holds something other than a checkpoint.
    """
    global _is_loading_trusted
    before, _is_loading_trusted = _is_loading_trusted, _identity(filename) in _trusted
    try:
        with refusing(filename), _allowing_what_runners_save():
            loaded = _load_by_scheme(filename, map_location, logger)
        if not isinstance(loaded, dict):
            raise SetupError(f'{filename} is not a checkpoint: it holds a {type(loaded).__name__}, not a dict')
        if not _is_loading_trusted:
            for text in EXECUTED_TEXTS:
                _remove(loaded, *text)
        return loaded
    finally:
        _is_loading_trusted = before


def _remove(content: dict, name: str, *rest: str) -> None:
    """Remove ``content[name]``. If there are more names, follow them and remove what the last one names."""
    if name not in content:
        return
    if rest and isinstance(content[name], dict):
        _remove(content[name], *rest)
    else:  # The text itself. Or an object that has the text under its name without being a dict: a NumPy record.
        del content[name]  # not pop: an OrderedDict from a stranger may have a `pop` of its own


def load_file(file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
    """Load a path or an open file, weights-only unless :func:`load_checkpoint` asks for it by a trusted name.

    ``weights_only`` is ignored. MMEngine's own function, which this one replaces, has it.
    """
    with refusing(str(getattr(file, 'name', file))), _allowing_what_runners_save():
        return torch.load(file, map_location=map_location, weights_only=not _is_loading_trusted)


def load_url(url: str, **kwargs) -> Any:
    """Load a file from the web, or its cached copy, weights-only unless it is trusted."""
    folder = kwargs.get('model_dir') or os.path.join(torch.hub.get_dir(), 'checkpoints')  # where PyTorch caches it
    copy = os.path.join(folder, kwargs.get('file_name') or os.path.basename(urlparse(url).path))
    with explaining_damage(copy, f'Delete it, and the next start downloads it again from {url}'):
        return torch.hub.load_state_dict_from_url(url, weights_only=not _is_loading_trusted, **kwargs)


def load_from_local(filename: str, map_location: Any = None) -> Any:
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise MissingCheckpointError(f'There is no checkpoint {filename}')
    return load_file(filename, map_location)


def init_model(inferencer: BaseInferencer, cfg: dict, weights: Optional[str], device: str = 'cpu') -> torch.nn.Module:
    """Build an inferencer's model, in place of ``BaseInferencer._init_model``.

    Raises:
        SetupError: The checkpoint's text is the only config, and the checkpoint is not trusted.
    """
    if not cfg and _identity(weights) not in _trusted:
        raise SetupError(f'{weights} needs its config, as {type(inferencer).__name__}(model=CONFIG, weights=...). The '
                         'checkpoint may hold one, but as Python text, and that is not executed')
    return _init_model(inferencer, cfg, weights, device)


def _statistic(owner: type, name: str) -> Any:
    """Stand in for ``getattr``, by which a runner's message hub pickles the statistics of HistoryBuffer.

    Allowing ``getattr`` itself would give the file access to any attribute.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'GLOBAL getattr({owner!r}, {name!r})')


def _what_runners_save() -> List[Any]:
    """The classes and functions in a runner's checkpoint, as ``torch.serialization.safe_globals`` takes them."""
    multiarray = getattr(np, '_core', np.core if np.__version__ < '2' else None).multiarray
    numeric = '?bhilqBHILQefdg'
    return [(_statistic, 'builtins.getattr'), HistoryBuffer, slice, np.ndarray, np.dtype,
            *{type(np.dtype(code)) for code in numeric},
            # NumPy 2 moved these functions. A file of either version may name them either way.
            *((getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
              for core in ('core', '_core') for name in ('_reconstruct', 'scalar'))]


WHAT_RUNNERS_SAVE = _what_runners_save()


@contextlib.contextmanager
def _allowing_what_runners_save() -> Iterator[None]:
    """Within it, a weights-only load may rebuild what runners save. PyTorch's list for other loads stays as it is."""
    known = set(torch.serialization.get_safe_globals())  # by the user, or by a call around this one: they stay
    with torch.serialization.safe_globals([one for one in WHAT_RUNNERS_SAVE if one not in known]):
        yield


def install() -> None:
    """Make MMEngine load every checkpoint through this module."""
    patches.replace(CheckpointLoader, 'load_checkpoint', staticmethod(load_checkpoint))
    local = CheckpointLoader._schemes['']
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    patches.on_undo(lambda: CheckpointLoader.register_scheme(prefixes='', loader=local, force=True))
    patches.replace(checkpoint, 'load_from_local', load_from_local)
    patches.replace(checkpoint, 'load_url', load_url)
    if hasattr(checkpoint, '_safe_torch_load'):  # in onedl-mmengine, for all other schemes
        patches.replace(checkpoint, '_safe_torch_load', load_file)
    patches.replace(BaseInferencer, '_init_model', init_model)
