"""Deformable convolution in plain PyTorch, for machines where neither mmcv's nor torchvision's runs."""
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


def deform_conv2d(input: Tensor, offset: Tensor, weight: Tensor, bias: Optional[Tensor] = None,
                  stride: Tuple[int, int] = (1, 1), padding: Tuple[int, int] = (0, 0),
                  dilation: Tuple[int, int] = (1, 1), mask: Optional[Tensor] = None) -> Tensor:
    """Convolution whose samples are moved by offsets (arXiv:1703.06211) and weighted (arXiv:1811.11168, eq. 1).

    It has the arguments of ``torchvision.ops.deform_conv2d``. Each output cell has K = kh * kw samples. The number of
    groups of the weight, and of the offsets, follows from the shapes.

    Args:
        input: (B, I, H, W). Samples outside of it are 0.
        offset: (B, 2 * groups * K, H', W') pixels, y before x.
        weight: (O, I / groups, kh, kw).
        bias: (O,).
        mask: (B, groups * K, H', W'), 1 by default.

    Returns:
        (B, O, H', W').
    """
    (kh, kw), (height, width), size = weight.shape[2:], input.shape[2:], offset.shape[2:]
    groups, offset_groups = input.shape[1] // weight.shape[1], offset.shape[1] // (2 * kh * kw)
    images = len(input) * offset_groups  # each group of channels that shares offsets counts as an image
    dtype = torch.promote_types(input.dtype, torch.float32)  # fp16 would round the coordinates of large images
    offset = offset.to(dtype).reshape(images, kh, kw, 2, *size)
    y = offset[:, :, :, 0] + _sampled(0, kh, size, stride, padding, dilation, offset)[:, None, :, None]
    x = offset[:, :, :, 1] + _sampled(1, kw, size, stride, padding, dilation, offset)[:, None]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)  # -1 and 1 are the outer edges
    columns = F.grid_sample(input.to(dtype).reshape(images, -1, height, width),
                            grid.reshape(images, -1, size[1], 2), align_corners=False)
    if mask is not None:
        columns = columns * mask.to(dtype).reshape(images, 1, -1, size[1])
    columns = columns.to(input.dtype).reshape(len(input), groups, weight[0].numel(), size.numel())
    output = (weight.reshape(groups, -1, weight[0].numel()) @ columns).reshape(len(input), -1, *size)
    return output if bias is None else output + bias[:, None, None]


def _sampled(axis: int, taps: int, size: torch.Size, stride: Tuple[int, int], padding: Tuple[int, int],
             dilation: Tuple[int, int], like: Tensor) -> Tensor:
    """The pixels that a convolution without offsets samples along an axis, (taps, size[axis])."""
    tap, cell = (torch.arange(n, device=like.device, dtype=like.dtype) for n in (taps, size[axis]))
    return (tap * dilation[axis])[:, None] + cell * stride[axis] - padding[axis]
