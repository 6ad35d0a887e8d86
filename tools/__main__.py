#!/usr/bin/env python
"""The command ``gfl``: ``gfl train CONFIG`` runs the same code as ``python tools/train.py CONFIG``.

Every tool in this folder is a command, so a new file is a new command. ``python tools train CONFIG`` works too, and so
does ``python -m gfl_tools train CONFIG`` after an installation. Several processes start by

    python -m gfl_tools.launch --nproc_per_node=8 -m gfl_tools train CONFIG --launcher pytorch
"""
import ast
import difflib
import importlib
import sys
from pathlib import Path
from typing import Dict

FOLDER = Path(__file__).resolve().parent
NO_COMMANDS = ('__init__', '__main__', 'arguments', 'launch')


def main() -> None:
    """Run the command that the command line names, or list all commands."""
    commands, (name, *rest) = find_commands(), sys.argv[1:] or ['--help']
    sys.path.insert(0, str(FOLDER))  # as Python does for a script: a tool imports the files beside it
    if name in ('-h', '--help'):
        importlib.import_module('arguments').show(describe(commands))
    elif name in commands:
        sys.argv = [f'gfl {name}', *rest]  # the name of the program in its help and its messages
        importlib.import_module(commands[name].stem).main()
    else:
        nearest = difflib.get_close_matches(name, commands, n=1, cutoff=0.5)
        advice = f'Did you mean gfl {nearest[0]}?' if nearest else f'There are {", ".join(commands)}.'
        print(f'error: gfl has no command {name!r}. {advice}', file=sys.stderr)
        sys.exit(2)


def find_commands() -> Dict[str, Path]:
    """Map the name of each command to its file. The command of check_dataset.py is ``check``."""
    files = sorted(file for file in FOLDER.glob('*.py') if file.stem not in NO_COMMANDS)
    return {file.stem.partition('_')[0]: file for file in files}


def describe(commands: Dict[str, Path]) -> str:
    """List the commands with the first sentence of their docstrings."""
    lines = ['usage: gfl COMMAND [options]', '']
    for name, file in commands.items():
        about = ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or ''
        lines.append(f'  {name.ljust(max(map(len, commands)))}  {about.splitlines()[0].partition(". ")[0].rstrip(".")}')
    return '\n'.join([*lines, '', 'gfl COMMAND --help lists the options of a command'])


if __name__ == '__main__':
    main()
