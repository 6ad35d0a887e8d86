"""The memory limit of a process, on a machine and in each kind of container."""
import os

import pytest

from gfl_plugin import limits

V1, V2 = 'memory.limit_in_bytes', 'memory.max'
UNLIMITED = 9223372036854771712  # version 1 writes this number
GROUPS = {  # the lines of /proc/self/cgroup, the files below /sys/fs/cgroup, and the limit in MB
    'v2_in_a_container': ('0::/', {V2: 300}, 300),
    'v2_outside': ('0::/user.slice/a', {f'user.slice/a/{V2}': 300}, 300),
    'v2_of_a_group_around_it': ('0::/pod/a', {f'pod/{V2}': 200, f'pod/a/{V2}': 300}, 200),
    'v2_without_a_limit': ('0::/', {V2: 'max'}, None),
    'v2_of_another_group': ('0::/a', {f'b/{V2}': 300}, None),
    'v1': ('4:memory:/a', {f'memory/a/{V1}': 300, f'memory/{V1}': UNLIMITED}, 300),
    'v1_with_other_controllers': ('3:cpu,memory:/a:b', {f'memory/a:b/{V1}': 300}, 300),
    'v1_in_a_container_that_sees_its_own_group_alone': ('4:memory:/docker/1f', {f'memory/{V1}': 300}, 300),
    'v1_without_a_limit': ('4:memory:/', {f'memory/{V1}': UNLIMITED}, None),
    'both': ('4:memory:/a\n0::/', {f'memory/a/{V1}': 300, 'unified/cgroup.procs': 1}, 300),
    'no_memory_controller': ('3:cpu:/a\n1:name=systemd:/', {f'memory/a/{V1}': 300}, None),
    'more_than_the_machine_has': ('0::/', {V2: 2000}, None),
}


@pytest.mark.parametrize('kind', GROUPS)
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, kind):
    lines, files, limit = GROUPS[kind]
    for name, megabytes in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'{megabytes}\n' if megabytes in ('max', UNLIMITED) else f'{megabytes}000000\n')
    (tmp_path / 'self').write_text(lines + '\n')
    monkeypatch.setattr(limits, '_machine_memory', lambda: 10**9)
    assert limits.usable_memory(tmp_path / 'self', tmp_path) == (10**9 if limit is None else limit * 10**6)


def test_a_system_without_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, '_machine_memory', lambda: 10**9)
    assert limits.usable_memory(tmp_path / 'none', tmp_path) == 10**9
    assert limits.usable_memory() > 10**6, 'this system should allow at least 1 MB'


def test_a_limit_that_the_user_set_stays(monkeypatch):
    monkeypatch.delenv('OPENCV_IO_MAX_IMAGE_PIXELS', raising=False)
    limits.limit_opencv()
    assert os.environ['OPENCV_IO_MAX_IMAGE_PIXELS'] == str(2**28)
    monkeypatch.setenv('OPENCV_IO_MAX_IMAGE_PIXELS', '2GB')
    limits.limit_opencv()
    assert os.environ['OPENCV_IO_MAX_IMAGE_PIXELS'] == '2GB', 'the limit of the user should win'
