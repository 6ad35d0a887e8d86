"""A run that was stopped and resumed has the losses of an uninterrupted run."""
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import time
from unittest import mock

import pytest
import torch
from mmdet.models.detectors import SingleStageDetector
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tool_runs import log, on_shapes, run, scalars

from gfl_plugin import engine
from gfl_plugin.errors import Interrupted
from gfl_plugin.hooks import InterruptHook
from gfl_plugin.safe_loading import load_file

# The log holds the loss of each iteration, not means, and the schedule changes at every step.
EXACT = ['log_processor.window_size=1', 'train_cfg.max_epochs=3', 'train_cfg.val_begin=99', 'param_scheduler.0.end=6']


@HOOKS.register_module()
class AtIteration(Hook):
    """Call a function during an iteration (1, 2, ...), or during the validation that follows it."""

    def __init__(self, iteration, act, validation=False):
        self.iteration, self.act, self.validation = iteration, act, validation

    def before_train_iter(self, runner, **kwargs):
        if runner.iter + 1 == self.iteration and not self.validation:
            self.act()

    def before_val_iter(self, runner, **kwargs):
        if runner.iter == self.iteration and self.validation:
            self.act()


class Killed(BaseException):
    """Stands for a SIGKILL."""


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def at(iteration, act, validation=False):
    """Give every run within the block a hook that calls ``act`` at an iteration."""
    from_cfg = engine.run.Runner.from_cfg

    def with_hook(config):
        runner = from_cfg(config)
        runner.register_hook(AtIteration(iteration, act, validation))
        return runner
    with mock.patch.object(engine.run.Runner, 'from_cfg', with_hook):
        yield


def losses(folder):
    return {step: [line[name] for name in ('loss_cls', 'loss_bbox', 'loss_dfl', 'grad_norm', 'lr')]
            for step, line in scalars(folder).items()}


