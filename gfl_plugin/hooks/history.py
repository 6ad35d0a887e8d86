"""Limit how much of the logged values a run keeps."""
import math
from typing import List, Optional, Union

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS

Window = Union[int, str, None]


@HOOKS.register_module()
class HistoryHook(Hook):
    """Keep only as much of the history of each logged value as the log needs.

    MMEngine keeps the whole history. In each iteration it copies each array to append a value, and every checkpoint
    holds all arrays: about 160 bytes an iteration, or 14 MB after the 90,000 iterations of the 1x schedule. Worse, each
    array is a little larger than the last, so the freed ones leave holes in memory that no later array fits into.

    The log stays the same: the hook keeps the longest window of ``log_processor``. It keeps everything if a window has
    no end (``window_size`` is ``'global'``, or ``custom_cfg`` gives none).
    """

    def __init__(self) -> None:
        self._length = math.inf

    def before_train(self, runner: Runner) -> None:
        processor = runner.log_processor
        windows: List[Window] = [processor.window_size, *(one.get('window_size') for one in processor.custom_cfg)]
        lengths = [_length(window, runner) for window in windows]
        if runner._val_loop is not None:
            lengths.append(len(runner.val_dataloader))  # MMEngine averages the times over the whole validation
        self._length = max(math.inf if length is None else length for length in lengths)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for history in runner.message_hub.log_scalars.values():
            history.max_length = min(history.max_length, self._length)

    after_val_iter = after_train_iter


def _length(window: Window, runner: Runner) -> Optional[int]:
    """Length of a window in values; None if it has no end."""
    if window == 'epoch':
        return len(runner.train_dataloader)
    return window if isinstance(window, int) else None
