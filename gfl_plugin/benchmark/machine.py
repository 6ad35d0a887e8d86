"""What a figure depends on: the device, the versions, the speed of a copy."""
import importlib.util
import os
import platform
import statistics
from importlib import metadata
from typing import Dict

import torch

from ..compat import ops
from ..losses import fused_class_loss as fused
from .timing import in_turn


def describe_machine(device: str) -> Dict[str, str]:
    """Describe the device and the installed versions, by name."""
    import mmcv
    import mmdet
    name = (torch.cuda.get_device_name(device) if device.startswith('cuda')
            else f'{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} threads')
    mmcv_ops = 'with the stand-ins of this plugin' if ops.are_installed() else 'with compiled ops'
    machine = {'device': name, 'torch': torch.__version__, 'mmcv': f'{mmcv.__version__} {mmcv_ops}',
               'mmdet': mmdet.__version__, 'a copy': f'{copy_bandwidth(device) / 1e9:.0f} GB/s, read and written'}
    if device.startswith('cuda'):
        machine['cuda'] = _describe_cuda()
    return machine


def _describe_cuda() -> str:
    has_triton = importlib.util.find_spec('triton') is not None
    triton = metadata.version('triton') if has_triton else 'none'
    is_used = 'used' if has_triton and fused.USE_TRITON else 'not used'
    convolutions = 'TF32' if torch.backends.cudnn.allow_tf32 else 'fp32'
    return (f'{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, triton {triton}, {is_used}; '
            f'convolutions in {convolutions} where not in bf16')


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes. No pass over memory is faster."""
    source = torch.zeros(1 << (30 if device.startswith('cuda') else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    pairs = in_turn(lambda: target.copy_(source), lambda: None, 10, device)
    return 2 * source.numel() / statistics.median(pairs.ours)
