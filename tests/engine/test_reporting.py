"""How a tool ends: one line, a status, and no process group left behind."""
import datetime
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from tool_runs import free_port, parse

from gfl_plugin import engine
from gfl_plugin.engine.summary import _list_scores
from gfl_plugin.errors import Interrupted, SetupError
from gfl_plugin.evaluation import CocoMetric
from gfl_plugin.evaluation.matching import OperatingPoint

WAYS_OUT = [(None, None), (SetupError('a mistake'), 2), (Interrupted('SIGTERM'), 75), (KeyboardInterrupt(), 130),
            (ZeroDivisionError('a bug'), None)]
NAMES = ['finished', 'mistake', 'interrupted', 'ctrl_c', 'bug']


@pytest.fixture(autouse=True)
def ctrl_c():
    """A tool that ends ignores it."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def leave(error):
    """Leave a tool in a given way.

    Returns:
        Its exit status, or None where it exits with none of its own.
    """
    try:
        with engine.reporting():
            if error is not None:
                raise error
    except SystemExit as end:
        return end.code
    except ZeroDivisionError:
        return None


@pytest.mark.parametrize('error, status', WAYS_OUT, ids=NAMES)
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo')
def test_every_way_out_leaves_the_process_group(error, status):
    torch.distributed.init_process_group('gloo', f'tcp://127.0.0.1:{free_port()}', rank=0, world_size=1,
                                         timeout=datetime.timedelta(seconds=20))
    try:
        torch.distributed.new_group(backend='gloo')
        assert leave(error) == status
        assert not torch.distributed.is_initialized(), 'the interpreter must not exit with a process group'
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize('error, status', WAYS_OUT, ids=NAMES)
def test_an_end_is_one_line_and_a_status(error, status, capsys):
    assert leave(error) == status
    said = capsys.readouterr().err
    assert len(said.splitlines()) == (status is not None), said


def test_a_terminal_that_is_gone_does_not_change_the_status(monkeypatch):
    master, terminal = os.openpty()
    os.close(master)
    with open(terminal, 'w') as lost:
        monkeypatch.setattr(sys, 'stdout', lost)
        monkeypatch.setattr(sys, 'stderr', lost)
        print('a line of the log')
        assert leave(Interrupted('SIGHUP')) == 75
        lost.flush()  # as Python does when it exits: a failure is status 120


def test_a_second_ctrl_c_does_not_change_the_status(monkeypatch):
    """A launcher passes it on to processes that have it from the terminal already."""
    monkeypatch.setattr(engine.run, 'leave_ranks', lambda is_orderly: os.kill(os.getpid(), signal.SIGINT))
    assert leave(KeyboardInterrupt()) == 130


def test_ctrl_c_while_a_tool_starts_is_one_line_and_a_status(monkeypatch, capsys):
    class Importing:

        def __getattr__(self, name):
            raise KeyboardInterrupt

    parse('test', 'config.py', 'checkpoint.pth')  # imports tools/arguments.py
    monkeypatch.setitem(sys.modules, 'gfl_plugin', Importing())
    with pytest.raises(SystemExit) as end:
        sys.modules['arguments'].run('test', None)
    assert end.value.code == 130 and len(capsys.readouterr().err.splitlines()) == 1


def test_a_summary_names_the_threshold_of_the_best_f1():
    metric = CocoMetric()
    evaluator, scores = SimpleNamespace(metrics=[metric]), {'coco/bbox_mAP': 0.4}
    assert _list_scores('Test', evaluator, scores) == ['Test: AP 0.400']
    metric.best_f1 = OperatingPoint(0.5, 0.254)
    assert _list_scores('Test', evaluator, scores) == ['Test: AP 0.400', 'Best F1 0.50 at score >= 0.25']
