"""Build from the user's own config, and report a mistake in it as one."""
import contextlib
import re
import sys
import traceback
from typing import Any, Callable, Iterator, Optional, Set

from mmengine.config import Config, ConfigDict

from .errors import SetupError

# Packages that read a config, and packages that they call. Whatever else is on the stack of an error is the user's.
FRAMEWORK = {'gfl_plugin', 'mmengine', 'mmcv', 'mmdet'}
LIBRARIES = {'torch', 'torchvision', 'timm', 'numpy', 'cv2', 'PIL', 'yaml', 'pycocotools', 'faster_coco_eval',
             *sys.stdlib_module_names}


@contextlib.contextmanager
def building(what: str, config: Optional[Config] = None) -> Iterator[None]:
    """Raise a SetupError in place of an error that is about a value or a name in the config.

    Other errors are bugs, of this program or of a user's module, and keep their traceback.

    Args:
        what: What is built.
        config: The config of the run.
    """
    try:
        yield
    except SetupError:
        raise
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        message = str(error.args[0]) if error.args else ''
        if not _is_about_the_config(error, message, config):
            raise
        raise SetupError(f'The config does not give {what}: {message}') from error


def _is_about_the_config(error: Exception, message: str, config: Optional[Config]) -> bool:
    if _is_raised_by_the_user(error):  # a bug, unless the user's class hands an option of the config on to its base
        option = re.search(r"unexpected keyword argument '(\w+)'", message)
        return option is not None and option[1] in _names(config)
    if isinstance(error, TypeError):  # "got an unexpected keyword argument 'max_epoch'", "loop should be a dict"
        return re.search(r'\bargument|should be|must be', message) is not None
    if isinstance(error, (KeyError, AssertionError)):  # "Foo is not in the model registry"; not a key that is missing
        return ' ' in message
    return True


def _is_raised_by_the_user(error: Exception) -> bool:
    """Whether an error was raised by a module of the user's own, or by a library that this module called."""
    modules = [frame.f_globals.get('__name__', '') for frame, _ in traceback.walk_tb(error.__traceback__)]
    callers = [package for module in modules if (package := module.partition('.')[0]) not in LIBRARIES]
    return callers[-1] not in FRAMEWORK  # the first of them is this package


def _names(config: Optional[Config]) -> Set[str]:
    """All keys of a config, at any depth."""
    names: Set[str] = set()
    visit(config, names.update)
    return names


def visit(node: Any, act: Callable[[ConfigDict], None]) -> None:
    """Call ``act`` on a node and on every dict below it. The node may be a whole config."""
    if isinstance(node, (dict, Config)):  # MMEngine's Config is no dict
        act(node)
        node = node.values()
    if not isinstance(node, str):
        for child in node if hasattr(node, '__iter__') else ():
            visit(child, act)
