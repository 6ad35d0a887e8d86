"""A run that is asked to end saves itself first."""
import datetime
import functools
import multiprocessing
import os
import signal
import threading
import time
from typing import Callable, Dict, List, Optional

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..errors import Interrupted
from ..registry import HOOKS
from .checkpoint import CheckpointHook

ECHO = 2.0  # seconds within which a launcher repeats a signal that its processes have had already


@HOOKS.register_module()
class InterruptHook(Hook):
    """On SIGTERM, SIGINT or SIGHUP finish the iteration, save the run by :class:`CheckpointHook`, and end it.

    All ranks end at the same iteration, whichever of them got the signal. A signal breaks a validation off, and the
    resumed run begins with it; while the metric is computed, the signal waits. A second SIGINT stops at once.

    Raises:
        Interrupted: The run was asked to end, and is saved. ``tools/train.py`` exits with its status.
    """
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._received: Optional[int] = None
        self._since = 0.0
        self._handlers: Dict[int, object] = {}
        self._group = None
        self._last_to_ask = 0  # batches of a validation that all ranks have
        self._in_validation = False
        self._validate_first = False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._in_validation:
            checkpoint['meta']['validate_first'] = True

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._validate_first = runner._resume and checkpoint['meta'].get('validate_first', False)

    def before_train(self, runner: Runner) -> None:
        if is_distributed():  # a group on the CPU: to ask the others must not wait for the device
            self._group = torch.distributed.new_group(backend='gloo', timeout=read_timeout(runner.cfg))
        if threading.current_thread() is threading.main_thread():  # Python lets no other set handlers
            self._handlers = {number: signal.signal(number, self._receive) for number in _signals()}
        validates = runner._val_loop is not None
        for loader in (runner.train_dataloader, *([runner.val_dataloader] if validates else ())):
            _let_workers_outlast_a_signal(loader)
        if validates and self._validate_first:
            runner.logger.info('The run goes on with the validation that a signal broke off')
            runner.val_loop.run()

    def before_test(self, runner: Runner) -> None:
        # Ctrl-C ends the test, but reaches its workers too, and each would print a traceback.
        _let_workers_outlast_a_signal(runner.test_dataloader)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._end_if_asked(runner, runner.iter + 1)

    def before_val(self, runner: Runner) -> None:
        batches = torch.tensor(len(runner.val_dataloader))
        if self._group is not None:
            torch.distributed.all_reduce(batches, torch.distributed.ReduceOp.MIN, group=self._group)
        self._last_to_ask = int(batches)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # Of several ranks now and then: to ask is to wait for the slowest.
        if batch_idx < self._last_to_ask and (self._group is None or batch_idx % 10 == 0):
            self._in_validation = True
            self._end_if_asked(runner, runner.iter)
            self._in_validation = False

    def _end_if_asked(self, runner: Runner, iteration: int) -> None:
        name = self._agreed()
        if name is None:
            return
        runner.logger.warning(f'{name}: the run is saved and ends')
        if self._in_validation:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # the averaged weights back to where it saves them from
        saving = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        is_saved = saving is not None and saving.save_interrupted(runner, iteration)
        runner.visualizer.close()
        if self._group is not None:  # the first to exit makes a launcher end the others, and rank 0 may be saving
            torch.distributed.barrier(self._group)
        self.restore()
        raise Interrupted(f'{name} ended the run after iteration {iteration} of {runner.max_iters}; '
                          f'{"it is saved: " if is_saved else "it is not saved, but "}--resume goes on from '
                          f'{saving.last_ckpt if is_saved else "the last checkpoint"}')

    def after_train(self, runner: Runner) -> None:
        self.restore()

    def restore(self) -> None:
        """Let signals do what they did before the training, and let go of the group of ranks."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers, self._group = {}, None

    def _receive(self, number: int, frame) -> None:
        # Only a note: the interpreter may be anywhere, in the midst of a step or of writing a file.
        if self._received is None:
            self._received, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > ECHO:
            raise KeyboardInterrupt

    def _agreed(self) -> Optional[str]:
        """The name of the signal that any rank has received."""
        received = self._received or 0
        if self._group is not None:
            shared = torch.tensor(received)
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, group=self._group)
            received = int(shared)
        return signal.Signals(received).name if received else None


def read_timeout(config: Config) -> Optional[datetime.timedelta]:
    """Read from a config how long a rank waits for the others. None means PyTorch's default."""
    seconds = ((config.get('env_cfg') or {}).get('dist_cfg') or {}).get('timeout')
    return None if seconds is None else datetime.timedelta(seconds=seconds)


def _signals() -> List[int]:
    """The signals that ask a run to end. A lost terminal sends SIGHUP, which a run under nohup goes on ignoring."""
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if is_ignored else [signal.SIGHUP])]


def _let_workers_outlast_a_signal(loader: DataLoader) -> None:
    loader.worker_init_fn = functools.partial(_outlast_a_signal, loader.worker_init_fn)


def _outlast_a_signal(initialize: Optional[Callable[[int], None]], worker: int) -> None:
    """Set up a process that loads data: a signal to all processes of a job must not take the data from the iteration.

    A SIGTERM from the process that trains is how PyTorch and Python end a worker, and still does.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # which alone knows who sent it; not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        trainer = multiprocessing.parent_process().pid  # not getppid(): with forkserver that is the server
        threading.Thread(target=_end_when_told_by, args=(trainer, ), daemon=True).start()
    if initialize is not None:
        initialize(worker)


def _end_when_told_by(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
