"""Installing by hand keeps the user's PyTorch; `make env` pins PyTorch."""
import re
from typing import Set

from tool_runs import ROOT


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
