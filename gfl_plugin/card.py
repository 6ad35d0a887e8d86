"""What a checkpoint says about itself, as JSON text: how to build its model, and how to prepare images for it.

The text may come from a stranger. Reading a card checks the type of every field, and refuses keys that name files or
code. :mod:`gfl_plugin.inference.loading` builds a model from a card.
"""
import datetime
import json
import math
import os
import platform
import re
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import mmdet
import mmengine
import torch

from .conformal import Calibration
from .errors import SetupError
from .version import __version__

KEY = 'gfl_plugin'  # of a checkpoint
FORMAT = 1
LONGEST, DEEPEST = 2**20, 40  # characters of a text; levels of nesting

# Keys that name files or code, or that only a training reads. A card never has them, at any depth.
LEFT_OUT = frozenset({
    'init_cfg', 'pretrained', 'train_cfg', 'custom_imports', 'checkpoint', 'checkpoint_path', 'checkpoint_file',
    'teacher_config', 'teacher_ckpt', 'pretrained_cfg', 'pretrained_cfg_overlay', 'cache_dir', 'lang_model_name',
    'ann_file', 'data_root', 'data_prefix', 'proposal_file', 'backend_args', 'file_client_args', 'batch_augments',
    '_base_', '_delete_', '_scope_'})
TRAINED_ON_TEXTS = ('type', 'data', 'images', 'split')
NMS_TYPES = ('nms', 'soft_nms')  # mmcv calls `eval` on the type of an NMS

# The largest numbers, so that a card cannot fill the memory. Some keys have a smaller limit.
LARGEST = dict(model=100_000, pipeline=8192)
LARGEST_BY_KEY = dict(model=dict(pad_size_divisor=1024), pipeline=dict(size_divisor=1024, scale_factor=1))
MOST_TRANSFORMS = 20


class Card(NamedTuple):
    """What a checkpoint says about itself.

    Attributes:
        model: Config of the detector, without the settings of its training and without the names of files.
        pipeline: Configs of the transforms between loading an image and packing it, as in the test.
        classes: C names, in the order of the labels.
        score_thr: The score threshold of the best F1 on the validation set; None if there was no validation.
        trained_on: Where the training images are; None if unknown. See :func:`training_data`.
        versions: The releases that wrote the checkpoint, and the date.
        calibration: Of the intervals of sides, see :class:`gfl_plugin.conformal.Calibration`; None without one.
    """
    model: dict
    pipeline: List[dict]
    classes: List[str]
    score_thr: Optional[float]
    trained_on: Optional[dict]
    versions: Dict[str, str]
    calibration: Optional[dict] = None

    def to_text(self) -> str:
        """Write the card as JSON text, which :func:`read_card` reads.

        Raises:
            SetupError: The model or the pipeline is more than plain data, or :func:`read_card` would refuse the text.
        """
        text = json.dumps(dict(format=FORMAT, **{name: _plain(value, name) for name, value in self._asdict().items()}),
                          ensure_ascii=False)
        _parse(text)
        return text


def describe(config: dict, classes: Sequence[str], score_thr: Optional[float] = None,
             trained_on: Optional[dict] = None) -> Card:
    """Make the card of a model from its config.

    Raises:
        SetupError: The config has no model or no test pipeline.
    """
    if not isinstance(config.get('model'), dict):
        raise SetupError('the config has no model')
    return Card(model=_strip(config['model']), pipeline=_preparation(config), classes=[str(name) for name in classes],
                score_thr=None if score_thr is None else float(score_thr), trained_on=trained_on,
                versions=installed_versions())


def read_card(checkpoint: dict, source: str) -> Optional[Card]:
    """Read the card of a checkpoint; None if the checkpoint has none.

    Args:
        checkpoint: What was loaded.
        source: Name of the file, for the message.

    Raises:
        SetupError: The card is malformed, of a newer format, or has a key, type or number that cards may not have.
    """
    if KEY not in checkpoint:
        return None
    try:
        return _parse(checkpoint[KEY])
    except SetupError as error:
        raise SetupError(f'The card of {source} cannot be used: {error}') from None


def training_data(config: dict) -> Optional[dict]:
    """Say where the training images of a config are. See :func:`locate_data`."""
    return locate_data(config.get('train_dataloader'))


