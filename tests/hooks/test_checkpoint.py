"""If a save fails at any instant, a whole checkpoint remains, and the run resumes from it."""
import contextlib
import errno
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import EMAHook
from tool_runs import ROOT, SHAPES, SMALL, log, on_shapes

from gfl_plugin import engine, files
from gfl_plugin.card import KEY, read_card
from gfl_plugin.engine.start import damage, newest_whole
from gfl_plugin.errors import RunError, SetupError
from gfl_plugin.evaluation import CocoMetric
from gfl_plugin.evaluation.matching import OperatingPoint
from gfl_plugin.hooks import CheckpointHook
from gfl_plugin.safe_loading import load_file

ONE = ['default_hooks.checkpoint.max_keep_ckpts=1', 'train_cfg.val_begin=99']


class Killed(BaseException):
    """Stands for a SIGKILL at an instant that the test chooses."""


@contextlib.contextmanager
def killed_at(instant: int):
    """Allow ``instant`` changes to the disk and block all later ones, as if the process had been killed."""
    count = itertools.count()

    def allowed(change):
        def changed(*arguments, **kwargs):
            if next(count) >= instant:
                raise Killed
            return change(*arguments, **kwargs)
        return changed

    def put_in_two_steps(backend, content, path):
        with open(path, 'wb') as file:
            file.write(content[:len(content) // 2])
        if next(count) >= instant:
            raise Killed
        with open(path, 'wb') as file:
            file.write(content)

    with mock.patch.object(LocalBackend, 'put', put_in_two_steps), contextlib.ExitStack() as stack:
        for name in ('replace', 'fsync', 'remove'):
            stack.enter_context(mock.patch.object(os, name, allowed(getattr(os, name))))
        yield count


def last(folder):
    return os.path.basename((folder / 'last_checkpoint').read_text())


def checkpoints(folder):
    return sorted(file.name for file in folder.glob('*.pth'))


def test_a_kill_at_any_instant_of_a_save_loses_one_interval_at_most(tmp_path):
    """Resume with max_keep_ckpts=1, and kill each run one disk change later in its first save than the run before."""
    run = tmp_path / 'run'
    arguments = 'train', tmp_path / 'data', '--work-dir', str(run), '--resume'
    done, instant, reached = 0, 0, []
    while True:
        with killed_at(instant) as count, contextlib.suppress(Killed):
            engine.train(on_shapes(*arguments, settings=[*ONE, f'train_cfg.max_epochs={done + 1}']))
        found = newest_whole(str(run)).path
        epoch = load_file(found)['meta']['epoch'] if found else 0
        assert epoch in (done, done + 1), \
            f'after a kill at change {instant}, epoch {done} or the next should be resumable'
        assert checkpoints(run) or not done, 'there should always be a checkpoint'
        reached.append(epoch - done)
        if next(count) <= instant:  # the run ended before the kill
            break
        done, instant = epoch, instant + 1
    assert instant > 6 and 0 < sum(reached) < len(reached), \
        f'there should be kills before and after the new checkpoint: {reached}'
    assert checkpoints(run) == [f'epoch_{epoch}.pth'] and last(run) == f'epoch_{epoch}.pth', \
        'exactly one should be kept'
    assert not list(run.glob('.*.writing')), 'half-written files should be gone'


def test_leftovers_are_removed_when_a_run_starts(tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    (run / '.epoch_7.pth.writing').write_bytes(b'half')
    engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(run), '--resume',
                           settings=['train_cfg.max_epochs=1']))
    assert not (run / '.epoch_7.pth.writing').exists() and 'not finished writing' in log(run)


@pytest.mark.parametrize('spoil', ['truncate', 'flip', 'empty', 'text'])
def test_a_damaged_checkpoint_is_not_resumed_from(spoil, tmp_path):
    run = tmp_path / 'run'
    arguments = 'train', tmp_path / 'data', '--work-dir', str(run)
    engine.train(on_shapes(*arguments))
    path = run / 'epoch_2.pth'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({'truncate': content[:-1000], 'flip': content, 'empty': b'', 'text': b'oops'}[spoil])
    with pytest.raises(SetupError, match=r'epoch_2\.pth is not whole'):
        engine.train(on_shapes(*arguments, '--resume', str(path)))
    runner = engine.train(on_shapes(*arguments, '--resume'))
    assert f'{path} is not whole' in log(run) and f'goes on from {run / "epoch_1.pth"}' in log(run), \
        'the log should say so'
    assert runner.iter == 8 and damage(str(path)) is None, 'the second epoch should have been trained again'
    for file in run.glob('epoch_*.pth'):
        file.write_bytes(b'')
    with pytest.raises(SetupError, match=r'no checkpoint to resume from: .*epoch_2.*epoch_1'):
        engine.train(on_shapes(*arguments, '--resume'))


def test_pytorchs_old_file_format_is_resumed_from(tmp_path):
    run = tmp_path / 'run'
    arguments = 'train', tmp_path / 'data', '--work-dir', str(run)
    engine.train(on_shapes(*arguments, settings=['train_cfg.max_epochs=1']))
    content = load_file(run / 'epoch_1.pth')
    torch.save(content, run / 'epoch_1.pth', _use_new_zipfile_serialization=False)
    assert engine.train(on_shapes(*arguments, '--resume')).iter == 8


def test_a_folder_that_has_moved_is_resumed(tmp_path):
    arguments = 'train', tmp_path / 'data', '--work-dir'
    engine.train(on_shapes(*arguments, str(tmp_path / 'here'), settings=['train_cfg.max_epochs=1']))
    (tmp_path / 'here').rename(tmp_path / 'there')
    runner = engine.train(on_shapes(*arguments, str(tmp_path / 'there'), '--resume'))
    assert runner.iter == 8 and checkpoints(tmp_path / 'there') == ['epoch_1.pth', 'epoch_2.pth']


def test_the_best_checkpoint_stays_until_a_better_one_is_written(tmp_path):
    """Each epoch is better than the one before. The run is killed while it saves its third best."""
    run, scores = tmp_path / 'run', iter([.1, .2, .3, .4])
    arguments = 'train', tmp_path / 'data', '--work-dir', str(run)
    settings = ['default_hooks.checkpoint.save_best=score', 'default_hooks.checkpoint.rule=greater',
                'default_hooks.checkpoint.max_keep_ckpts=1', 'train_cfg.max_epochs=3']
    save = torch.save

    def save_or_die(content, file):
        if content['meta']['epoch'] == 3 and 'optimizer' not in content:
            raise Killed
        save(content, file)

    with mock.patch('mmengine.evaluator.Evaluator.evaluate', lambda self, size: dict(score=next(scores))):
        with mock.patch('torch.save', save_or_die), pytest.raises(Killed):
            engine.train(on_shapes(*arguments, settings=settings))
        assert checkpoints(run) == ['best_score_epoch_2.pth', 'epoch_3.pth'], 'the second best should still be there'
        runner = engine.train(on_shapes(*arguments, '--resume', settings=[*settings, 'train_cfg.max_epochs=4']))
    assert checkpoints(run) == ['best_score_epoch_4.pth', 'epoch_4.pth'], 'the last epoch is the best'
    assert runner.message_hub.get_info('best_score') == .4
    content = load_file(run / 'epoch_4.pth')
    assert content['message_hub']['runtime_info']['best_ckpt'] == str(run / 'best_score_epoch_4.pth')


def test_saving_by_iterations(tmp_path):
    run = tmp_path / 'run'
    settings = [f'default_hooks.checkpoint.{option}' for option in ('by_epoch=False', 'interval=3', 'max_keep_ckpts=2')]
    arguments = 'train', tmp_path / 'data', '--work-dir', str(run)
    engine.train(on_shapes(*arguments, settings=settings))
    assert checkpoints(run) == ['iter_6.pth', 'iter_8.pth'] and last(run) == 'iter_8.pth'
    (run / 'iter_8.pth').unlink()  # resume within the second epoch
    runner = engine.train(on_shapes(*arguments, '--resume', settings=[*settings, 'train_cfg.max_epochs=3']))
    assert runner.epoch == 3 and runner.iter == 12 and last(run) == 'iter_12.pth'


def test_a_checkpoint_cannot_make_a_run_remove_files_elsewhere(tmp_path):
    """A run removes old files that its checkpoint names, and a stranger's checkpoint may name any file."""
    run, victim = tmp_path / 'run', tmp_path / 'victim.pth'
    arguments = 'train', tmp_path / 'data', '--work-dir', str(run)
    settings = [*(f'default_hooks.checkpoint.{option}' for option in ('save_best=auto', 'max_keep_ckpts=1')),
                'train_cfg.max_epochs=1']
    engine.train(on_shapes(*arguments, settings=settings))
    victim.write_text('precious')
    (run / 'epoch_').mkdir()  # the path of step '/../../victim' would lead through this folder
    content = load_file(run / 'epoch_1.pth')
    content['message_hub']['runtime_info'].update(best_score=-1.0, best_ckpt=str(victim),
                                                  keep_ckpt_ids=['/../../victim', '/../../victim', 1])
    torch.save(content, run / 'epoch_1.pth')
    engine.train(on_shapes(*arguments, '--resume', settings=[*settings, 'train_cfg.max_epochs=2']))
    assert victim.read_text() == 'precious'


# ---- the card, and what a best checkpoint holds ----

BEST = ['default_hooks.checkpoint.save_best=coco/bbox_mAP', 'default_hooks.checkpoint.rule=greater']
CARD_KEYS = {'meta', 'state_dict', KEY}


class Evaluations:
    """Stand in for COCO's metric: each evaluation gives the next AP, and the next threshold."""

    def __init__(self, *found):
        self.found = iter(found)

    def __call__(self, metric, results):
        score, thr = next(self.found)
        metric.best_f1 = None if thr is None else OperatingPoint(.5, thr)
        return dict(bbox_mAP=score)


def evaluating(*found):
    evaluations = Evaluations(*found)
    return mock.patch.object(CocoMetric, 'compute_metrics', lambda metric, results: evaluations(metric, results))


def threshold(path):
    return read_card(load_file(path), str(path)).score_thr


@pytest.fixture(scope='module')
def two_epochs(tmp_path_factory):
    """A run whose second epoch is better than the first, then saved as a signal would save it."""
    folder = tmp_path_factory.mktemp('two_epochs')
    with evaluating((.1, .25), (.3, .5)):
        runner = engine.train(on_shapes('train', folder / 'data', '--work-dir', str(folder / 'run'), settings=BEST))
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    hook.save_interrupted(runner, runner.iter)
    return runner


def test_every_checkpoint_has_a_card_with_the_threshold_of_its_validation(two_epochs):
    run = Path(two_epochs.work_dir)
    assert {name: threshold(run / name) for name in checkpoints(run)} == {
        'best_coco_bbox_mAP_epoch_2.pth': .5, 'epoch_1.pth': .25, 'epoch_2.pth': .5, 'interrupted.pth': .5}
    card = read_card(load_file(run / 'epoch_2.pth'), 'epoch_2.pth')
    assert card.classes == list(two_epochs.train_dataloader.dataset.metainfo['classes'])
    assert card.model['bbox_head']['num_classes'] == 6 and card.pipeline[0]['type'] == 'Resize'
    assert card.trained_on['data'] == str(run.parent / 'data') and card.trained_on['split'] == 'train'


def test_the_best_checkpoint_holds_averaged_weights_and_no_more(two_epochs):
    run = Path(two_epochs.work_dir)
    best, last = load_file(run / 'best_coco_bbox_mAP_epoch_2.pth'), load_file(run / 'epoch_2.pth')
    average = next(hook for hook in two_epochs.hooks if isinstance(hook, EMAHook)).ema_model.module.state_dict()
    raw = two_epochs.model.state_dict()
    assert best.keys() == CARD_KEYS and last.keys() > CARD_KEYS | {'optimizer', 'ema_state_dict', 'message_hub'}
    for name, value in average.items():
        assert torch.equal(best['state_dict'][name], value) and torch.equal(last['state_dict'][name], value), name
        assert torch.equal(last['ema_state_dict'][f'module.{name}'], raw[name]), name
    assert any(not torch.equal(raw[name], average[name]) for name in raw), 'there should be a difference to find'


def test_a_resumed_run_keeps_the_threshold_and_does_not_resume_the_best(two_epochs, tmp_path):
    run, data = Path(two_epochs.work_dir), Path(two_epochs.work_dir).parent / 'data'
    best = shutil.copy(run / 'best_coco_bbox_mAP_epoch_2.pth', tmp_path / 'renamed.pth')
    for path in (run / 'best_coco_bbox_mAP_epoch_2.pth', best):
        with pytest.raises(SetupError, match=rf'{os.path.basename(path)} holds weights only.*epoch_N\.pth'):
            engine.train(on_shapes('train', data, '--resume', str(path), '--work-dir', str(tmp_path / 'no')))
    engine.train(on_shapes('train', data, '--resume', str(run / 'epoch_2.pth'), '--work-dir', str(tmp_path / 'run'),
                           settings=[*BEST, 'train_cfg.max_epochs=3', 'train_cfg.val_begin=9']))
    assert threshold(tmp_path / 'run/epoch_3.pth') == .5


def test_without_save_best_the_last_checkpoint_gets_the_threshold_of_its_validation(tmp_path):
    with evaluating((.1, .25), (.2, None)):
        engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(tmp_path / 'run')))
    assert threshold(tmp_path / 'run/epoch_1.pth') == .25
    assert threshold(tmp_path / 'run/epoch_2.pth') is None, 'no detection was right'


