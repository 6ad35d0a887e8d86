"""Installing by hand keeps the user's PyTorch; `make env` pins PyTorch. A wheel has the command gfl and the configs."""
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Set
from unittest import mock

import pytest
from tool_runs import ROOT, run

from gfl_plugin import engine


def pinned(name: str) -> Set[str]:
    """The distributions that a constraints file names."""
    lines = (ROOT / name).read_text().splitlines()
    return {re.match(r'[\w.-]+', line)[0].lower() for line in lines if line and not line.startswith('#')}


def test_the_constraints_of_the_stack_leave_pytorch_alone():
    """Pip replaces an installed PyTorch if a constraint names another one, or names a package that PyTorch pins itself,
    as PyTorch 2.6 pins sympy."""
    of_torch = {'torch', 'torchvision', 'triton', 'sympy', 'mpmath', 'setuptools', 'filelock', 'fsspec'}
    assert not pinned('constraints.txt') & of_torch
    assert {'torch', 'torchvision'} <= pinned('constraints-torch.txt') <= of_torch


def test_the_install_by_hand_uses_only_the_constraints_of_the_stack():
    install = (ROOT / 'README.md').read_text().split('\n## Install\n')[1].split('\n## ')[0]
    commands = re.findall(r'pip install .*', install)
    assert len(commands) > 3 and any('-c constraints.txt' in command for command in commands)
    assert not [command for command in commands if 'constraints-torch' in command]


def test_make_pins_both():
    """Each ``pip install`` of the Makefile uses both constraints files."""
    makefile = (ROOT / 'Makefile').read_text()
    assert re.search(r'^PINS = -c constraints\.txt -c constraints-torch\.txt$', makefile, re.M)
    installs = re.findall(r'/pip install.*', makefile)
    assert installs and all('$(PINS)' in command for command in installs)


# ---- the command gfl ----

@pytest.fixture
def gfl(monkeypatch):
    """The module of the command, in a process that it may change."""
    monkeypatch.setattr(sys, 'path', [str(ROOT / 'tools'), *sys.path])
    spec = importlib.util.spec_from_file_location('gfl', ROOT / 'tools/__main__.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_tool_is_a_command(gfl, monkeypatch):
    commands = gfl.find_commands()
    assert {'train', 'test', 'check', 'demo', 'analyze', 'benchmark', 'reproduce', 'configs'} <= set(commands)
    called = []
    monkeypatch.setattr(importlib, 'import_module',
                        lambda name: mock.Mock(main=lambda: called.append((name, sys.argv))))
    for command, file in commands.items():
        assert 'def main():' in file.read_text(), f'the command {command} calls main() of {file.name}'
        monkeypatch.setattr(sys, 'argv', ['/usr/bin/gfl', command, '--option'])
        gfl.main()
    assert called == [(file.stem, [f'gfl {command}', '--option']) for command, file in commands.items()]


@pytest.mark.parametrize('arguments', [(), ('configs', )])
def test_the_reader_of_a_pipe_may_go(arguments):
    """``gfl | head -1`` prints no traceback."""
    process = subprocess.Popen([sys.executable, str(ROOT / 'tools'), *arguments], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ('', 0)


def test_the_help_of_a_command_names_the_command(gfl):
    """It is the help of the file in tools/, whose examples start that file."""
    for command, file in gfl.find_commands().items():
        answer = subprocess.run([sys.executable, '-S', str(ROOT / 'tools'), command, '--help'], capture_output=True,
                                text=True)
        assert answer.returncode == 0 and f'usage: gfl {command}' in answer.stdout, answer.stderr
        assert 'tools/' not in answer.stdout, file.name


@pytest.mark.parametrize('name, advice', [('chekc', 'Did you mean gfl check?'), ('xyz', 'There are analyze, ')])
def test_an_unknown_command_names_the_nearest(gfl, name, advice, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['gfl', name])
    with pytest.raises(SystemExit) as end:
        gfl.main()
    assert end.value.code == 2 and advice in capsys.readouterr().err


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The content of the wheel, unpacked."""
    pytest.importorskip('setuptools', minversion='70.1', reason='older ones build wheels by another package')
    root = tmp_path_factory.mktemp('wheel')
    for name in ('pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, root)
    for name in ('gfl_plugin', 'tools', 'configs'):
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    built = run('-c', 'from setuptools import build_meta; build_meta.build_wheel(".")', cwd=root)
    assert built.returncode == 0, built.stderr[-2000:]
    zipfile.ZipFile(next(root.glob('*.whl'))).extractall(root / 'installed')
    return root / 'installed'


def test_a_wheel_has_the_configs_the_tools_and_the_pages(wheel):
    def sources(folder: Path) -> Set[str]:
        return {str(file.relative_to(folder)) for file in folder.rglob('*')
                if file.suffix in ('.py', '.html', '.css', '.js')}

    assert sources(wheel / 'gfl_plugin/.mim/configs') == sources(ROOT / 'configs')
    assert sources(wheel / 'gfl_tools') == sources(ROOT / 'tools')
    own = {file for file in sources(ROOT / 'gfl_plugin') if not file.startswith('.mim')}
    assert {file for file in sources(wheel / 'gfl_plugin') if not file.startswith('.mim')} == own
    entry_points = next(wheel.glob('*.dist-info/entry_points.txt')).read_text()
    assert re.search(r'^gfl ?= ?gfl_tools\.__main__:main$', entry_points, re.M)


def test_help_answers_without_any_package(wheel):
    listed = run('-S', '-m', 'gfl_tools', cwd=wheel)
    assert re.search(r'^  check +List every problem of a data set', listed.stdout, re.M), listed
    described = run('-S', '-m', 'gfl_tools', 'train', '--help', cwd=wheel).stdout
    assert described.startswith('usage: gfl train ') and '    gfl train configs/gfl/' in described
    assert 'tools/' not in described, 'its examples should be commands that the user has'


def test_configs_lists_what_every_tool_finds():
    names = engine.configs(None).splitlines()
    assert 'custom/gfl_lite0_fpn' in names and not [name for name in names if '_base_' in name]
    assert all(engine.find_config(name).endswith(f'{name}.py') for name in names)
