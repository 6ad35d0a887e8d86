"""torchvision where it is absent or was built for another PyTorch, when importing it raises RuntimeError.

MMEngine imports it to log its version, which beside a broken one is the end of every run, and to look up where weights
of ``torchvision://`` are, for which the table that it brings is enough.
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

# The smallest call of an operator: where torchvision imports, its compiled part may still be missing.
TRIALS: Dict[str, Callable] = dict(
    roi_align=lambda operator, one: operator(one, one.new_tensor([[0, 0, 0, 1, 1]]), (1, 1), 1.0, 1, True),
    deform_conv2d=lambda operator, one: operator(one, one.new_zeros(1, 2, 1, 1), one))


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
