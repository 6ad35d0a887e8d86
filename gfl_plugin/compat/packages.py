"""Where an installed package is, without pkg_resources.

MMEngine 0.10.7 asks pkg_resources, which setuptools >= 81 no longer has. So ``_base_ = 'mmdet::...'`` fails there.
"""
import importlib.util
import os
from importlib import metadata

from mmengine.utils import package_utils

from .. import patches

_is_installed, _get_installed_path = package_utils.is_installed, package_utils.get_installed_path


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
    patches.replace_everywhere(_is_installed, is_installed)
    patches.replace_everywhere(_get_installed_path, get_installed_path)
