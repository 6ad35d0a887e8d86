"""Which MMDetection stack is installed, and whether it is one that was tested."""
import importlib
import warnings
from importlib import metadata
from typing import Any, Dict, Tuple

# Installs what the extra `onedl` of pyproject.toml installs, but works without a clone.
GET_STACK = ('pip install onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 onedl-mmdetection==3.5.1   '
             '(the maintained line; in a clone `make env` does it, the headless OpenCV included)')

# For each module the first supported version and the first unsupported one. constraints.txt has the tested ones.
SUPPORTED: Dict[str, Tuple[str, str]] = {
    'mmengine': ('0.10.3', '0.11'),
    'mmcv': ('2.1.0', '2.4'),
    'mmdet': ('3.3.0', '3.6'),
}
# Distributions that install the same files. If two are installed, the later one has overwritten the earlier one.
RIVALS = (('mmengine', 'onedl-mmengine'), ('mmcv', 'mmcv-lite', 'onedl-mmcv'), ('mmdet', 'onedl-mmdetection'))

_warned = False


def _installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
        return True
    except metadata.PackageNotFoundError:
        return False


def require() -> None:
    """Import the stack, or say how to get one. Warn once about versions that were not tested.

    Raises:
        ImportError: A part of the stack is missing or does not import.
    """
    for module in SUPPORTED:
        try:
            importlib.import_module(module)
        except Exception as error:  # mmdet checks its companions with `assert`, OpenCV's libraries raise OSError
            raise ImportError(_diagnosis(module, error)) from error
    _warn_untested()


def import_datasets() -> None:
    """Import ``mmdet.datasets`` without the two lines by which the maintained line says that it has no OneDL.

    Those lines are debug messages, but they name no logger, and so MMEngine prints them whatever their level. Nobody
    can turn them off, and they would precede every output, JSON included. MMEngine's ``print_log`` itself stays: what
    changes, for the time of this import, is the ``print`` that its module finds.
    """
    logger: Any = importlib.import_module('mmengine.logging.logger')
    logger.print = _print_unless_onedl
    try:
        importlib.import_module('mmdet.datasets')
    finally:
        del logger.print


def _print_unless_onedl(message: object) -> None:
    if not str(message).startswith('Could not import OneDL'):
        print(message)


def _diagnosis(module: str, error: Exception) -> str:
    overwritten = [', '.join(found) for rivals in RIVALS if len(found := [d for d in rivals if _installed(d)]) > 1]
    if overwritten:
        return (f'gfl_plugin cannot import {module} ({error}): these distributions overwrite each other\'s files: '
                f'{"; ".join(overwritten)}. Uninstall all of them, then: {GET_STACK}')
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return f'gfl_plugin needs MMDetection, and {module} is not installed. One command gets a stack: {GET_STACK}'
    if 'libGL' in str(error) or 'libgthread' in str(error):
        return (f'gfl_plugin cannot import {module}: OpenCV needs a library of the desktop ({error}). '
                'The headless build does not: pip uninstall -y opencv-python opencv-python-headless && '
                'pip install "opencv-python-headless<4.13"')
    return (f'gfl_plugin cannot import {module}, the installation is broken ({error}). '
            f'A fresh environment and: {GET_STACK}')


def _warn_untested() -> None:
    from mmengine.utils import digit_version
    global _warned
    untested = [f'{module} {found} (supported: >={low}, <{high})' for module, (low, high) in SUPPORTED.items()
                if not digit_version(low) <= digit_version(found := importlib.import_module(module).__version__) <
                digit_version(high)]
    if untested and not _warned:
        _warned = True
        warnings.warn(f'gfl_plugin was not tested with {"; ".join(untested)}', stacklevel=3)
