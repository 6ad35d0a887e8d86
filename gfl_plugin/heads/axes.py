"""Which kind of each axis a head has."""
import inspect
from typing import Union

from mmdet.utils import ConfigType, OptConfigType
from mmengine.registry import Registry
from torch import nn

from ..errors import SetupError


def choose_kind(axis: str, given: Union[OptConfigType, str], default: str, **shorthand) -> ConfigType:
    """The config of a kind: the one given, or that of the default with the head's own arguments for it.

    Args:
        axis: Name of the axis, for the error.
        given: Config of a kind, or its type alone, or ``None`` for the default.
        default: Type of the default.
        shorthand: Arguments of the default kind that the head takes in its place; ``None`` for not given.

    Raises:
        SetupError: A kind and arguments of the default: left over from a base config, they would be of no effect. Or
            what is given is no kind at all.
    """
    shorthand = {name: value for name, value in shorthand.items() if value is not None}
    if given is None:
        return dict(type=default, **shorthand)
    given = dict(type=given) if isinstance(given, str) else given
    if not isinstance(given, dict):
        raise SetupError(f'{axis}={given!r} is neither the name of a kind nor dict(type=NAME, ...)')
    if shorthand:
        names, kind = ', '.join(shorthand), given.get('type')
        raise SetupError(f'{names} of the head say how its default {axis}, {default}, is, and {axis}=dict(type={kind!r}'
                         f', ...) is given: say it there, if {kind} takes it, and set '
                         f'{", ".join(f"{name}=None" for name in shorthand)} where a base config has it')
    return given


def build_kind(registry: Registry, config: ConfigType) -> nn.Module:
    """A kind from its config, by its name with or without the scope of the registry.

    Raises:
        SetupError: There is no such kind, or it takes no such argument; the message lists those there are.
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
