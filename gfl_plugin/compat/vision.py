"""torchvision, where it is absent or was built for another PyTorch. Importing the latter raises RuntimeError.

MMEngine imports torchvision for two purposes. It logs torchvision's version, so a broken one ends every run. And it
looks up where the weights of ``torchvision://`` are, although MMEngine's own table is enough for that.
"""
import functools
import importlib
import os
import sys
from typing import Callable, Dict, Optional, Tuple

import mmengine
import torch
from mmengine.runner import checkpoint
from mmengine.utils import dl_utils

from .. import patches

_collect_env, _get_torchvision_models = dl_utils.collect_env, checkpoint.get_torchvision_models
# The smallest call of each operator. torchvision may import although its compiled part is missing.
TRIALS: Dict[str, Callable] = dict(
    roi_align=lambda operator, one: operator(one, one.new_tensor([[0, 0, 0, 1, 1]]), (1, 1), 1.0, 1, True),
    deform_conv2d=lambda operator, one: operator(one, one.new_zeros(1, 2, 1, 1), one))


@functools.lru_cache(maxsize=None)
def find_operator(name: str, device: str) -> Tuple[Optional[Callable], Optional[Exception]]:
    """An operator of torchvision that runs on this type of device; or None, and the error that says why."""
    try:
        operator = getattr(importlib.import_module('torchvision.ops'), name)
        with torch.no_grad():
            TRIALS[name](operator, torch.ones(1, 1, 1, 1, device=device))
    except Exception as error:  # ImportError if it is absent, RuntimeError if it does not fit, and others
        return None, error
    return operator, None


def collect_env() -> Dict[str, str]:
    """MMEngine's report of the environment, without torchvision if that does not import."""
    try:
        return _collect_env()
    except RuntimeError:
        before = sys.modules.get('torchvision')
        sys.modules['torchvision'] = None  # this is how Python marks a module that is not installed
        try:
            return _collect_env()
        finally:
            del sys.modules['torchvision']
            if before is not None:
                sys.modules['torchvision'] = before


def get_torchvision_models() -> Dict[str, str]:
    """The URLs of torchvision's weights, from MMEngine's own table if torchvision does not import."""
    try:
        return _get_torchvision_models()
    except (ImportError, RuntimeError):
        return mmengine.load(os.path.join(os.path.dirname(mmengine.__file__), 'hub', 'torchvision_0.12.json'))


def install() -> None:
    patches.replace_everywhere(_collect_env, collect_env)
    patches.replace_everywhere(_get_torchvision_models, get_torchvision_models)