def test_a_config_that_is_more_than_data_gives_no_card_and_one_warning(tmp_path):
    run = tmp_path / 'run'
    options = on_shapes('train', tmp_path / 'data', '--work-dir', str(run))
    options.config = str(tmp_path / 'mine.py')
    (tmp_path / 'mine.py').write_text(
        f'_base_ = {SHAPES!r}\n'
        "test_dataloader = dict(dataset=dict(pipeline=[dict(type='Pad', size=float('inf'))]))\n")
    engine.train(options)
    assert KEY not in load_file(run / 'epoch_2.pth') and log(run).count('get no card') == 1


# ---- a full disk ----

def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    run = tmp_path / 'run'
    arguments = 'train', tmp_path / 'data', '--work-dir', str(run)
    put = LocalBackend.put

    def put_once(backend, content, path):
        if 'epoch_2' in path:
            put(backend, content[:1000], path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        put(backend, content, path)

    with mock.patch.object(LocalBackend, 'put', put_once), pytest.raises(RunError, match='epoch_2.pth.*--resume'):
        engine.train(on_shapes(*arguments, settings=ONE))
    assert checkpoints(run) == ['epoch_1.pth'] and damage(str(run / 'epoch_1.pth')) is None
    assert not list(run.glob('.*.writing')), 'the half-written file should not use up the remaining space'
    assert engine.train(on_shapes(*arguments, '--resume', settings=ONE)).iter == 8


@pytest.mark.skipif(sys.platform == 'win32', reason='limits the size of files')
def test_a_limit_on_files_is_one_paragraph(tmp_path):
    """The run has its own process, which may write logs but no file as large as a checkpoint."""
    run = tmp_path / 'run'
    command = ['bash', '-c', 'ulimit -f 100; exec "$@"', '-', sys.executable, 'tools/train.py', SHAPES, '--work-dir',
               str(run), '--data-root', str(tmp_path / 'data'), '--cfg-options', *SMALL, 'train_cfg.max_epochs=1']
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
                          capture_output=True, text=True)
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr[-2000:]
    assert 'epoch_1.pth cannot be written (File too large)' in done.stderr.strip().splitlines()[-1], done.stderr[-2000:]
    assert not checkpoints(run), 'no half checkpoint should be left'