def locate_data(loader: Optional[dict]) -> Optional[dict]:
    """Say where the images of a loader's config are: the type of the data set, and the arguments that find them.

    Returns:
        ``data`` is the absolute path of the folder or of the annotation file. Other keys depend on the type. None if
        the data set is of an unknown kind.
    """
    dataset = _innermost(loader)
    kind = str(getattr(dataset.get('type'), '__name__', dataset.get('type')))
    if kind.endswith('FolderDataset'):
        found = dict(data=_absolute(dataset['path']), split=dataset['split'], val_share=dataset.get('val_share', 0.2))
    elif kind.endswith('ShapesDataset'):
        found = {key: dataset[key] for key in ('split', 'num_images', 'image_size', 'seed') if key in dataset}
        found['data'] = _absolute(dataset.get('data_root', 'data/shapes'))
    elif isinstance(dataset.get('ann_file'), str) and dataset['ann_file']:
        root = dataset.get('data_root') or ''
        images = (dataset.get('data_prefix') or {}).get('img', '')
        found = dict(data=_absolute(root, dataset['ann_file']), images=_absolute(root, images))
    else:
        return None
    return dict(type=kind, **found)


# ---- from a config ----

def _strip(node: Any) -> Any:
    """Copy a config without :data:`LEFT_OUT`. A scope becomes a part of the type, and a bare type a config."""
    if isinstance(node, (list, tuple)):
        return type(node)(map(_strip, node))
    if not isinstance(node, dict):
        return node
    kept = {key: _strip(value) for key, value in node.items() if key not in LEFT_OUT}
    if node.get('_scope_') and isinstance(kept.get('type'), str) and '.' not in kept['type']:
        kept['type'] = f'{node["_scope_"]}.{kept["type"]}'
    for axis in ('quality', 'box'):  # of gfl_plugin.GFLHead
        if isinstance(kept.get(axis), str):
            kept[axis] = dict(type=kept[axis])
    return kept


def _preparation(config: dict) -> List[dict]:
    """The test's transforms of an image between loading and packing."""
    pipeline = _innermost(config.get('test_dataloader') or config.get('val_dataloader')).get('pipeline')
    if not isinstance(pipeline, (list, tuple)) or not all(isinstance(step, dict) and 'type' in step
                                                          for step in pipeline):
        raise SetupError('the config has no test pipeline that is a list of configs')
    names = [str(getattr(step['type'], '__name__', step['type'])).rpartition('.')[2] for step in pipeline]
    return [_strip(step) for step, name in zip(pipeline, names) if not name.startswith(('Load', 'Pack'))]


def _innermost(loader: Any) -> dict:
    """The config of a loader's data set, inside its wrappers; empty if there is none."""
    dataset = (loader or {}).get('dataset')
    while isinstance(dataset, dict) and isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return dataset if isinstance(dataset, dict) else {}


def _absolute(*parts: str) -> str:
    path = os.path.join(*parts)
    return path if '://' in path else os.path.abspath(os.path.expanduser(path))


def installed_versions() -> Dict[str, str]:
    """The releases that are installed here, and the date."""
    return dict(gfl_plugin=__version__, torch=str(torch.__version__), mmdet=mmdet.__version__,
                mmengine=mmengine.__version__, python=platform.python_version(),
                date=datetime.datetime.now().astimezone().isoformat(timespec='seconds'))


def _plain(node: Any, name: str) -> Any:
    """Copy plain data, with lists in the place of tuples.

    Raises:
        SetupError: Something in it is not plain data.
    """
    if isinstance(node, dict) and all(isinstance(key, str) for key in node):
        return {str(key): _plain(value, f'{name}.{key}') for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(value, f'{name}.{index}') for index, value in enumerate(node)]
    if node is None or isinstance(node, (bool, int, str)) or (isinstance(node, float) and math.isfinite(node)):
        return node
    raise SetupError(f'{name} is not plain data: {str(node)[:80]!r} is a {type(node).__name__}')


def is_plain(node: Any) -> bool:
    """Whether an object is made of nothing but dicts, lists, tuples, strings, finite numbers, booleans and None."""
    try:
        _plain(node, '')
    except SetupError:
        return False
    return True


# ---- from a stranger ----

def _parse(text: Any) -> Card:
    if not isinstance(text, str):
        raise SetupError(f'it is a {type(text).__name__}, not a text')
    if len(text) > LONGEST:
        raise SetupError(f'it has {len(text):,} characters, more than {LONGEST:,}')
    try:
        content = json.loads(text, parse_constant=_parse_number, parse_float=_parse_number, parse_int=_parse_number)
    except (ValueError, RecursionError) as error:
        raise SetupError(f'it is not JSON that can be read ({error})') from None
    if not isinstance(content, dict):
        raise SetupError(f'it is a JSON {type(content).__name__}, not an object')
    version = content.pop('format', None)
    if version != FORMAT or isinstance(version, bool):
        raise SetupError(f'it has format {str(version)[:40]!r}, and this release reads format {FORMAT}. Install a '
                         'newer gfl_plugin if the checkpoint comes from one')
    missing = [name for name in Card._fields if name not in content]
    if missing:
        raise SetupError(f'it has no {", ".join(missing)}')
    card = Card(**{name: content[name] for name in Card._fields})
    _check_types(card)
    _check_settings(card.model, 'model')
    _check_settings(card.pipeline, 'pipeline')
    return card


