"""Inject faults into a run, with a hook in a config that a test writes (:func:`config_with`)."""
import os
import signal
import time
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tool_runs import SHAPES


@HOOKS.register_module()
class FaultHook(Hook):
    """Cause a fault once, in an iteration (1, 2, ...) of a rank, unless torchrun has restarted the process.

    Args:
        fault: ``'die'`` (SIGKILL), ``'hang'``, or the name of a signal to send.
        file: Where to write the time of the fault, seconds.
        parent: Whether to send the signal to the parent process instead.
        validation: Whether the fault comes in the validation after the iteration.
    """
    priority = 'VERY_HIGH'

    def __init__(self, iteration, fault='die', rank=0, file=None, parent=False, validation=False):
        self.iteration, self.fault, self.rank, self.file = iteration, fault, rank, file
        self.parent, self.validation = parent, validation

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not self.validation and runner.iter + 1 == self.iteration:
            self._cause(runner)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.validation and runner.iter == self.iteration:
            self._cause(runner)

    def _cause(self, runner):
        if int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0 or runner.rank != self.rank:
            return
        if self.file:
            with open(self.file, 'w') as file:
                file.write(str(time.time()))
        if self.fault == 'hang':
            time.sleep(3600)
        number = signal.SIGKILL if self.fault == 'die' else getattr(signal, self.fault)
        os.kill(os.getppid() if self.parent else os.getpid(), number)


def config_with(folder: Path, **fault) -> str:
    """Write a config of the shapes that has this hook, under the same file name."""
    file = folder / Path(SHAPES).name
    file.write_text(f"_base_ = {SHAPES!r}\ncustom_imports = dict(imports=['gfl_plugin', 'faults'])\n"
                    f"default_hooks = dict(fault=dict(type='FaultHook', **{fault!r}))\n")
    return str(file)
