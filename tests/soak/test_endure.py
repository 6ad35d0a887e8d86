"""The bars of a run that survives. What each command prints is a line of the README's table."""
import json

import pytest
from tool_runs import run

pytestmark = pytest.mark.soak


def endure(*arguments):
    done = run('tests/soak/endure.py', *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_kill_9_a_hundred_times():
    fared = endure('kill', '--times', '100')
    assert fared['resumed'] == 100 and fared['most_lost'] <= fared['interval'], fared


def test_sigterm_twenty_times():
    fared = endure('term', '--times', '20')
    assert fared['resumed'] == 20 and fared['most_lost'] == 0 and set(fared['statuses']) == {'75'}, fared


def test_memory_is_flat():
    fared = endure('memory', '--iterations', '2000')
    assert fared['iterations'] == 2000 and fared['slope'] < 1, fared
