"""From a config file and the options of a command line to the config of a run."""
import difflib
import inspect
import logging
import os
import traceback
from argparse import Namespace
from typing import Any, Collection, Dict, Iterator, Optional

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..building import visit
from ..compat import install_for_tools
from ..config_bases import find_config, list_configs
from ..errors import SetupError
from .weights import find_weights

Options = Namespace  # of tools/arguments.py

# Settings that a run reads and that a config need not have.
OPTIONAL = {*inspect.signature(Runner.__init__).parameters, 'activation_checkpointing', 'compile',
            'efficient_conv_bn_eval', 'find_unused_parameters', 'fit_schedule', 'model_wrapper_cfg', 'sync_bn',
            'tta_model', 'tta_pipeline'}
RANK = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')  # the launchers' variables


def load_config(options: Options) -> Config:
    """Read ``options.config`` and apply ``--cfg-options``, ``--data-root``, ``--launcher`` and ``--weights``.

    A key of ``--cfg-options`` that the config does not have is applied, with a warning.

    Raises:
        SetupError: There is no such config, it cannot be read, an option is not of the form key=value, or nothing is
            known by the name of the weights.
    """
    install_for_tools()
    file = find_config(options.config)
    try:
        config = Config.fromfile(file)
    except Exception as error:  # a Python config can raise anything
        raise SetupError(f'{options.config} cannot be read{_name_line(error)}: '
                         f'{type(error).__name__}: {error}') from error
    config.launcher = options.launcher
    file_root = config.get('data_root')
    settings = dict(map(_key_and_value, options.cfg_options or []))
    _merge(config, settings)
    root = options.data_root or config.get('data_root')
    if root is not None and (options.data_root or root != file_root):
        set_data_root(config, file_root, root, settings)
    weights = getattr(options, 'weights', None) or ('none' if getattr(options, 'no_pretrained', False) else None)
    if weights:
        _start_from(config, weights, settings)
    return config


def configs(options: Options) -> str:
    """List the configs of this package, a line each, as ``tools/configs.py`` says."""
    return '\n'.join(list_configs())


