"""``_base_ = 'gfl_plugin::gfl/gfl_r50_fpn_1x_coco.py'`` in a config that lies outside of this repository."""
import os
from typing import Callable, Optional, Tuple

from mmengine.config import Config

from . import patches

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
