"""torchvision, where it is absent or was built for another PyTorch. Importing the latter raises RuntimeError.

MMEngine imports torchvision for two purposes. It logs torchvision's version, so a broken one ends every run. And it
looks up where the weights of ``torchvision://`` are, although MMEngine's own table is enough for that. timm imports
torchvision too.
"""
import functools
import importlib
import os
import re
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

# torchvision asks PyTorch for these two operators while it is imported, even if its compiled part does not load.
MISSED_SCHEMAS: Dict[str, str] = {
    'nms': 'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms': 'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'}
_defined = []  # PyTorch forgets an operator once the library that defined it is gone


def define_missed_operators() -> None:
    """Make torchvision importable beside a PyTorch that its compiled part does not fit.

    timm imports torchvision, and calls none of its operators. If the import fails only because an operator does not
    exist, this function defines the schemas of the operators in :data:`MISSED_SCHEMAS`, and the next import succeeds.
    The operators still do nothing: whoever calls one gets torchvision's own error. This function changes nothing if
    torchvision imports by itself, is absent, or fails for any other reason.
    """
    try:
        importlib.import_module('torchvision')
    except ImportError:  # whoever needs it says so
        return
    except RuntimeError as error:
        if not re.search(r'operator torchvision::\w+ does not exist', str(error)):
            return
        library = torch.library.Library('torchvision', 'FRAGMENT')
        for name, schema in MISSED_SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                library.define(schema)
        _defined.append(library)


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