# ---- values that are not finite ----

DIVERGES = ['optim_wrapper.clip_grad=None', 'model.bbox_head.loss_bbox.loss_weight=1e39',
            'default_hooks.loss_guard.patience=100']


def test_weights_that_are_not_finite_do_not_replace_good_ones(tmp_path):
    """A run diverges in a folder that keeps one checkpoint, which is good."""
    run = tmp_path / 'run'
    arguments = 'train', tmp_path / 'data', '--work-dir', str(run)
    engine.train(on_shapes(*arguments, settings=[*ONE, 'train_cfg.max_epochs=1']))
    good = (run / 'epoch_1.pth').read_bytes()
    runner = engine.train(on_shapes(*arguments, '--resume', settings=[*ONE, *DIVERGES]))
    assert any(not parameter.isfinite().all() for parameter in runner.model.parameters()), 'the run should diverge'
    assert runner.iter == 8, 'the run should reach the end of its second epoch, where it would save'
    assert checkpoints(run) == ['epoch_1.pth'] and (run / 'epoch_1.pth').read_bytes() == good
    assert last(run) == 'epoch_1.pth' and 'is not finite' in log(run)


def spoiled_values(runner):
    """One value of each kind that a checkpoint holds, by its name in the log."""
    ema = next(hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook))
    weight = runner.model.backbone.conv1.weight
    return {'conv1.weight': weight.data, 'bn1.running_var': runner.model.backbone.bn1.running_var,
            'EMA.*conv1.weight': ema.backbone.conv1.weight.data, 'EMA.*bn1.running_mean': ema.backbone.bn1.running_mean,
            'exp_avg_sq': runner.optim_wrapper.optimizer.state[weight]['exp_avg_sq']}


