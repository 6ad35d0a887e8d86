"""Limits for runs that are stopped and resumed. Each command prints the numbers of a line in README's table."""
import json

import pytest
from tool_runs import run

pytestmark = pytest.mark.soak


def endure(*arguments):
    done = run('tests/soak/endure.py', *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_kill_9_a_hundred_times():
    outcome = endure('kill', '--times', '100')
    assert outcome['resumed'] == 100 and outcome['most_lost'] <= outcome['interval'], outcome


def test_sigterm_twenty_times():
    outcome = endure('term', '--times', '20')
    assert outcome['resumed'] == 20 and outcome['most_lost'] == 0 and set(outcome['statuses']) == {'75'}, outcome


def test_memory_is_flat():
    outcome = endure('memory', '--iterations', '2000')
    assert outcome['iterations'] == 2000 and outcome['slope'] < 1, outcome