def _parse_number(text: str) -> float:
    """Convert a number of the JSON text. NaN, infinity and endless digits are no numbers here."""
    if len(text) <= 40:  # the conversion of a long integer takes quadratic time
        number = float(text) if re.search('[.eEN]|Inf', text) else int(text)
        if math.isfinite(number):
            return number
    raise ValueError(f'the number {text[:40]}')


def _check_types(card: Card) -> None:
    def require(condition: bool, name: str, wanted: str) -> None:
        if not condition:
            raise SetupError(f'its {name} should be {wanted}, not {str(getattr(card, name))[:80]!r}')

    require(isinstance(card.model, dict) and isinstance(card.model.get('type'), str), 'model', 'a config with a type')
    require(isinstance(card.pipeline, list) and len(card.pipeline) <= MOST_TRANSFORMS and all(
        isinstance(step, dict) and isinstance(step.get('type'), str) for step in card.pipeline), 'pipeline',
        f'a list of up to {MOST_TRANSFORMS} configs with a type')
    require(_are_names(card.classes) and len(card.classes) > 0, 'classes', 'a list of names')
    require(card.score_thr is None or _is_share(card.score_thr), 'score_thr', 'a number from 0 to 1, or null')
    require(card.trained_on is None or _is_training_data(card.trained_on), 'trained_on', 'null, or an object in which '
            f'{", ".join(TRAINED_ON_TEXTS)} are texts and val_share is a number from 0 to 1')
    require(isinstance(card.versions, dict) and _are_names(list(card.versions.values())), 'versions',
            'an object of texts')
    if card.calibration is not None:
        Calibration.from_dict(card.calibration)
    for _ in _walk(card.trained_on, 'trained_on'):  # checks the depth
        pass


def _is_share(node: Any) -> bool:
    return isinstance(node, (int, float)) and not isinstance(node, bool) and 0 <= node <= 1


def _is_training_data(node: Any) -> bool:
    """Whether the keys that :func:`training_data` writes have the types that it writes. Any of them may be missing."""
    return isinstance(node, dict) and _is_share(node.get('val_share', 0)) and all(
        isinstance(node.get(name, ''), str) for name in TRAINED_ON_TEXTS)


def _are_names(node: Any) -> bool:
    return isinstance(node, list) and all(isinstance(name, str) for name in node)


def _check_settings(node: Any, part: str) -> None:
    """Refuse what a config of a card must not have: files, code, and numbers that would fill the memory."""
    for parents, key, value in _walk(node, part):
        where = '.'.join([*parents, key])[:80]
        if key in LEFT_OUT:
            raise SetupError(f'{where} is a key that a card must not have (files, code, training)')
        if key == 'type' and not (isinstance(value, str) and re.fullmatch(r'\w+(\.\w+)?', value)):
            raise SetupError(f'{where} should be the name of a type, not {str(value)[:80]!r}')
        is_nms = any(parent == 'test_cfg' or parent.startswith('nms') for parent in parents)
        if key == 'type' and is_nms and value not in NMS_TYPES:
            raise SetupError(f'{where} should be one of {", ".join(NMS_TYPES)}, not {value[:80]!r}')
        if key == 'model_name' and not (isinstance(value, str) and re.fullmatch(r'[\w.-]+', value)):
            raise SetupError(f'{where} should be the name of a model, not {str(value)[:80]!r}')
        largest = LARGEST_BY_KEY[part].get(key, LARGEST[part])
        if isinstance(value, (int, float)) and abs(value) > largest:
            raise SetupError(f'{where} is {value:g}, and a card may say at most {largest:,} there')


def _walk(node: Any, *parents: str) -> Iterator[Tuple[Tuple[str, ...], str, Any]]:
    """Yield everything in nested dicts and lists: the keys that lead to it, its own key, and its value.

    The numbers in a list have the key of the list.
    """
    if len(parents) > DEEPEST:
        raise SetupError(f'it is nested more than {DEEPEST} levels deep')
    if isinstance(node, dict):
        for key, child in node.items():
            yield parents, key, child
            yield from _walk(child, *parents, key)
    elif isinstance(node, list):
        for child in node:
            if not isinstance(child, (dict, list)):
                yield parents[:-1], parents[-1], child
            yield from _walk(child, *parents, parents[-1]) if isinstance(child, list) else _walk(child, *parents, '')