def test_nothing_that_is_not_finite_is_saved(tmp_path):
    """One such value stops every save: the regular checkpoint, the best one, and the one after a signal."""
    run = tmp_path / 'run'
    settings = [*ONE, 'train_cfg.max_epochs=1', 'default_hooks.checkpoint.save_best=score',
                'default_hooks.checkpoint.rule=greater']
    runner = engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(run), settings=settings))
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    for number, (name, value) in enumerate(spoiled_values(runner).items()):
        good = value.view(-1)[0].item()
        value.view(-1)[0] = (float('nan'), float('inf'))[number % 2]
        with mock.patch.object(runner.logger, 'warning') as warning:
            hook.after_train_epoch(runner)
            hook.after_val_epoch(runner, dict(score=float(number)))
            assert not hook.save_interrupted(runner, 5)
        assert re.search(f'{name}.*not finite', warning.call_args[0][0]), 'the log should name the value'
        assert checkpoints(run) == ['epoch_1.pth'] and last(run) == 'epoch_1.pth', f'{name} should not be saved'
        value.view(-1)[0] = good
    spoiled_values(runner)['exp_avg_sq'].fill_(float('inf'))
    hook.save_optimizer = False
    hook.after_train_epoch(runner)
    assert checkpoints(run) == ['epoch_2.pth'], 'the state of the optimizer should matter only if it is saved'


@pytest.mark.parametrize('own, broken_on_rank_0', [('nan', None), ('1', 'weight')])
def test_rank_0_decides_for_all_ranks(own, broken_on_rank_0, monkeypatch):
    """Only rank 0 writes. If others decided by their own values, they would report another end than the file has."""
    def broadcast(decision):
        decision[0] = broken_on_rank_0

    hook, model = CheckpointHook(interval=1, save_optimizer=False), torch.nn.Linear(1, 1)
    model.weight.data.fill_(float(own))
    monkeypatch.setattr('gfl_plugin.hooks.checkpoint.is_main_process', lambda: False)
    monkeypatch.setattr('gfl_plugin.hooks.checkpoint.broadcast_object_list', broadcast, raising=False)
    runner = SimpleNamespace(model=model, hooks=[], iter=0, logger=mock.Mock())
    assert hook._is_finite(runner) == (broken_on_rank_0 is None)


# ---- files ----

def test_replacing_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / 'file'
    files.write_text(str(path), 'old')
    with pytest.raises(ZeroDivisionError), files.replacing(str(path)) as temporary:
        with open(temporary, 'w') as file:
            file.write('ne')
        raise ZeroDivisionError
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]
