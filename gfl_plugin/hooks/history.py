"""What a run remembers of the values it has logged."""
import math
from typing import List, Optional, Union

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS

Window = Union[int, str, None]


@HOOKS.register_module()
class HistoryHook(Hook):
    """Keep as much of the history of each logged value as the log has a use for, instead of all of it.

    MMEngine appends each value of each iteration to an array, by copying it, and saves all arrays in every checkpoint:
    some 160 bytes an iteration, 14 MB in the 90,000 of the 1x schedule. Worse, arrays that are each a little larger
    than the one before leave holes in memory which none of them fits into.

    What is logged stays the same: the longest window of ``log_processor`` is kept, and everything where one of them has
    no end (``window_size`` is ``'global'``, or not given in ``custom_cfg``).
    """

    def __init__(self) -> None:
        self._length = math.inf

    def before_train(self, runner: Runner) -> None:
        processor = runner.log_processor
        windows: List[Window] = [processor.window_size, *(one.get('window_size') for one in processor.custom_cfg)]
        lengths = [_length(window, runner) for window in windows]
        if runner._val_loop is not None:
            lengths.append(len(runner.val_dataloader))  # the times of a whole validation are averaged
        self._length = max(math.inf if length is None else length for length in lengths)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for history in runner.message_hub.log_scalars.values():
            history.max_length = min(history.max_length, self._length)

    after_val_iter = after_train_iter


def _length(window: Window, runner: Runner) -> Optional[int]:
    """Of a window, in values; None where it has no end."""
    if window == 'epoch':
        return len(runner.train_dataloader)
    return window if isinstance(window, int) else None