def _name_line(error: Exception) -> str:
    """Name the file and the line that raised an error, if the error comes from running a config."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == '<module>']
    return f' ({lines[-1].filename}, line {lines[-1].lineno})' if lines else ''


def is_first_rank(config: Config) -> bool:
    """Whether this process speaks for all ranks. They read the config before they meet."""
    return os.environ.get(RANK.get(config.launcher, ''), '0') == '0'


def _warn(config: Config, text: str) -> None:
    """Warn on rank 0 only."""
    if is_first_rank(config):
        print_log(text, logger='current', level=logging.WARNING)


# ---- --cfg-options ----

def _key_and_value(option: str):
    key, separator, value = option.partition('=')
    if not separator:
        raise SetupError(f'--cfg-options takes key=value, and {option!r} has no "="')
    if not all(key.split('.')):
        raise SetupError(f'--cfg-options takes key=value, and a name is missing in the key of {option!r}')
    try:
        return key, DictAction._parse_iterable(value)
    except AssertionError as error:  # brackets that do not match
        raise SetupError(f'--cfg-options cannot read the value of {option!r}: {error}') from error


def _merge(config: Config, settings: Dict[str, Any]) -> None:
    content = config.to_dict()
    for new in dict.fromkeys(_first_new_part(content, key) for key in settings):
        if new is not None and new not in OPTIONAL:
            nearest = _nearest(content, new)
            _warn(config, f'--cfg-options sets {new}, which the config does not have'
                  f'{f". Did you mean {nearest}?" if nearest else ""}')
    try:
        config.merge_from_dict(settings)
    except (KeyError, TypeError, IndexError) as error:
        raise SetupError(f'--cfg-options cannot be applied: {error.args[0]}') from error


def _children(node: Any) -> Dict[str, Any]:
    """What can follow a key of ``--cfg-options``: names of a dict, positions in a list."""
    if isinstance(node, dict):
        return node
    return {str(index): child for index, child in enumerate(node)} if isinstance(node, (list, tuple)) else {}


def _first_new_part(content: dict, key: str) -> Optional[str]:
    """The start of a key up to the first name that the config does not have; None if it has them all."""
    names, node = key.split('.'), content
    for depth, name in enumerate(names, 1):
        if name not in _children(node):
            return '.'.join(names[:depth])
        node = _children(node)[name]
    return None


def _nearest(content: dict, new: str) -> Optional[str]:
    """The key of a config that a new one was probably meant to be: of a similar name, or the same in another place."""
    *parents, name = new.split('.')
    node = content
    for parent in parents:
        node = _children(node)[parent]
    elsewhere = [key for key in _keys(content) if key.rpartition('.')[2] == name]
    similar = ['.'.join([*parents, key]) for key in difflib.get_close_matches(name, _children(node), n=1)]
    if not similar or not parents:
        similar = difflib.get_close_matches(new, elsewhere, n=1, cutoff=0.0) or similar
    return similar[0] if similar else None


def _keys(node: Any, prefix: str = '') -> Iterator[str]:
    for name, child in _children(node).items():
        yield prefix + name
        yield from _keys(child, f'{prefix}{name}.')


# ---- --data-root ----

def set_data_root(config: Config, old: Optional[str], new: str, settings: Collection[str] = ()) -> None:
    """Put a data root into every data set and evaluator of a config.

    Files below the old root are found below the new one. An evaluator that reads a file elsewhere, of the config that
    this one inherits from, say, gets the annotations of the data set that it evaluates. What ``settings``, the keys of
    ``--cfg-options``, name keeps its value.
    """
    new = os.path.join(new, '')  # the configs join by adding
    old = old and os.path.join(old, '')

    def replace(node: Any, prefix: str) -> None:
        for key, value in _children(node).items():
            name = f'{prefix}.{key}'
            if name in settings:  # the user's own value
                continue
            if key == 'data_root':
                node[key] = new
            elif key in ('ann_file', 'proposal_file') and isinstance(value, str) and old and value.startswith(old):
                node[key] = new + value[len(old):].lstrip('/')
            else:
                replace(value, name)

    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator'):
        replace(config.get(key), key)
    for split in ('val', 'test'):
        _point_evaluator_to_data(config, split, new, settings)
    config.data_root = new


def _point_evaluator_to_data(config: Config, split: str, root: str, settings: Collection[str]) -> None:
    evaluator, annotations = f'{split}_evaluator', _annotations(config.get(f'{split}_dataloader'))
    is_asked_for = any(key.startswith(evaluator) and key.endswith('ann_file') for key in settings)

    def replace(node: ConfigDict) -> None:
        file = node.get('ann_file')
        if isinstance(file, str) and not file.startswith(root):
            _warn(config, f'{evaluator} reads {annotations}, as {split}_dataloader does, and not {file}')
            node.ann_file = annotations

    if annotations is not None and not is_asked_for:
        visit(config.get(evaluator), replace)


def _annotations(loader: Optional[ConfigDict]) -> Optional[str]:
    """The annotation file of a loader's data set, if it has one."""
    dataset = (loader or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset.dataset
    file = dataset.get('ann_file')
    return os.path.join(dataset.get('data_root') or '', file) if file else None


# ---- --weights ----

def _start_from(config: Config, weights: str, settings: Collection[str]) -> None:
    """Start from the checkpoint that ``weights`` names, or from scratch if it is ``none``.

    A checkpoint of a detector brings its backbone, so no other weights are loaded, or even downloaded. ``load_from``
    in ``settings``, the keys of ``--cfg-options``, wins.
    """
    checkpoint = None if weights == 'none' else find_weights(weights)
    visit(config.model, _drop_pretrained)
    if 'load_from' not in settings:
        config.load_from = checkpoint


def _drop_pretrained(node: ConfigDict) -> None:
    init = node.get('init_cfg')
    if isinstance(init, (list, tuple)):
        node['init_cfg'] = [one for one in init if not _is_pretrained(one)]
    elif _is_pretrained(init):
        node['init_cfg'] = None
    if node.get('pretrained'):  # of gfl_plugin.TIMMBackbone, and the older name of MMDetection's backbones
        node['pretrained'] = None


def _is_pretrained(init: Any) -> bool:
    return isinstance(init, dict) and init.get('type') == 'Pretrained'
