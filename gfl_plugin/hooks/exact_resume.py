"""Make a resumed run continue exactly where it stopped."""
import itertools
import random
from typing import Iterator, List, Optional, Tuple

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..registry import HOOKS


@HOOKS.register_module()
class ResumeHook(Hook):
    """Give a resumed run the data order, the place in the epoch and the random numbers of an uninterrupted run.

    MMEngine resumes weights, optimizer, schedule, averaged weights and message hub. This hook adds three things:

    - The sampler keeps its seed, even if the config names none, so the data of each epoch come in the same order.
    - A run that was saved within an epoch continues with the remaining batches, without loading the earlier ones. If
      the number of batches per epoch has changed, it skips the same share of them.
    - Random numbers depend only on (seed, iteration, rank).

    So with ``num_workers=0`` a resumed run has the same losses as an uninterrupted one, wherever it was stopped. With
    workers, each batch has the same images, but workers have their own random numbers, which start again as in the
    first epoch, so the random augmentation differs.
    """
    priority = 'LOWEST'  # so that random numbers are set after all other hooks have run

    def __init__(self) -> None:
        self._batches_done = 0  # in this epoch
        self._to_skip = (0, 1)  # batches done in the epoch of the checkpoint, and the length of that epoch

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta = checkpoint['meta']
        sampler = _sampler(runner)
        if sampler is not None:
            meta['sampler_seed'] = sampler.seed
        if meta['epoch'] == runner.epoch:  # otherwise the epoch is complete
            meta['batches_of_epoch'] = [self._batches_done, _epoch_length(runner)]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        meta = checkpoint['meta']
        sampler = _sampler(runner)
        if sampler is not None:
            sampler.seed = meta.get('sampler_seed', meta.get('seed', sampler.seed))
        self._to_skip = tuple(meta.get('batches_of_epoch', (0, 1)))

    def before_train(self, runner: Runner) -> None:
        done, total = self._to_skip
        if not done or not isinstance(runner.train_loop, EpochBasedTrainLoop):  # IterBasedTrainLoop skips by itself
            return
        loader = runner.train_dataloader
        self._batches_done = done if total == len(loader) else done * len(loader) // total
        # DataLoader forbids a new sampler, because workers may be running. Here no worker has started yet.
        object.__setattr__(loader, 'batch_sampler', _Remaining(loader.batch_sampler, self._batches_done))
        runner.logger.info(f'Epoch {runner.epoch + 1} continues after {self._batches_done} of its batches')

    def before_train_epoch(self, runner: Runner) -> None:
        _seed(runner, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._batches_done += 1

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        _seed(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        self._batches_done = 0
        batches = runner.train_dataloader.batch_sampler
        if isinstance(batches, _Remaining):
            batches.skip = 0  # it cannot be removed: persistent workers hold a reference


class _Remaining:
    """A batch sampler without its first ``skip`` batches; everything else is passed on to the sampler."""

    def __init__(self, batches, skip: int) -> None:
        self.batches, self.skip = batches, skip

    def __getattr__(self, name: str):
        return getattr(self.batches, name)

    def __iter__(self) -> Iterator[List[int]]:
        return itertools.islice(self.batches, self.skip, None)

    def __len__(self) -> int:
        return max(len(self.batches) - self.skip, 0)


def _epoch_length(runner: Runner) -> int:
    batches = runner.train_dataloader.batch_sampler
    return len(batches.batches if isinstance(batches, _Remaining) else batches)


def _sampler(runner: Runner) -> Optional[torch.utils.data.Sampler]:
    """Find the sampler that orders the training data by a seed."""
    loader = runner.train_dataloader
    for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
        if hasattr(sampler, 'seed'):
            return sampler
    return None


def _seed(runner: Runner, iteration: int) -> None:
    """Seed Python, NumPy and PyTorch, differently for each rank and iteration."""
    key: Tuple[int, ...] = (abs(runner.seed), iteration, runner.rank)
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # seeds every device
