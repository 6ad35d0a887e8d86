"""What makes a resumed run the run that it was."""
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
    """Give a resumed run the order of data, the place in the epoch and the random numbers that it would have had.

    MMEngine resumes weights, optimizer, schedule, averaged weights and message hub. Unlike there

    - the sampler goes on with its seed, also if the config names none: the data of each epoch come in the order in
      which they would have come;
    - a run that was saved within an epoch goes on with the batches that were left, without loading the others (where
      the number of batches an epoch is another now, in proportion);
    - random numbers are a function of (seed, iteration, rank) and of nothing else.

    So with ``num_workers=0`` a resumed run has the losses of one that never ended, from wherever it goes on. With
    workers, which are processes with random numbers of their own, the order of the data, and so the images of each
    batch, is the same; their random augmentation starts again as in the first epoch, and differs.
    """
    priority = 'LOWEST'  # random numbers are set when all other hooks are through

    def __init__(self) -> None:
        self._batches_done = 0  # of the epoch
        self._to_skip = (0, 1)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta = checkpoint['meta']
        sampler = _sampler(runner)
        if sampler is not None:
            meta['sampler_seed'] = sampler.seed
        if meta['epoch'] == runner.epoch:  # else the epoch is over
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
        if not done or not isinstance(runner.train_loop, EpochBasedTrainLoop):  # MMEngine's other loop skips itself
            return
        loader = runner.train_dataloader
        self._batches_done = done if total == len(loader) else done * len(loader) // total
        # DataLoader refuses another sampler, for its workers might be at work already; these have not been started.
        object.__setattr__(loader, 'batch_sampler', _Remaining(loader.batch_sampler, self._batches_done))
        runner.logger.info(f'Epoch {runner.epoch + 1} goes on after {self._batches_done} of its batches')

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
            batches.skip = 0  # it stays, since workers that persist hold on to it


class _Remaining:
    """The batches of a sampler after the first ``skip``; everything else is the sampler's."""

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
    """What orders the training data by a seed."""
    loader = runner.train_dataloader
    for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
        if hasattr(sampler, 'seed'):
            return sampler
    return None


def _seed(runner: Runner, iteration: int) -> None:
    """Set Python's, NumPy's and PyTorch's random numbers, which ranks have each their own of."""
    key: Tuple[int, ...] = (abs(runner.seed), iteration, runner.rank)
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # of all devices
