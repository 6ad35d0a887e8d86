"""tools/launch.py on processes that import nothing: what it starts again, and how it exits."""
import signal
import sys
from unittest import mock

import pytest
from tool_runs import ROOT
from torch.distributed.launcher import api

with mock.patch.object(sys, 'path', [str(ROOT / 'tools'), *sys.path]):
    import launch

SCRIPT = """
import os, signal, sys, time
rank, starts = int(os.environ['LOCAL_RANK']), int(os.environ['TORCHELASTIC_RESTART_COUNT']) + 1
{before}
with open(sys.argv[1], 'a') as file:
    file.write('.')
while os.path.getsize(sys.argv[1]) < 2 * starts:  # both have been started
    time.sleep(0.01)
{lines}
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts two processes that run some lines, and are started again once.

    Gives the exit status, and how often a process was started.
    """
    monkeypatch.setattr(api, 'LocalElasticAgent', api.LocalElasticAgent)  # what main() replaces
    monkeypatch.setenv('TORCHELASTIC_SIGNALS_TO_HANDLE', '')  # which torchrun sets
    handlers = {number: signal.getsignal(number) for number in
                (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}

    def start(lines, before=''):
        script, started = tmp_path / 'script.py', tmp_path / 'started'
        script.write_text(SCRIPT.format(before=before, lines=lines))
        status = 0
        try:
            launch.main(['--standalone', '--local-addr=127.0.0.1', '--nproc-per-node=2', '--max-restarts=1',
                         '--monitor-interval=0.05', str(script), str(started)])
        except SystemExit as end:
            status = end.code
        return status, len(started.read_text())

    yield start
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('status', [2, 75, 130])
def test_what_would_only_happen_again_is_not_started_again(start, status, capfd):
    assert start(f'sys.exit({status})') == (status, 2)
    assert 'Traceback' not in capfd.readouterr().err


def test_a_mistake_of_one_rank_is_not_made_again(start):
    assert start('time.sleep(30 * rank); sys.exit(2)') == (2, 2)


def test_what_dies_is_started_again(start):
    assert start('sys.exit(starts == 1)') == (0, 4)


def test_what_dies_again_gives_its_status(start):
    assert start('os.kill(os.getpid(), signal.SIGKILL)') == (128 + signal.SIGKILL, 4)


@pytest.mark.parametrize('name, status, expected', [('SIGTERM', 75, 75), ('SIGINT', 130, 130), ('SIGTERM', 1, 143)])
def test_a_signal_is_passed_on(start, name, status, expected, capfd):
    """The runs end by it, saved or not; Ctrl-C on the launcher is no traceback."""
    assert start(f'if rank == 0: os.kill(os.getppid(), signal.{name})\ntime.sleep(30)',
                 before=f'signal.signal(signal.{name}, lambda *_: sys.exit({status}))') == (expected, 2)
    assert 'Traceback' not in capfd.readouterr().err


def test_without_a_private_name_plain_torchrun_starts_the_processes(start, monkeypatch, capsys):
    monkeypatch.setattr(launch, 'PRIVATE', (*launch.PRIVATE, '_gone'))
    assert start('sys.exit(2)') == (2, 4), 'torchrun starts everything again'
    assert capsys.readouterr().err.count('no _gone, so plain torchrun') == 1


def test_without_the_agents_name_plain_torchrun_starts_the_processes(monkeypatch, capsys):
    monkeypatch.delattr(api, 'LocalElasticAgent')
    monkeypatch.setattr(launch.run, 'main', lambda arguments: None)
    launch.main([])
    assert 'plain torchrun' in capsys.readouterr().err and not hasattr(api, 'LocalElasticAgent')
