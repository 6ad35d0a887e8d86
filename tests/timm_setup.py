"""timm on a CPU-only PyTorch: it imports torchvision, which then misses the operators that it was compiled with."""
import importlib.util

import pytest
import torch

SCHEMAS = ('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
           'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
_kept = []  # a library's definitions live as long as it does


def need_timm() -> None:
    """Skip a test where timm is not installed, and let it import where it is."""
    if importlib.util.find_spec('timm') is None or importlib.util.find_spec('torchvision') is None:
        pytest.skip('needs timm and torchvision, each installed without dependencies')
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library('torchvision', 'DEF')
        for schema in SCHEMAS:
            library.define(schema)
        _kept.append(library)
