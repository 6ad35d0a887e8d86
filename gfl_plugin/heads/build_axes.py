"""Build what a config chooses on the axes of the head: quality, box and assigner."""
import inspect
from typing import List, Union

from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmdet.utils import ConfigType, OptConfigType
from mmengine.registry import Registry
from torch import nn

from ..box import Box
from ..errors import SetupError
from ..registry import TASK_UTILS


def choose_kind(axis: str, given: Union[OptConfigType, str], default: str, **shorthand) -> ConfigType:
    """The config of a kind: the given one, or the default kind with the head's own arguments for it.

    Args:
        axis: Name of the axis, for the error.
        given: Config of a kind, its type alone, or ``None`` for the default.
        default: Type of the default.
        shorthand: Arguments of the default kind that the head accepts in its place; ``None`` if not given.

    Raises:
        SetupError: A kind is given together with arguments of the default, which would have no effect; a base config
            may have left them. Or what is given is no kind at all.
    """
    shorthand = {name: value for name, value in shorthand.items() if value is not None}
    if given is None:
        return dict(type=default, **shorthand)
    given = dict(type=given) if isinstance(given, str) else given
    if not isinstance(given, dict):
        raise SetupError(f'{axis}={given!r} is neither the name of a kind nor dict(type=NAME, ...)')
    if shorthand:
        names, kind = ', '.join(shorthand), given.get('type')
        raise SetupError(f'{names} of the head configure its default {axis}, {default}, but {axis}=dict(type={kind!r}, '
                         f'...) is given. Set them there, if {kind} takes them, and set '
                         f'{", ".join(f"{name}=None" for name in shorthand)} where a base config has them')
    return given


def build_kind(registry: Registry, config: ConfigType) -> nn.Module:
    """Build a kind from its config, by its name with or without the scope of the registry.

    Raises:
        SetupError: There is no such kind, or it takes no such argument. The message lists those that exist.
    """
    arguments = {name: value for name, value in config.items() if name not in ('type', '_scope_')}
    kinds, name = registry.module_dict, str(config.get('type')).removeprefix(f'{registry.scope}.')
    if name not in kinds:
        raise SetupError(f'There is no {registry.name} {str(config.get("type"))!r}; there are '
                         f'{", ".join(sorted(kinds))}')
    try:
        inspect.signature(kinds[name]).bind(**arguments)
    except TypeError as error:
        takes = {kind: inspect.signature(kinds[kind]).parameters.keys() for kind in sorted(kinds)}
        surplus = arguments.keys() - takes[name]
        others = [kind for kind in takes if surplus and surplus <= takes[kind]]
        raise SetupError(f'The {registry.name} {name} {error}; it takes {", ".join(takes[name])}'
                         + (f'. {", ".join(sorted(surplus))} is of {", ".join(others)}' if others else '')) from error
    return kinds[name](**arguments)


def require_distributions(box: Box, test_cfg: OptConfigType) -> None:
    """Check that the box predicts the distributions that ``test_cfg`` asks for.

    Raises:
        SetupError: It does not.
    """
    for key, method in (('uncertainty', 'spread'), ('distributions', 'distribution')):
        if test_cfg and test_cfg.get(key) and getattr(type(box), method) is getattr(Box, method):
            raise SetupError(f'test_cfg.{key}=True needs a box that predicts how far each side can be trusted, and '
                             f'box={type(box).__name__} predicts one place for it: train with box=GeneralDistribution '
                             f'or box=GaussianDistribution, or set test_cfg.{key}=False')


def require_assigner(config: ConfigType) -> None:
    """Check that ``train_cfg.assigner`` names a registered assigner, the plugin's or MMDetection's.

    Raises:
        SetupError: There is none of this name. The message lists those that exist.
    """
    kind = config.get('type') if isinstance(config, dict) else None
    if kind is None:
        raise SetupError(f'train_cfg.assigner={config!r} is not dict(type=NAME, ...)')
    known = MMDET_TASK_UTILS.get(kind) if isinstance(kind, str) else kind
    if not (hasattr(known, 'match') or hasattr(known, 'assign')):
        raise SetupError(f'There is no assigner {kind!r} (train_cfg.assigner); there are '
                         f'{", ".join(_assigners(TASK_UTILS, "gfl_plugin."))}, and MMDetection\'s '
                         f'{", ".join(_assigners(MMDET_TASK_UTILS))}')


def _assigners(registry: Registry, scope: str = '') -> List[str]:
    return [f'{scope}{name}' for name in sorted(registry.module_dict) if name.endswith('Assigner')]
