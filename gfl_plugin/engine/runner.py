"""MMEngine's Runner, which reports a user's mistake as one."""
import contextlib
import copy
import errno
import logging
from typing import Iterator

from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMEngineRunner

from .. import files
from ..building import building
from ..datasets.folder import forget_data
from ..errors import SetupError
from .recipe import fit_schedule

# How records begin that go to the log file only: tables of the environment, the config, the hooks and the scores, a
# line for each parameter with settings of its own, and what MMEngine tells its own developers.
TABLES = ('\n', 'Config:\n', 'Hooks will be executed', 'paramwise_options', 'Evaluating ', 'bbox_mAP_copypaste',
          'Distributed training is not used')
FROZEN = 'is skipped since its requires_grad=False'  # how the optimizer's warning of a frozen parameter ends
# What to do without a network.
FROM_SCRATCH, ELSEWHERE = '--weights none trains from scratch', 'download the file elsewhere and name it'
DEPRECATIONS = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')


class Runner(MMEngineRunner):
    """MMEngine's Runner. What it cannot build from a config, or load before a training, raises a SetupError."""

    @classmethod
    def from_cfg(cls, cfg) -> 'Runner':
        with building('a model', cfg):
            return super().from_cfg(cfg)

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(is_for_screen)
        return logger

    def log_to_file(self, text: str) -> None:
        """Put into the log file what has been printed before there was one."""
        if text:
            self.logger.info(text, extra=dict(is_printed=True))

    def build_train_loop(self, loop) -> BaseLoop:
        with building('a training loop', self.cfg):
            return super().build_train_loop(loop)

    def build_val_loop(self, loop) -> BaseLoop:
        with building('a validation loop', self.cfg):
            result = super().build_val_loop(loop)
        forget_data()  # all data sets and metrics of the training are built
        return result

    def build_test_loop(self, loop) -> BaseLoop:
        with building('a test loop', self.cfg):
            result = super().build_test_loop(loop)
        forget_data()
        return result

    def build_optim_wrapper(self, optim_wrapper):
        with building('an optimizer', self.cfg):
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler):
        if self.cfg.get('fit_schedule') and isinstance(self._train_loop, BaseLoop):
            scheduler = copy.deepcopy(scheduler)
            done = fit_schedule(scheduler, self.max_iters, len(self.train_dataloader))
            if done:
                self.logger.info(done)
        with building('a schedule', self.cfg):
            return super().build_param_scheduler(scheduler)

    def build_evaluator(self, evaluator) -> Evaluator:
        try:
            return super().build_evaluator(evaluator)
        except (FileNotFoundError, SetupError) as error:
            missing = error.__cause__ if isinstance(error, SetupError) else error
            if not isinstance(missing, FileNotFoundError):
                raise
            raise SetupError(f'The evaluator reads {missing.filename or missing}, which does not exist. Let ann_file '
                             'of val_evaluator and test_evaluator name the annotations of the data set that is '
                             'evaluated, or pass its folder as --data-root') from error

    def _init_model_weights(self) -> None:
        with downloading('The pretrained weights', f'{FROM_SCRATCH}; without a network, {ELSEWHERE} in '
                         'the config (model.backbone.init_cfg.checkpoint)'):
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        if '://' not in (self._load_from or ''):
            super().load_or_resume()
            return
        is_training = isinstance(self._train_loop, BaseLoop)  # a test has built none
        starts = is_training and not self._resume
        advice = (f'{FROM_SCRATCH}; without a network, {ELSEWHERE} by --weights' if starts else
                  f'Without a network, {ELSEWHERE} instead')
        with downloading(self._load_from, advice):
            super().load_or_resume()


@contextlib.contextmanager
def downloading(what: str, advice: str) -> Iterator[None]:
    """Raise a SetupError in place of the error of a failed download.

    Args:
        what: What is downloaded.
        advice: What the user can do.
    """
    try:
        yield
    except OSError as error:
        is_of_the_disk = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) or files.is_out_of_space(error)
        if isinstance(error, SetupError) or is_of_the_disk:
            raise
        raise SetupError(f'{what} cannot be downloaded ({getattr(error, "reason", error)}). {advice}') from error


def is_for_screen(record: logging.LogRecord) -> bool:
    """Whether a record goes to the screen as well as to the log file."""
    text = record.getMessage()
    is_table = record.levelno <= logging.INFO and text.startswith(TABLES)
    is_noise = text.startswith(DEPRECATIONS) or text.endswith(FROZEN)
    return not (is_table or is_noise or getattr(record, 'is_printed', False))
