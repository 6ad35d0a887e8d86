"""``_base_ = 'package::config.py'`` without pkg_resources, for this package too.

MMEngine 0.10.7 asks pkg_resources where a package is, and setuptools >= 81 no longer brings that module; neither line
finds a package that was installed in development mode, or knows any but OpenMMLab's.
"""
import importlib.util
import os
import sys
from importlib import metadata


def is_installed(package: str) -> bool:
    """Whether a distribution or a module of that name is installed."""
    try:
        metadata.distribution(package)
        return True
    except metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(package)
        return spec is not None and spec.origin is not None


def get_installed_path(package: str) -> str:
    """The folder of an installed package, given by the name of its distribution or its module."""
    candidates = [package]
    with_files = metadata.distribution(package).read_text('top_level.txt') if _is_distribution(package) else None
    candidates += (with_files or '').split()
    for name in candidates:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is not None and spec.origin is not None:
            return os.path.dirname(spec.origin)
    raise metadata.PackageNotFoundError(f'Package {package} is not installed')


def _is_distribution(package: str) -> bool:
    try:
        return bool(metadata.distribution(package))
    except metadata.PackageNotFoundError:
        return False


def install() -> None:
    """Replace MMEngine's two functions wherever it has imported them, and let it look into this package."""
    from mmengine.config import utils
    utils.MODULE2PACKAGE.setdefault('gfl_plugin', 'gfl_plugin')
    for replacement in (is_installed, get_installed_path):
        for name, module in list(sys.modules.items()):
            if name.startswith('mmengine') and hasattr(module, replacement.__name__):
                setattr(module, replacement.__name__, replacement)
