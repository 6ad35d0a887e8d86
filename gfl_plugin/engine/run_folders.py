"""Which folder a run writes to, so that no run overwrites another one."""
import contextlib
import itertools
import os
import re
import socket
from typing import Iterator, Optional

from mmengine.config import Config
from mmengine.dist import is_main_process

from ..errors import RunError, SetupError
from ..safe_loading import UnsafeCheckpointError
from .config import Options

LAUNCH = '.launch'  # in a run's folder: marks it as taken, and names the torchrun that started the run, if one did
LOGS = re.compile(r'\d{8}_\d{6}')  # the folder that MMEngine makes for the logs of one start


def training_folder(options: Options, config: Config) -> str:
    """Choose a folder that no other run writes to, or with ``--resume`` the folder of the run to go on with.

    The default is ``work_dirs/NAME``, or else ``NAME-2``, ``NAME-3`` and so on.

    Raises:
        SetupError: ``--work-dir``, or ``work_dir`` in the config, holds an earlier run or is not a folder.
    """
    asked = options.work_dir or config.get('work_dir')
    base = asked or default_folder(options)
    refuse_file(asked or os.path.dirname(base))  # beside a file of the default name there is NAME-2
    if options.resume is not None:
        return base if asked else _latest(base)
    if not asked:
        return next(folder for folder in numbered(base) if claim(folder))
    if not claim(base):
        raise SetupError(f'{base} holds an earlier run, and a new run does not overwrite it. Go on with it by '
                         '--resume, or name another --work-dir')
    return base


def refuse_file(folder: str) -> None:
    """Raise a SetupError if a folder cannot be made, because it or a folder around it is a file."""
    path = os.path.abspath(folder)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        raise SetupError(f'{path} is not a folder. Name another --work-dir')


def numbered(base: str) -> Iterator[str]:
    """``base``, ``base-2``, ``base-3`` and so on."""
    yield base
    for number in itertools.count(2):
        yield f'{base}-{number}'


def make_output_folder(asked: Optional[str], default: str) -> str:
    """Make the folder for the output of a tool: the one that the user names, or ``default``, or else ``default-2``.

    Raises:
        OSError: It cannot be made.
    """
    if asked:
        os.makedirs(asked, exist_ok=True)
        return asked
    return next(folder for folder in numbered(default) if _make_new(folder))


def _make_new(folder: str) -> bool:
    """Make a folder and return True, unless it exists."""
    try:
        os.makedirs(folder)
        return True
    except FileExistsError:
        return False


def _latest(base: str) -> str:
    """The folder among ``base``, ``base-2``, ``base-3`` and so on whose run saved a checkpoint last."""
    parent, name = os.path.split(base)
    pattern = re.compile(re.escape(name) + r'(-\d+)?')
    runs = [os.path.join(parent, entry) for entry in (os.listdir(parent) if os.path.isdir(parent) else ())
            if pattern.fullmatch(entry) and os.path.isfile(os.path.join(parent, entry, 'last_checkpoint'))]
    return max(runs, key=lambda run: os.path.getmtime(os.path.join(run, 'last_checkpoint')), default=base)


def default_folder(options: Options) -> str:
    """The folder of a run whose command and config name none."""
    return os.path.join('work_dirs', os.path.splitext(os.path.basename(options.config))[0])


def claim(folder: str) -> bool:
    """Take a folder for a new run, unless another run has it. If several runs start together, one of them gets it.

    Returns:
        Whether the folder is this run's. It is if it did not exist or holds nothing but logs, or if torchrun has
        started this run there before.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        if is_started_again(folder):
            return True
        if not all(map(LOGS.fullmatch, os.listdir(folder))):
            return False
        with open(os.path.join(folder, LAUNCH), 'x'):
            return True
    except FileExistsError:
        return False


@contextlib.contextmanager
def giving_back(folder: str, config: Config) -> Iterator[None]:
    """Give back the folder of a new run if a user's mistake ends it before it has saved anything but logs.

    The corrected command can then use the same folder.
    """
    try:
        yield
    except RunError:  # no mistake: the run has trained
        raise
    except (SetupError, UnsafeCheckpointError):
        if is_main_process():
            _unclaim(folder, os.path.basename(config.filename))
        raise


def _unclaim(folder: str, config: str) -> None:
    entries, own = set(os.listdir(folder)), {LAUNCH, config}
    if all(map(LOGS.fullmatch, entries - own)):
        for entry in own & entries:
            os.remove(os.path.join(folder, entry))


def sign(folder: str) -> None:
    """Note in a run's folder which torchrun it belongs to."""
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, LAUNCH), 'w') as file:
            file.write(_launch())


def is_started_again(folder: str) -> bool:
    """Whether the torchrun that started this process had started the run in ``folder`` before (``--max-restarts``).

    TORCHELASTIC_RESTART_COUNT does not say so on machines whose processes ended only because another machine's did.
    """
    try:
        with open(os.path.join(folder, LAUNCH)) as file:
            return 'TORCHELASTIC_RUN_ID' in os.environ and file.read() == _launch()
    except OSError:
        return False


def _launch() -> str:
    """Name torchrun's agent, which is the parent of all processes that it starts, and outlives them."""
    agent = os.getppid()
    try:  # process numbers repeat, above all in containers; together with the time of the start they do not
        with open(f'/proc/{agent}/stat') as file:
            start = file.read().rpartition(')')[2].split()[19]
    except OSError:
        start = ''
    return f'{socket.gethostname()} {agent} {start}'
