"""torchvision where it is absent, or where it was built for another PyTorch and raises RuntimeError when imported.

MMEngine imports torchvision to log its version, so a broken torchvision would end every run. MMEngine also imports it
to look up the URLs of ``torchvision://`` weights; MMEngine's own table of URLs is enough for that. timm imports it too.
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

# The smallest call of an operator: where torchvision imports, its compiled part may still be missing.
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
    """An operator of torchvision that runs on this type of device, or ``None`` and why there is none."""
    try:
        operator = getattr(importlib.import_module('torchvision.ops'), name)
        with torch.no_grad():
            TRIALS[name](operator, torch.ones(1, 1, 1, 1, device=device))
    except Exception as error:  # ImportError where it is absent, RuntimeError where it does not fit, ...
        return None, error
    return operator, None


def _collect_env_without_it(collect_env: Callable) -> Dict[str, str]:
    try:
        return collect_env()
    except RuntimeError:
        before = sys.modules.get('torchvision')
        sys.modules['torchvision'] = None  # as if it were not installed
        try:
            return collect_env()
        finally:
            del sys.modules['torchvision']
            if before is not None:
                sys.modules['torchvision'] = before


def _weights_without_it(get_torchvision_models: Callable) -> Dict[str, str]:
    try:
        return get_torchvision_models()
    except (ImportError, RuntimeError):
        return mmengine.load(os.path.join(os.path.dirname(mmengine.__file__), 'hub', 'torchvision_0.12.json'))


def install() -> None:
    """Replace the two functions of MMEngine wherever they have been imported."""
    for original, healed in ((dl_utils.collect_env, _collect_env_without_it),
                             (checkpoint.get_torchvision_models, _weights_without_it)):
        replacement = functools.wraps(original)(functools.partial(healed, original))
        for module_name, module in list(sys.modules.items()):
            for name, value in list(vars(module).items()) if module_name.startswith('mm') else ():
                if value is original:
                    setattr(module, name, replacement)