def evaluated(folder):
    """The epochs that have metrics in the log."""
    return [line['step'] for file in sorted(folder.glob('*/vis_data/scalars.json'))
            for line in map(json.loads, file.read_text().splitlines()) if 'coco/bbox_mAP' in line]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A folder with the data and an uninterrupted run."""
    folder = tmp_path_factory.mktemp('whole')
    engine.train(on_shapes('train', folder / 'data', '--work-dir', str(folder / 'run'), settings=EXACT))
    return folder


@pytest.mark.parametrize('iteration', [5, 7, 9])
def test_a_killed_and_resumed_run_has_the_losses_of_an_uninterrupted_one(whole, iteration, tmp_path):
    """The kill comes at the start of an epoch or within it; the run goes back to the end of the previous epoch."""
    arguments = 'train', whole / 'data', '--work-dir', str(tmp_path / 'run')
    with at(iteration, kill), contextlib.suppress(Killed):
        engine.train(on_shapes(*arguments, settings=EXACT))
    assert max(losses(tmp_path / 'run')) == iteration - 1
    torch.manual_seed(iteration)  # the random state of the process should not matter
    engine.train(on_shapes(*arguments, '--resume', settings=EXACT))
    assert losses(tmp_path / 'run') == losses(whole / 'run'), 'losses should be equal to the last bit'


@pytest.mark.parametrize('iteration', [1, 4, 5, 7, 12])
def test_a_signal_saves_within_the_epoch_and_the_run_resumes_there(whole, iteration, tmp_path):
    run = tmp_path / 'run'
    arguments = 'train', whole / 'data', '--work-dir', str(run)
    with at(iteration, terminate), pytest.raises(Interrupted, match=f'SIGTERM.*iteration {iteration} of 12'):
        engine.train(on_shapes(*arguments, settings=EXACT))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, 'the signal handlers should be restored'
    assert (run / 'last_checkpoint').read_text().endswith('interrupted.pth')
    assert load_file(run / 'interrupted.pth')['meta']['iter'] == iteration
    torch.manual_seed(iteration)
    runner = engine.train(on_shapes(*arguments, '--resume', settings=EXACT))
    assert losses(run) == losses(whole / 'run'), 'losses should be equal to the last bit'
    assert (runner.epoch, runner.iter) == (3, 12) and not (run / 'interrupted.pth').exists()
    assert (run / 'last_checkpoint').read_text().endswith('epoch_3.pth')


@pytest.mark.parametrize('iteration', [4, 12])
def test_a_signal_stops_a_validation_and_the_resumed_run_repeats_it(whole, iteration, tmp_path):
    """Averaged weights replace the model's weights meanwhile. The last validation is tested too."""
    run, settings = tmp_path / 'run', [*EXACT, 'train_cfg.val_begin=1', 'val_dataloader.batch_size=2']
    arguments = 'train', whole / 'data', '--work-dir', str(run)
    with at(iteration, terminate, validation=True), pytest.raises(Interrupted, match=f'after iteration {iteration} of'):
        engine.train(on_shapes(*arguments, settings=settings))
    saved, regular = (load_file(run / name)
                      for name in ('interrupted.pth', f'epoch_{iteration // 4}.pth'))
    for part in ('state_dict', 'ema_state_dict'):
        assert all(saved[part][key].equal(value) for key, value in regular[part].items()), \
            'the saved weights should be those of the end of the epoch'
    assert evaluated(run) == list(range(1, iteration // 4)), 'the validation should be stopped'
    engine.train(on_shapes(*arguments, '--resume', settings=settings))
    assert evaluated(run) == [1, 2, 3] and losses(run) == losses(whole / 'run'), 'nothing should change'


def test_a_run_is_interrupted_again_and_again(whole, tmp_path):
    """A signal comes in every second iteration."""
    run, interruptions = tmp_path / 'run', 0
    arguments = 'train', whole / 'data', '--work-dir', str(run), '--resume'
    for iteration in range(2, 14, 2):
        with at(iteration, terminate), contextlib.suppress(Interrupted):
            engine.train(on_shapes(*arguments, settings=EXACT))
            break
        interruptions += 1
    engine.train(on_shapes(*arguments, settings=EXACT))
    assert interruptions == 6 and losses(run) == losses(whole / 'run')


def test_without_a_seed_the_order_of_the_data_goes_on(whole, tmp_path):
    """The run picked its own seed. Its data keep their order, though the resumed process picks another seed."""
    settings, batches, loss = [*EXACT, 'randomness.seed=None'], [], SingleStageDetector.loss

    def noting(self, inputs, samples):
        batches.append([os.path.basename(sample.img_path) for sample in samples])
        return loss(self, inputs, samples)

    arguments = 'train', whole / 'data', '--work-dir'
    with mock.patch.object(SingleStageDetector, 'loss', noting):
        engine.train(on_shapes(*arguments, str(tmp_path / 'first'), settings=settings))
        engine.train(on_shapes(*arguments, str(tmp_path / 'second'), '--resume',
                               str(tmp_path / 'first' / 'epoch_2.pth'), settings=settings))
    assert len(batches) == 16 and batches[12:] == batches[8:12], 'the resumed epoch should have the same batches'
    assert losses(tmp_path / 'second') == {step: line for step, line in losses(tmp_path / 'first').items() if step > 8}


def test_another_batch_size_resumes_in_proportion(whole, tmp_path):
    run = tmp_path / 'run'
    arguments = 'train', whole / 'data', '--work-dir', str(run)
    with at(6, terminate), pytest.raises(Interrupted):
        engine.train(on_shapes(*arguments, settings=EXACT))
    runner = engine.train(on_shapes(*arguments, '--resume', settings=[*EXACT, 'train_dataloader.batch_size=2']))
    assert 'Epoch 2 continues after 4 of its batches' in log(run) and runner.epoch == 3
    assert runner.iter == 6 + 4 + 8, 'the run should train the second half of epoch 2, and epoch 3'


def test_workers(whole, tmp_path):
    """Every process of a run gets the signal. Epochs after the resumed one are complete, though workers persist."""
    run = tmp_path / 'run'
    arguments = 'train', whole / 'data', '--work-dir', str(run)
    settings = [*EXACT, 'train_dataloader.num_workers=1', 'train_dataloader.persistent_workers=True']

    def terminate_all():
        for process in multiprocessing.active_children():  # sent by another process: workers obey this one
            subprocess.run(['kill', '-TERM', str(process.pid)], check=True)
        time.sleep(0.2)  # if the worker dies, it dies now
        assert all(process.is_alive() for process in multiprocessing.active_children()), 'workers should survive it'
        terminate()

    with at(6, terminate_all), pytest.raises(Interrupted):
        engine.train(on_shapes(*arguments, settings=settings))
    runner = engine.train(on_shapes(*arguments, '--resume', settings=settings))
    assert runner.iter == 12 and sorted(losses(run)) == list(range(1, 13))


def test_workers_end_with_the_process_that_started_them():
    """Python ends them by one SIGTERM, and then waits for them for ever. With forkserver their parent is the server."""
    code = ('import functools\nfrom torch.utils.data import DataLoader\n'
            'from gfl_plugin.hooks.interrupt import _outlast_a_signal\n'
            "if __name__ == '__main__':\n"
            '    batches = [iter(DataLoader(range(8), num_workers=1, persistent_workers=True,\n'
            '                               multiprocessing_context=method,\n'
            '                               worker_init_fn=functools.partial(_outlast_a_signal, None)))\n'
            "               for method in ('fork', 'forkserver')]\n"
            '    print(*map(next, batches))')
    done = run('-c', code, timeout=120)
    assert done.returncode == 0 and done.stdout.count('tensor([0])') == 2, done.stderr[-2000:]


def test_a_second_sigint_stops_at_once(monkeypatch):
    hook = InterruptHook()
    hook._receive(signal.SIGINT, None)
    hook._receive(signal.SIGINT, None)  # a launcher repeats the signal
    monkeypatch.setattr('gfl_plugin.hooks.interrupt.ECHO', -1.0)
    hook._receive(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        hook._receive(signal.SIGINT, None)
