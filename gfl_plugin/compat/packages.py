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
    try:
        modules = (metadata.distribution(package).read_text('top_level.txt') or '').split()
    except metadata.PackageNotFoundError:
        modules = []
    for name in [package, *modules]:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is not None and spec.origin is not None:
            return os.path.dirname(spec.origin)
    raise metadata.PackageNotFoundError(f'Package {package} is not installed')


def install() -> None:
    """Replace MMEngine's two functions wherever it has imported them, and let it look into this package."""
    from mmengine.config import Config, utils
    utils.MODULE2PACKAGE.setdefault('gfl_plugin', 'gfl_plugin')
    find = Config._get_cfg_path

    def find_in_scope(*args):
        """MMEngine takes a package's name for the scope of its configs; this package's are written in MMDetection's."""
        path, scope = find(*args)
        return path, 'mmdet' if scope == 'gfl_plugin' else scope

    Config._get_cfg_path = staticmethod(find_in_scope)
    for replacement in (is_installed, get_installed_path):
        for name, module in list(sys.modules.items()):
            if name.startswith('mmengine') and hasattr(module, replacement.__name__):
                setattr(module, replacement.__name__, replacement)
