"""End a run soon after its loss stops being finite, and report what is known about the loss."""
import math
import os
from typing import Dict, List, Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..errors import RunError
from ..registry import HOOKS


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stop a run when its loss has not been finite for some iterations in a row, and count the steps that AMP skips.

    When a gradient overflows, mixed precision skips the step and lowers its scale. Training recovers from that, so this
    hook only counts these steps, in the log and in ``skipped_steps`` of the message hub. :class:`CheckpointHook` saves
    only finite values.

    Args:
        patience: The run ends after this many iterations in a row without a finite loss.

    Raises:
        RunError: The loss was not finite ``patience`` times in a row. The message describes the first of these
            iterations: images, losses, learning rate and, if ``clip_grad`` measures it, gradient norm.
    """

    def __init__(self, patience: int = 10) -> None:
        if patience < 1:
            raise ValueError(f'patience must be at least 1, not {patience}')
        self.patience = patience
        self._reports: List[str] = []  # one for each iteration since the loss was last finite
        self._scale: Optional[float] = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._count_skipped(runner)
        losses = {name: value.detach().item() for name, value in (outputs or {}).items() if 'loss' in name}
        if all(map(math.isfinite, losses.values())):
            self._reports.clear()
            return
        self._reports.append(_report(runner, data_batch, losses))
        if len(self._reports) == 1:
            runner.logger.warning(f'The loss is not finite in {self._reports[0]}')
        if len(self._reports) >= self.patience:
            raise RunError(f'The loss has not been finite for {self.patience} iterations in a row. The first was '
                           f'{self._reports[0]}. Checkpoints hold only finite values. A lower learning rate, a '
                           'longer warm-up, optim_wrapper.clip_grad or a look at these images may help')

    def _count_skipped(self, runner: Runner) -> None:
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        if scaler is None:
            return
        before, self._scale = self._scale, scaler.get_scale()
        if before is not None and self._scale < before:  # the scaler lowers its scale only after a skipped step
            skipped = runner.message_hub.runtime_info.get('skipped_steps', 0) + 1
            runner.message_hub.update_info('skipped_steps', skipped)
            runner.logger.warning(f'The gradient overflowed in iteration {runner.iter + 1}: mixed precision skipped '
                                  f'the step ({skipped} so far in this run) and lowered its scale to {self._scale:g}')


def _report(runner: Runner, data_batch, losses: Dict[str, float]) -> str:
    """Describe an iteration."""
    samples = data_batch.get('data_samples', ()) if isinstance(data_batch, dict) else ()
    images = [os.path.basename(str(sample.metainfo.get('img_path', 'unnamed'))) for sample in samples]
    values = ', '.join(f'{name} {loss:g}' for name, loss in losses.items())
    rates = ', '.join(f'{rates[0]:g}' for name, rates in runner.optim_wrapper.get_lr().items() if 'base_lr' not in name)
    norms = runner.message_hub.log_scalars.get('train/grad_norm')
    norm = f'{norms.current():g}' if norms is not None else 'not measured'
    return (f'iteration {runner.iter + 1} ({values}; images {", ".join(images) or "unknown"}; learning rate {rates}; '
            f'gradient norm {norm})')
