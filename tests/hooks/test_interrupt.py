"""Which signals end a run, whom they reach, and how long ranks wait for each other."""
import datetime
import multiprocessing
import os
import signal
import subprocess
import time
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from tool_runs import free_port
from torch.utils.data import DataLoader

from gfl_plugin import engine
from gfl_plugin.hooks import InterruptHook


def runner(**env_cfg):
    """What the hook reads of a runner."""
    loader = DataLoader(range(4))
    return SimpleNamespace(cfg=Config(dict(env_cfg=env_cfg)), _val_loop=None, train_dataloader=loader,
                           test_dataloader=DataLoader(range(4), num_workers=1))


@pytest.fixture
def hook():
    hook = InterruptHook()
    yield hook
    hook.restore()


@pytest.fixture
def terminal():
    """What a terminal's signal does by default, also where nohup started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_lost_terminal_asks_a_run_to_end(hook, terminal):
    hook.before_train(runner())
    assert signal.getsignal(signal.SIGHUP) == hook._receive, 'it would end the process'
    os.kill(os.getpid(), signal.SIGHUP)
    assert hook._agreed() == 'SIGHUP'
    hook.restore()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL, 'signals should do what they did before'


def test_a_run_under_nohup_outlives_its_terminal(hook):
    with mock.patch.object(signal, 'getsignal', lambda number: signal.SIG_IGN):
        hook.before_train(runner())
    assert set(hook._handlers) == {signal.SIGTERM, signal.SIGINT}


@pytest.mark.parametrize('dist_cfg, expected', [(dict(timeout=77), datetime.timedelta(seconds=77)),
                                                (dict(timeout=None), None), ({}, None), (None, None)])
def test_ranks_meet_with_the_timeout_of_the_config(dist_cfg, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    config = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dist_cfg)))
    with mock.patch('torch.distributed.init_process_group') as join:
        engine.run._prepare_processes(config, SimpleNamespace(local_rank=None))
    join.assert_called_once_with('gloo', timeout=expected)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo')
@pytest.mark.parametrize('seconds', [77, None])
def test_ranks_wait_as_long_as_the_config_says(hook, seconds):
    """To be asked about a signal, too: PyTorch's default is half an hour."""
    torch.distributed.init_process_group('gloo', f'tcp://127.0.0.1:{free_port()}', rank=0, world_size=1)
    try:
        hook.before_train(runner(dist_cfg=dict(timeout=seconds)))
        timeout = hook._group._get_backend(torch.device('cpu')).options._timeout
        assert timeout == datetime.timedelta(seconds=seconds or 1800)
        hook.restore()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP])
def test_workers_of_a_test_outlast_what_ends_it(hook, number):
    """Ctrl-C reaches every process of a terminal; a worker that it ends prints a traceback."""
    evaluation = runner()
    hook.before_test(evaluation)
    others = set(multiprocessing.active_children())  # of other tests
    batches = iter(evaluation.test_dataloader)
    next(batches)
    worker, = set(multiprocessing.active_children()) - others
    subprocess.run(['kill', f'-{int(number)}', str(worker.pid)], check=True)
    time.sleep(0.2)  # it dies now or not at all
    assert worker.is_alive()
