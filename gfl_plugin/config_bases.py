"""Find the configs of this package by their names.

A config outside of this repository can say ``_base_ = 'gfl_plugin::gfl/gfl_r50_fpn_1x_coco.py'``.
"""
import difflib
import glob
import os
from typing import Callable, List, Optional, Tuple

from mmengine.config import Config

from . import patches
from .errors import SetupError

PREFIX = 'gfl_plugin::'
CONFIGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '.mim', 'configs')


def install() -> None:
    """Let MMEngine find the configs of this package.

    MMEngine knows the packages of OpenMMLab alone. It also looks types up in the scope that a base is named after. The
    configs of this package are written in MMDetection's scope.
    """
    find: Callable = Config._get_cfg_path

    def find_here_too(path: str, file: str) -> Tuple[str, Optional[str]]:
        if not path.startswith(PREFIX):
            return find(path, file)
        return os.path.join(CONFIGS, path[len(PREFIX):]), 'mmdet'

    patches.replace(Config, '_get_cfg_path', staticmethod(find_here_too))


def find_config(name: str) -> str:
    """Find the file of a config.

    Args:
        name: A file, or a config of this package as :func:`list_configs` names it, with or without ``configs/`` and
            ``.py``.

    Raises:
        SetupError: It is neither.
    """
    if os.path.isfile(name):
        return name
    short = name.removeprefix('configs/').removesuffix('.py')
    packaged = os.path.join(CONFIGS, f'{short}.py')
    if os.path.isfile(packaged):
        return packaged
    raise SetupError(f'There is no config file {os.path.abspath(name)}, and this package has no config {short}. '
                     f'Similar ones: {", ".join(_similar_configs(short))}. `gfl configs` lists all of them')


def list_configs() -> List[str]:
    """Name the configs of this package, such as ``gfl/gfl_r50_fpn_1x_coco``."""
    return sorted(file.removesuffix('.py') for file in glob.glob('[!_]*/*.py', root_dir=CONFIGS))


def _similar_configs(name: str) -> List[str]:
    """Name the packaged configs whose file names are most similar. The folder in ``name`` does not count."""
    bases = {os.path.basename(config): config for config in list_configs()}
    return [bases[base] for base in difflib.get_close_matches(os.path.basename(name), bases, n=3, cutoff=0.0)]
