"""From a checkpoint to a model: from the card that the checkpoint carries, or from a config beside it."""
import contextlib
import copy
from typing import Any, Collection, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS, TRANSFORMS
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from .. import safe_loading
from ..building import building, visit
from ..card import Card, describe, read_card, training_data
from ..config_bases import find_config
from ..errors import SetupError
from .safe_building import MemoryLimit, building_only_allowed

# Names in a state dict that may be missing or left over: counters, and constants that are not learnt.
NOT_LEARNT = ('num_batches_tracked', 'integral.project')
WEIGHTS = ('init_cfg', 'pretrained', 'teacher_ckpt')  # keys of a config that name weights to load or to download


class Loaded(NamedTuple):
    """A model in evaluation mode, and the card that describes it."""
    model: nn.Module
    card: Card


def load_model(checkpoint: str, config: Optional[str] = None, device: str = 'cpu', trust: bool = False,
               allow: Collection[type] = ()) -> Loaded:
    """Load a trained detector.

    Args:
        checkpoint: Path or URL.
        config: Path of the detector's config, or the name of a config of this package, for a checkpoint without a
            card. A config is Python and is executed, so it should be your own. It takes the place of the card.
        device: Where the model goes.
        trust: Whether to load the checkpoint with full pickle, which runs any code that the file asks for. What may be
            built from its card stays the same.
        allow: Registered classes of your own that the card may name.

    Raises:
        SetupError: The checkpoint is not there, damaged or does not fit its card or config, its card asks for what a
            card may not ask for, or it has no card and there is no config. Or the config is not there, or cannot be
            built.
        UnsafeCheckpointError: The file needs more than data to be loaded.
    """
    content = _load(checkpoint, trust)
    state = _state_dict(content, checkpoint)
    if config is not None:
        model, card = _build_from_config(config, content, checkpoint)
    else:
        card = read_card(content, checkpoint)
        if card is None:
            raise SetupError(f'{checkpoint} does not say how to build its model, as checkpoints of older releases and '
                             'of MMDetection do not. Give its config beside it: --config CONFIG, or config=CONFIG in '
                             'Python')
        model = _build_from_card(card, state, checkpoint, allow)
    _require_classes(model, card, checkpoint)
    _fill(model, state, checkpoint)
    return Loaded(model.to(device).eval(), card)


def build_transforms(pipeline: Sequence[dict], source: str, allow: Optional[Collection[type]] = ()) -> List[Any]:
    """Build the transforms of a card's ``pipeline``.

    Args:
        source: Name of the checkpoint, for the message.
        allow: Classes that are allowed besides those that every card may name; None allows everything, for a pipeline
            that comes from the user's own config.

    Raises:
        SetupError: A transform is not allowed, or refuses its arguments.
    """
    guard = contextlib.nullcontext() if allow is None else building_only_allowed(source, allow)
    with guard, _explaining(source), DefaultScope.overwrite_default_scope('mmdet'):
        return [TRANSFORMS.build(_with_tuples(step)) for step in pipeline]


# ---- the file ----

def _load(checkpoint: str, trust: bool) -> dict:
    try:
        with safe_loading.trusting(checkpoint) if trust else contextlib.nullcontext():
            return safe_loading.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    except (SetupError, safe_loading.UnsafeCheckpointError):
        raise
    except Exception as error:  # unexpected bytes make readers raise errors of many kinds
        raise SetupError(f'{checkpoint} cannot be read ({_first_line(error)}). Copy or download it again') from error


def _state_dict(content: dict, checkpoint: str) -> Dict[str, Tensor]:
    state = content.get('state_dict', content)
    if not isinstance(state, dict) or not state or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise SetupError(f'{checkpoint} has no state_dict that holds tensors by their names')
    return {key.removeprefix('module.'): value for key, value in state.items()}


# ---- building ----

def _build_from_card(card: Card, state: Dict[str, Tensor], checkpoint: str, allow: Collection[type]) -> nn.Module:
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in state.values()}
    # Constructors also build what they drop, and constants: the configs of this project need up to 1.9 times the bytes
    # and 3 times the tensors of their weights.
    limit = MemoryLimit(checkpoint, 4 * sum(stored.values()) + 2**26, 10 * len(state) + 1000)
    with building_only_allowed(checkpoint, allow), _explaining(checkpoint), limit:
        model = _build(card.model, 'mmdet')
    build_transforms(card.pipeline, checkpoint, allow)  # so that a bad card fails here, and not at the first image
    return model


