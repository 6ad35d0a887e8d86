"""Several ranks, one of which dies: the others end, torchrun starts all again, and the run goes on by itself."""
import os
import signal
import time

import pytest
import torch
from faults import config_with
from tool_runs import log, on_ranks, scalars

from gfl_plugin.engine import run_folders
from gfl_plugin.safe_loading import load_file

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo')
SETTINGS = ['train_dataloader.batch_size=2', 'train_cfg.val_begin=99']


def test_a_rank_that_dies_is_started_again_and_the_run_goes_on(tmp_path):
    """In the folder that this run chose by itself, beside an earlier one's, and from its own last checkpoint."""
    earlier = tmp_path / 'work_dirs/gfl_r18_fpn_shapes'
    earlier.mkdir(parents=True)
    (earlier / 'last_checkpoint').write_text('nothing of ours')
    config = config_with(tmp_path, iteration=6, rank=1, file=str(tmp_path / 'died'))
    done = on_ranks(2, tmp_path / 'data', settings=SETTINGS, config=config, cwd=tmp_path, MAX_RESTARTS='1')
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / 'work_dirs/gfl_r18_fpn_shapes-2'
    assert (tmp_path / 'died').exists() and os.listdir(earlier) == ['last_checkpoint'], 'the earlier is as it was'
    assert f'Load checkpoint from {run / "epoch_1.pth"}' in log(run), log(run)[-3000:]
    assert sorted(scalars(run)) == list(range(1, 9)) and (run / 'epoch_2.pth').exists(), 'it should have been finished'


@pytest.mark.soak
@pytest.mark.parametrize('mistake', ['load_from=nowhere.pth', 'model.bbox_head.num_classes=5', 'train_cfg.max_epoch=2'])
def test_a_mistake_of_the_users_is_said_once_and_not_made_again(mistake, tmp_path):
    """One that a rank finds before it meets the others, one that all find in the data, and a misspelt setting."""
    done = on_ranks(2, tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), settings=[*SETTINGS, mistake])
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr[-3000:]
    assert done.stderr.count('error:') == 1, done.stderr[-3000:]


@pytest.mark.soak
def test_a_signal_to_the_launcher_saves_the_run(tmp_path):
    """As a job that is preempted gets it: it is passed on, and the launcher has the status of what it has started."""
    config = config_with(tmp_path, iteration=6, rank=0, fault='SIGTERM', parent=True)
    done = on_ranks(2, tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), settings=SETTINGS, config=config)
    assert done.returncode == 75 and 'Traceback' not in done.stderr, done.stderr[-3000:]
    assert (tmp_path / 'run/interrupted.pth').exists()


@pytest.mark.soak
@pytest.mark.parametrize('rank', [0, 1])
def test_a_rank_that_dies_ends_the_others_within_a_minute(rank, tmp_path):
    config = config_with(tmp_path, iteration=6, rank=rank, file=str(tmp_path / 'died'))
    done = on_ranks(2, tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), settings=SETTINGS, config=config,
                    MAX_RESTARTS='0')
    seconds = time.time() - float((tmp_path / 'died').read_text())
    assert done.returncode == 128 + signal.SIGKILL and seconds < 60, f'{done.returncode} after {seconds:.0f} s'


@pytest.mark.soak
def test_a_rank_that_hangs_ends_the_others_after_the_timeout(tmp_path):
    config = config_with(tmp_path, iteration=6, rank=1, fault='hang', file=str(tmp_path / 'hung'))
    done = on_ranks(2, tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), config=config, MAX_RESTARTS='0',
                    settings=[*SETTINGS, 'env_cfg.dist_cfg.timeout=30'])
    seconds = time.time() - float((tmp_path / 'hung').read_text())
    assert done.returncode != 0 and 25 < seconds < 120, f'{seconds:.0f} s'  # what hangs has 30 s to end, then is killed


@pytest.mark.soak
def test_a_signal_to_one_rank_ends_all_at_one_iteration(tmp_path):
    arguments = 2, tmp_path / 'data', '--work-dir', str(tmp_path / 'run')
    config = config_with(tmp_path, iteration=6, rank=1, fault='SIGTERM')
    done = on_ranks(*arguments, settings=SETTINGS, config=config, MAX_RESTARTS='1')
    assert done.returncode == 75 and done.stderr.count('SIGTERM ended the run') == 1, done.stderr[-3000:]
    assert load_file(tmp_path / 'run/interrupted.pth')['meta']['iter'] == 6
    assert on_ranks(*arguments, '--resume', settings=SETTINGS).returncode == 0
    assert sorted(scalars(tmp_path / 'run')) == list(range(1, 9))


@pytest.mark.soak
def test_a_signal_in_a_validation_ends_all_ranks(tmp_path):
    """Rank 1 has it, of a validation that rank 0 has more batches of."""
    sampler = "val_dataloader.sampler.round_up=False", 'val_dataloader.batch_size=1', \
        'val_dataloader.dataset.num_images=3'
    config = config_with(tmp_path, iteration=4, rank=1, fault='SIGTERM', validation=True)
    done = on_ranks(2, tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), config=config,
                    settings=['train_dataloader.batch_size=2', *sampler])
    assert done.returncode == 75, done.stderr[-3000:]
    assert load_file(tmp_path / 'run/interrupted.pth')['meta']['validate_first']


def test_whose_run_a_folder_holds(tmp_path, monkeypatch):
    run_folders.sign(str(tmp_path))
    assert not os.listdir(tmp_path), 'without torchrun nothing is started again'
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    run_folders.sign(str(tmp_path))
    assert run_folders.is_started_again(str(tmp_path))
    monkeypatch.setattr(os, 'getppid', lambda: 1)
    assert not run_folders.is_started_again(str(tmp_path)), "another torchrun's"
