"""A Generalized Focal Loss detector for MMDetection (arXiv:2006.04388): ``gfl_plugin.GFLHead`` and what trains it.

Importing it heals the installed stack (:mod:`gfl_plugin.compat`) and registers the plugin's types, in that order.
"""
from . import limits
from .compat import stack

limits.limit_opencv()  # before the stack: OpenCV reads its limit when mmcv loads it
stack.require()

from . import safe_loading  # noqa: E402
from .compat import ops, packages, vision  # noqa: E402

ops.install()
safe_loading.install()
packages.install()
vision.install()

from . import assigners, backbones, box, datasets, evaluation, heads, hooks, losses, quality  # noqa: E402,F401  (registers them)
from .version import __version__  # noqa: E402,F401
