"""Save checkpoints so that a crash during the save never costs the previous one."""
import contextlib
import os
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union
from unittest import mock

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from .. import card, files
from ..errors import RunError, SetupError
from ..registry import HOOKS

INTERRUPTED = 'interrupted.pth'
NOT_IN_BEST = ('ema_state_dict', 'message_hub', 'optimizer', 'param_schedulers')  # what only a resumed run needs


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's CheckpointHook, with its options, for runs that may be killed at any instant.

    Unlike MMEngine's: MMEngine removes the oldest checkpoint and then writes the newest in place. This hook writes a
    temporary file, flushes it to disk, renames it, points ``last_checkpoint`` to it, and only then removes the oldest.
    Best checkpoints are saved the same way. The hook saves nothing while a weight, a buffer (such as BatchNorm's
    statistics), a moving average of these or a state of the optimizer is NaN or infinite, because such a checkpoint
    would replace a good one. Object stores write files atomically, so checkpoints in them are left to MMEngine.

    Every checkpoint gets a card (:mod:`gfl_plugin.card`), with which a detector can be built from the file alone. Best
    checkpoints hold the weights that were evaluated, the averaged ones if there are any, and no state of the run. A
    checkpoint of the step that was validated is written again with the score threshold that the validation found.

    Raises:
        RunError: A checkpoint cannot be written. The earlier checkpoints are unchanged.
        SetupError: The checkpoint to resume from holds weights only.
    """
    _is_best = False  # whether a best checkpoint is being saved
    _thr_of_last: Optional[float] = None  # the score threshold in the newest regular checkpoint
    _has_warned = False

    def before_train(self, runner: Runner) -> None:
        self._ignore_foreign_paths(runner)
        super().before_train(runner)
        if is_main_process() and self._is_local() and files.remove_leftovers(self.out_dir):
            runner.logger.info(f'Removed the files that a killed run had not finished writing to {self.out_dir}')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume and 'message_hub' not in checkpoint:
            raise SetupError(f'{runner._load_from} holds weights only, and no state of a run to resume: name an '
                             'epoch_N.pth, or none')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        # EMAHook, of a higher priority, has put the averaged weights into `state_dict` by now.
        text = self._card_text(runner)
        if text is not None:
            checkpoint[card.KEY] = text
        if self._is_best:
            for key in NOT_IN_BEST:
                checkpoint.pop(key, None)
            checkpoint['meta'] = {key: value for key, value in checkpoint['meta'].items() if card.is_plain(value)}

    def after_val_epoch(self, runner: Runner, metrics: Dict[str, float]) -> None:
        found = [getattr(metric, 'score_thr', None) for metric in runner.val_loop.evaluator.metrics]
        runner.message_hub.update_info('score_thr', next((thr for thr in found if thr is not None), None))
        super().after_val_epoch(runner, metrics)
        step = runner.epoch if self.by_epoch else runner.iter
        if self.last_ckpt is None:  # before the first checkpoint, and in a validation without a training
            return
        is_of_this_step = self.last_ckpt == self._path(self.filename_tmpl.format(step))
        if is_of_this_step and self._thr_of_last != self._score_thr(runner):
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def save_interrupted(self, runner: Runner, iteration: int) -> bool:
        """Save a run outside the regular interval. The next regular checkpoint removes this one.

        Returns:
            Whether the run was saved. It is not saved if one of its values is not finite.
        """
        is_finite = self._is_finite(runner)
        if is_finite:
            self._save(runner, INTERRUPTED, dict(epoch=runner.epoch, iter=iteration))
        return is_finite

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if not self._is_finite(runner):
            return
        outdated = self._keep(runner, step)
        self._save(runner, self.filename_tmpl.format(step), meta)
        if is_main_process():
            for path in (*outdated, self._path(INTERRUPTED)):
                self._remove(path)

    def _keep(self, runner: Runner, step: int) -> List[str]:
        """Note that the checkpoint of a step is to be kept.

        Returns:
            The older checkpoints that exceed ``max_keep_ckpts`` once this one is written.
        """
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            return []
        kept = [*(other for other in self.keep_ckpt_ids if other != step), step]
        self.keep_ckpt_ids.extend(kept)  # a deque that drops the oldest
        # This list includes the outdated ones: if the run is killed before it removes them, the resumed run will.
        runner.message_hub.update_info('keep_ckpt_ids', kept)
        return [self._path(self.filename_tmpl.format(other)) for other in kept[:-self.max_keep_ckpts]]

    def _save(self, runner: Runner, name: str, meta: dict) -> None:
        self.last_ckpt, self._thr_of_last = self._path(name), self._score_thr(runner)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        with self._writing_whole_files(runner), mock.patch.object(self, '_is_best', False):
            runner.save_checkpoint(self.out_dir, name, self.file_client_args, save_optimizer=self.save_optimizer,
                                   save_param_scheduler=self.save_param_scheduler, meta=meta, by_epoch=self.by_epoch,
                                   backend_args=self.backend_args, **self.args)
        if is_main_process():
            files.write_text(os.path.join(runner.work_dir, 'last_checkpoint'), self.last_ckpt)

    def _save_best_checkpoint(self, runner: Runner, metrics: Dict[str, float]) -> None:
        if not self.save_best or not self._is_finite(runner):
            return
        backend = self.file_backend
        self.file_backend = removals = _NotedRemovals(backend)
        try:
            with self._writing_whole_files(runner), mock.patch.object(self, '_is_best', True):
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        for path in removals.paths:  # empty except in the main process
            if path not in self._best(runner).values():
                self._remove(path)

    def _card_text(self, runner: Runner) -> Optional[str]:
        """The card of the run; None, with a warning, if the config cannot be put into one."""
        try:
            classes = (getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}).get('classes') or ()
            return card.describe(runner.cfg, classes, self._score_thr(runner),
                                 card.training_data(runner.cfg)).to_text()
        except SetupError as error:
            if not self._has_warned:
                runner.logger.warning(f'The checkpoints get no card, so a detector will need the config beside them: '
                                      f'{error}')
            self._has_warned = True
            return None

    @staticmethod
    def _score_thr(runner: Runner) -> Optional[float]:
        """The score threshold that the last validation found, before the run was resumed if need be."""
        thr = runner.message_hub.runtime_info.get('score_thr')
        return thr if isinstance(thr, float) and 0 <= thr <= 1 else None  # a stranger's checkpoint may say anything

    @contextlib.contextmanager
    def _writing_whole_files(self, runner: Runner) -> Iterator[None]:
        """Make the runner's own ``save_checkpoint`` write each file completely or not at all."""
        if 'save_checkpoint' in vars(runner) or not self._is_local():
            yield
            return
        save = runner.save_checkpoint

        def save_whole(out_dir: str, filename: str, *args, **kwargs) -> None:
            if not is_main_process():
                return
            with self._explaining(filename), files.replacing(os.path.join(out_dir, filename)) as temporary:
                save(out_dir, os.path.basename(temporary), *args, **kwargs)

        runner.save_checkpoint = save_whole
        try:
            yield
        finally:
            del runner.save_checkpoint

    @contextlib.contextmanager
    def _explaining(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = 'Free some space' if files.is_out_of_space(error) else 'Fix the cause'
            raise RunError(f'The checkpoint {self._path(name)} cannot be written ({error.strerror}). The earlier '
                           f'ones are unchanged. {advice} and continue with --resume') from error

    def _ignore_foreign_paths(self, runner: Runner) -> None:
        """Take from a loaded checkpoint only the names of the files that its run owns, not their folders.

        The run will remove these files in time, and a stranger's checkpoint may name any file of the user. A run that
        was moved to another folder also finds its own files again this way.
        """
        info = runner.message_hub.runtime_info
        out_dir = str(self.out_dir or runner.work_dir)
        if self.out_dir is not None and str(self.out_dir) != runner.work_dir:  # MMEngine appends this name too
            out_dir = os.path.join(out_dir, os.path.basename(runner.work_dir.rstrip(os.sep)))
        if 'keep_ckpt_ids' in info:
            info['keep_ckpt_ids'] = [step for step in info['keep_ckpt_ids'] if isinstance(step, int)]
        for key, path in self._best(runner).items():
            name = os.path.basename(path.rstrip('/')) if isinstance(path, str) else ''
            if name.startswith('best_'):
                info[key] = os.path.join(out_dir, name)
            else:
                info.pop(key)

    @staticmethod
    def _best(runner: Runner) -> Dict[str, str]:
        """List the best checkpoints so far, by their key in the message hub."""
        return {key: path for key, path in runner.message_hub.runtime_info.items() if key.startswith('best_ckpt')}

    def _is_finite(self, runner: Runner) -> bool:
        """Check the values of rank 0 for all ranks: only rank 0 writes, and BatchNorm statistics can differ."""
        # All ranks look: a model that is sharded gathers its state on all of them.
        decision = [next((name for name, value in self._tensors_to_save(runner)
                          if value.is_floating_point() and not torch.isfinite(value).all()), None)]
        broadcast_object_list(decision)
        broken, = decision
        if broken is not None:
            runner.logger.warning(f'No checkpoint is saved at iteration {runner.iter + 1}: {broken} is not finite')
        return broken is None

    def _tensors_to_save(self, runner: Runner) -> Iterator[Tuple[str, torch.Tensor]]:
        """Yield the tensors of the model, its moving averages and the optimizer, with a name for the log."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        states = [('', model.state_dict())]
        averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
        states += [('EMA of ', average.state_dict()) for average in averages]
        if self.save_optimizer:
            states += [('optimizer state ', state) for state in _optimizer_states(runner.optim_wrapper)]
        for owner, state in states:
            yield from ((owner + name, value) for name, value in state.items() if isinstance(value, torch.Tensor))

    def _is_local(self) -> bool:
        return isinstance(getattr(self.file_backend, 'client', self.file_backend), LocalBackend)

    def _path(self, name: str) -> str:
        return self.file_backend.join_path(self.out_dir, name)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed's checkpoints are folders
            self.file_backend.rmtree(path)


def _optimizer_states(wrapper: Union[OptimWrapper, OptimWrapperDict]) -> Iterator[Dict[str, Any]]:
    """Yield the state of each parameter, such as its momentum, from each optimizer."""
    for single in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
        yield from (state for state in single.optimizer.state.values() if isinstance(state, dict))


class _NotedRemovals:
    """A storage backend that notes what to remove, and removes nothing."""

    def __init__(self, backend) -> None:
        self.backend, self.paths = backend, []

    def __getattr__(self, name: str):
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.paths.append(path)

    rmtree = remove