def _build_from_config(name: str, content: dict, checkpoint: str) -> Tuple[nn.Module, Card]:
    config, known = _read_config(name), _usable_card(content, checkpoint)
    try:
        card = describe(config, ())
    except SetupError as error:
        raise SetupError(f'{name} is not the config of a detector: {error}') from None
    # Unlike the card's, this model config still has train_cfg: MMDetection's two-stage detectors need it.
    model_config = copy.deepcopy(config.model)
    visit(model_config, _drop_weights)
    with building('a model', config):
        model = _build(model_config, config.get('default_scope') or 'mmdet')
    return model, card._replace(classes=_class_names(config, content, _num_classes(model)),
                                score_thr=known and known.score_thr, calibration=known and known.calibration,
                                trained_on=known.trained_on if known else training_data(config))


def _read_config(name: str) -> Config:
    file = find_config(name)
    try:
        return Config.fromfile(file)
    except Exception as error:  # a Python config can raise anything
        raise SetupError(f'The config {name} cannot be read: {type(error).__name__}: {error}') from error


def _usable_card(content: dict, checkpoint: str) -> Optional[Card]:
    """Read the card of a checkpoint; None if there is no card, or none that can be used."""
    with contextlib.suppress(SetupError):
        return read_card(content, checkpoint)
    return None


def _drop_weights(node: ConfigDict) -> None:
    """Set the keys that name weights to None. Without a key, a constructor could download by default."""
    node.update({key: None for key in WEIGHTS if node.get(key)})


def _build(model: dict, scope: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]), DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(ConfigDict(model))


@contextlib.contextmanager
def _explaining(checkpoint: str):
    """Raise a SetupError in place of whatever a constructor makes of a wrong card."""
    try:
        yield
    except SetupError:
        raise
    except Exception as error:
        raise SetupError(f'What the card of {checkpoint} describes cannot be built ({type(error).__name__}: '
                         f'{_first_line(error)})') from error


def _with_tuples(node: Any) -> Any:
    """Put tuples back in the place of JSON's lists: transforms ask for them."""
    if isinstance(node, dict):
        return {key: _with_tuples(value) for key, value in node.items()}
    return tuple(map(_with_tuples, node)) if isinstance(node, list) else node


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


# ---- classes and weights ----

def _num_classes(model: nn.Module) -> Optional[int]:
    counts = [module.num_classes for name, module in model.named_modules()
              if name.endswith('bbox_head') and hasattr(module, 'num_classes')]
    return counts[0] if counts else None


def _class_names(config: Config, content: dict, count: Optional[int]) -> List[str]:
    """The names of the config's test data, or else of the checkpoint, of COCO, or numbers."""
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    meta = content.get('meta') if isinstance(content.get('meta'), dict) else {}
    data_meta = meta.get('dataset_meta') if isinstance(meta.get('dataset_meta'), dict) else {}
    for names in ((dataset.get('metainfo') or {}).get('classes'), data_meta.get('classes'), meta.get('CLASSES')):
        if isinstance(names, (list, tuple)) and names:
            return [str(name) for name in names]
    if count == len(CocoDataset.METAINFO['classes']):
        return list(CocoDataset.METAINFO['classes'])
    return [f'class {index}' for index in range(count or 0)]


def _require_classes(model: nn.Module, card: Card, checkpoint: str) -> None:
    count = _num_classes(model)
    if count is not None and count != len(card.classes):
        raise SetupError(f'{checkpoint}: the model has {count} classes, and there are {len(card.classes)} names of '
                         'classes')


def _fill(model: nn.Module, state: Dict[str, Tensor], checkpoint: str) -> None:
    """Load the weights. All of them must fit."""
    wanted = {key: value for key, value in model.state_dict().items() if _is_learnt(key)}
    given = {key: value for key, value in state.items() if _is_learnt(key)}
    problems = {'missing': sorted(wanted.keys() - given.keys()),
                'unknown to the model': sorted(given.keys() - wanted.keys()),
                'of another shape': sorted(key for key in wanted.keys() & given.keys()
                                           if wanted[key].shape != given[key].shape)}
    parts = [f'{len(keys)} keys are {what}, the first is {keys[0]}' for what, keys in problems.items() if keys]
    if parts:
        raise SetupError(f'The weights in {checkpoint} do not fit the model ({len(wanted)} keys): {"; ".join(parts)}')
    model.load_state_dict(given, strict=False)


def _is_learnt(key: str) -> bool:
    return not key.endswith(NOT_LEARNT) and not key.startswith('data_preprocessor.')
