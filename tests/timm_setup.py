"""Make timm importable on a CPU-only PyTorch, where torchvision, which timm imports, lacks its operators."""
import importlib.util

import pytest
import torch

SCHEMAS = ('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
           'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
_kept = []  # PyTorch drops an operator's definition with its library


def need_timm() -> None:
    """Skip the test if timm is not installed; otherwise make timm importable."""
    if importlib.util.find_spec('timm') is None or importlib.util.find_spec('torchvision') is None:
        pytest.skip('needs timm and torchvision, each installed without dependencies')
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library('torchvision', 'DEF')
        for schema in SCHEMAS:
            library.define(schema)
        _kept.append(library)
