"""Check that the head fits the data, and the checkpoint fits the model."""
import copy
from typing import Dict, List

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from ..errors import SetupError
from ..registry import HOOKS

State = Dict[str, Tensor]


@HOOKS.register_module()
class CheckSetupHook(Hook):
    """Stop a run whose head, data and checkpoint do not belong together.

    A training may start from weights that fit only in part, such as those of other classes. What does not fit stays
    new, and one line of the log counts it.

    Raises:
        SetupError: The head's num_classes differs from the data set's, the checkpoint does not fit the model, or the
            checkpoint was trained on the same classes in another order.
    """
    priority = 'VERY_HIGH'  # before hooks that load parts of a checkpoint (EMAHook)

    def before_train(self, runner: Runner) -> None:
        self._check_classes(runner, runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        self._check_classes(runner, runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        self._check_classes(runner, runner.test_dataloader.dataset)

    @staticmethod
    def _check_classes(runner: Runner, dataset) -> None:
        classes = dataset.metainfo.get('classes')
        heads = {name: module.num_classes for name, module in runner.model.named_modules()
                 if name.endswith('bbox_head') and hasattr(module, 'num_classes')}
        for name, num_classes in heads.items():
            if classes is not None and num_classes != len(classes):
                raise SetupError(f'The data has {len(classes)} classes and the head {name} has num_classes='
                                 f'{num_classes}. Set model.bbox_head.num_classes={len(classes)} in the config or with '
                                 '--cfg-options')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model = getattr(model, 'module', model)  # test-time augmentation wraps the model
        wanted = model.state_dict()
        given = {_without_wrapper(key): value for key, value in checkpoint.get('state_dict', checkpoint).items()}
        missing = sorted(wanted.keys() - given.keys())
        unexpected = sorted(given.keys() - wanted.keys())
        reshaped = sorted(k for k in wanted.keys() & given.keys() if wanted[k].shape != given[k].shape)
        fitting = len(wanted) - len(missing) - len(reshaped)
        # Weights that a training starts from may lack the head or have other classes, but half of them must fit.
        starts_training = isinstance(runner._train_loop, BaseLoop) and not runner._resume  # in a test: still a dict
        if not starts_training:
            self._check_order(runner, checkpoint)
        elif 2 * fitting >= len(wanted):
            self._keep_new(runner, checkpoint, wanted, missing, reshaped)
            return
        if not (missing or unexpected or reshaped):
            return
        parts = [f'{len(keys)} keys are {what} ({_first(keys)})'
                 for keys, what in ((missing, 'missing'), (unexpected, 'unknown to the model'),
                                    (reshaped, 'of another shape')) if keys]
        raise SetupError(f'The checkpoint {runner._load_from} is of another architecture than the config: {fitting} '
                         f'of the model\'s {len(wanted)} keys fit; {"; ".join(parts)}')

    @staticmethod
    def _check_order(runner: Runner, checkpoint: dict) -> None:
        loop = runner._train_loop if runner._resume else runner._test_loop
        dataset = loop.dataloader.dataset if isinstance(loop, BaseLoop) else None
        trained = ((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes')
        given = getattr(dataset, 'metainfo', {}).get('classes')
        if trained and given and list(trained) != list(given) and sorted(trained) == sorted(given):
            raise SetupError(f'The checkpoint {runner._load_from} was trained on the classes {", ".join(trained)}, and '
                             f'the data have them in another order: {", ".join(given)}. Use the config in the folder '
                             'of that training, which lists its classes')

    @staticmethod
    def _keep_new(runner: Runner, checkpoint: dict, wanted: State, missing: List[str], reshaped: List[str]) -> None:
        """Put the model's own tensors in the place of those of another shape, and log how many tensors stay new."""
        if 'state_dict' not in checkpoint:  # EMAHook needs one
            checkpoint['state_dict'] = copy.copy(checkpoint)
        state = checkpoint['state_dict']
        for key in [key for key in state if _without_wrapper(key) in reshaped]:
            state[key] = wanted[_without_wrapper(key)]
        new = sorted(missing + reshaped)
        if new:
            runner.logger.info(f'{len(new)} of {len(wanted)} tensors stay new: {_first(new)}')


def _without_wrapper(key: str) -> str:
    return key[len('module.'):] if key.startswith('module.') else key


def _first(keys: List[str]) -> str:
    return ', '.join(keys[:3]) + (', ...' if len(keys) > 3 else '')
