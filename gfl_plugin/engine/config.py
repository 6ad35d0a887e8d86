"""From a config file and the options of a command line to the config of a run."""
import os
from argparse import Namespace
from typing import Any, Callable, Optional

from mmengine.config import Config, ConfigDict, DictAction

from ..compat import install_for_tools
from ..errors import SetupError

Options = Namespace  # of tools/arguments.py


def load_config(options: Options) -> Config:
    """Read ``options.config`` and apply what all tools share: ``--cfg-options``, ``--data-root``, ``--launcher``.

    Raises:
        SetupError: There is no such file, it cannot be read, or an option is not of the form key=value.
    """
    install_for_tools()
    if not os.path.isfile(options.config):
        raise SetupError(f'There is no config file {os.path.abspath(options.config)}')
    try:
        config = Config.fromfile(options.config)
    except (SyntaxError, FileNotFoundError, KeyError, NameError) as error:
        raise SetupError(f'{options.config} cannot be read: {error}') from error
    file_root = config.get('data_root')
    config.merge_from_dict(dict(map(_key_and_value, options.cfg_options or [])))
    root = options.data_root or config.get('data_root')
    if root is not None and root != file_root:
        set_data_root(config, file_root, root)
    config.launcher = options.launcher
    if getattr(options, 'no_pretrained', False):
        _visit(config.model, _drop_pretrained)
    return config


def _key_and_value(option: str):
    key, separator, value = option.partition('=')
    if not separator:
        raise SetupError(f'--cfg-options takes key=value, and {option!r} has no "="')
    return key, DictAction._parse_iterable(value)


def set_data_root(config: Config, old: Optional[str], new: str) -> None:
    """Put a data root into every data set and evaluator of a config that has the old one."""
    new = os.path.join(new, '')  # the configs join by adding

    def replace(node: ConfigDict) -> None:
        for key, value in node.items():
            if key == 'data_root':
                node[key] = new
            elif key in ('ann_file', 'proposal_file') and isinstance(value, str) and old and value.startswith(old):
                node[key] = new + value[len(old):].lstrip('/')

    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator'):
        _visit(config.get(key), replace)
    config.data_root = new


def _drop_pretrained(node: ConfigDict) -> None:
    init = node.get('init_cfg')
    if isinstance(init, dict) and init.get('type') == 'Pretrained':
        node['init_cfg'] = None
    if node.get('pretrained') is True:  # of gfl_plugin.TIMMBackbone
        node['pretrained'] = False


def _visit(node: Any, act: Callable[[ConfigDict], None]) -> None:
    """Call ``act`` on every dict below a node."""
    if isinstance(node, dict):
        act(node)
        node = node.values()
    if not isinstance(node, str):
        for child in node if hasattr(node, '__iter__') else ():
            _visit(child, act)
