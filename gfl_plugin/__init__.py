"""A Generalized Focal Loss detector for MMDetection (arXiv:2006.04388): ``gfl_plugin.GFLHead`` and its losses.

The import registers the plugin's types, makes MMEngine load checkpoints weights-only, and stands in for mmcv's compiled
operators if they are missing. The README lists everything that it changes in other libraries.
"""
from . import limits
from .compat import stack

limits.limit_opencv()  # before the stack: OpenCV reads its limit when mmcv loads it
stack.require()

from . import config_bases, safe_loading  # noqa: E402
from .compat import ops  # noqa: E402

ops.install()  # before mmdet's models, which import mmcv's operators
safe_loading.install()
config_bases.install()
stack.import_datasets()

from . import assigners, backbones, box, datasets, evaluation, hooks, quality  # noqa: E402,F401  (registers the types)
from .config_bases import CONFIGS  # noqa: E402,F401
from .heads import DetTTAModel, GFLHead, GFLV2Head  # noqa: E402,F401
from .inference import Detector, Result  # noqa: E402,F401
from .losses import *  # noqa: E402,F401,F403
from .version import __version__  # noqa: E402,F401
