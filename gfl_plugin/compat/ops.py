"""Stand-ins for mmcv's compiled operators, ``mmcv._ext``, for an mmcv that was installed without them.

``mmcv.ops`` asks that module for some 150 functions by name when it is imported. A GFL detector calls two or three of
them. :func:`install` puts a module there that answers every name. It implements the operators below. Every other one
raises an error that names the operator. A compiled mmcv always wins.
"""
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Callable, Dict

import torch
from torch import Tensor

from .. import patches
from ..functional.nms import greedy_nms
from .deform_conv import deform_conv2d
from .vision import find_operator

NAME = 'mmcv._ext'
GET_COMPILED = ('mmcv compiled with its operators has it: '
                '`MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0` '
                '(needs a C++ compiler and, for CUDA, nvcc; see https://mmcv.readthedocs.io)')

IMPLEMENTED: Dict[str, Callable] = {}


def implements(function: Callable) -> Callable:
    IMPLEMENTED[function.__name__] = function
    return function


class Stub(ModuleType):
    """The module that answers for ``mmcv._ext``."""

    def __getattr__(self, name: str) -> Callable:
        # pickle, inspect and doctest ask a module for dunder names. No operator has one.
        if name.startswith('__'):
            raise AttributeError(name)

        def unavailable(*args, **kwargs):
            raise NotImplementedError(f'mmcv operator `{name}` is not available: this mmcv was installed without '
                                      f'compiled operators and gfl_plugin has no stand-in for it. {GET_COMPILED}')

        unavailable.__name__ = name
        setattr(self, name, unavailable)
        return unavailable


def install() -> None:
    """Install the stand-ins, unless a compiled mmcv or an earlier call provides ``mmcv._ext``."""
    if NAME in sys.modules or importlib.util.find_spec(NAME) is not None:
        return
    stub = sys.modules[NAME] = Stub(NAME, __doc__)
    # MMEngine asks pkgutil for the loader of mmcv._ext. Without a spec that raises ValueError.
    stub.__spec__ = ModuleSpec(NAME, loader=None, origin=__name__)
    vars(stub).update(IMPLEMENTED)
    patches.on_undo(lambda: sys.modules.pop(NAME))


def are_installed() -> bool:
    """Whether mmcv's operators are the stand-ins."""
    return isinstance(sys.modules.get(NAME), Stub)


@implements
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    return greedy_nms(boxes, scores, iou_threshold, offset)


@implements
def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float, min_score: float,
            method: int, offset: int) -> Tensor:
    """Soft-NMS (arXiv:1704.04503). ``method`` is 0 plain, 1 linear, 2 Gaussian. ``dets`` gets the boxes and scores."""
    left, scores = torch.arange(len(boxes)), scores.clone()
    areas = (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)
    chosen = []
    while left.numel():
        best = left[scores[left].argmax()]
        dets[len(chosen), :4], dets[len(chosen), 4] = boxes[best], scores[best]
        chosen.append(best)
        left = left[left != best]
        top_left = torch.maximum(boxes[best, :2], boxes[left, :2])
        bottom_right = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        intersection = (bottom_right - top_left + offset).clamp(min=0).prod(1)
        iou = intersection / (areas[best] + areas[left] - intersection)
        if method == 2:
            weight = torch.exp(-iou * iou / sigma)
        else:
            weight = torch.where(iou >= iou_threshold, 1 - iou if method == 1 else torch.zeros_like(iou),
                                 torch.ones_like(iou))
        scores[left] *= weight
        left = left[scores[left] >= min_score]
    return torch.stack(chosen) if chosen else torch.empty(0, dtype=torch.long)


def _focal_parts(input: Tensor, target: Tensor):
    p = input.sigmoid()
    tiny = torch.finfo(torch.float32).tiny
    is_target = target[:, None] == torch.arange(input.shape[1], device=input.device)
    return p, p.clamp(min=tiny).log(), (1 - p).clamp(min=tiny).log(), is_target


@implements
def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Write the focal loss (arXiv:1708.02002, eq. 5) of (N, C) logits to ``output``. Label C is background."""
    p, log_p, log_q, is_target = _focal_parts(input, target)
    output.copy_(torch.where(is_target, -alpha * (1 - p)**gamma * log_p, -(1 - alpha) * p**gamma * log_q))
    if weight.numel():
        output.mul_(weight[target][:, None])


@implements
def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    p, log_p, log_q, is_target = _focal_parts(input, target)
    at_target = -alpha * (1 - p)**gamma * (1 - p - gamma * p * log_p)
    elsewhere = -(1 - alpha) * p**gamma * (gamma * (1 - p) * log_q - p)
    grad_input.copy_(torch.where(is_target, at_target, elsewhere))
    if weight.numel():
        grad_input.mul_(weight[target][:, None])


def _roi_align(input: Tensor, *arguments) -> Tensor:
    roi_align, reason = find_operator('roi_align', input.device.type)
    if roi_align is None:
        raise NotImplementedError(
            'mmcv operator `roi_align` is not available: this mmcv was installed without compiled operators, and '
            f'torchvision, whose roi_align would serve, does not run here ({reason}). '
            f'Install the torchvision that matches this PyTorch, or: {GET_COMPILED}') from reason
    return roi_align(input, *arguments)


def _deform_conv2d(input: Tensor, *arguments, **geometry) -> Tensor:
    return (find_operator('deform_conv2d', input.device.type)[0] or deform_conv2d)(input, *arguments, **geometry)


@implements
def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
                      aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                      pool_mode: int, aligned: bool) -> None:
    if pool_mode != 1:
        raise NotImplementedError(f'mmcv operator `roi_align` with max pooling is not available. {GET_COMPILED}')
    output.copy_(_roi_align(input, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned))


@implements
def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor,
                       aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                       pool_mode: int, aligned: bool) -> None:
    # Average pooling is linear in its input, so its gradient is the same at any input.
    with torch.enable_grad():
        input = torch.zeros_like(grad_input, requires_grad=True)
        output = _roi_align(input, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    grad_input.copy_(torch.autograd.grad(output, input, grad_output)[0])


def _deform_gradients(tensors, grad_output: Tensor, **geometry):
    """Gradients of deform_conv2d for (input, offset, weight, bias, mask). The gradient of None is None."""
    with torch.enable_grad():
        leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
        input, offset, weight, bias, mask = leaves
        output = _deform_conv2d(input, offset, weight, bias, mask=mask, **geometry)
    gradients = iter(torch.autograd.grad(output, [t for t in leaves if t is not None], grad_output))
    return [None if t is None else next(gradients) for t in leaves]


def _geometry_v1(dW, dH, padW, padH, dilationW, dilationH) -> dict:
    return dict(stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW))


@implements
def deform_conv_forward(input, weight, offset, output, columns, ones, kW, kH, dW, dH, padW, padH, dilationW, dilationH,
                        group, deformable_group, im2col_step) -> None:
    geometry = _geometry_v1(dW, dH, padW, padH, dilationW, dilationH)
    output.copy_(_deform_conv2d(input, offset, weight, **geometry))


@implements
def deform_conv_backward_input(input, offset, grad_output, grad_input, grad_offset, weight, columns, kW, kH, dW, dH,
                               padW, padH, dilationW, dilationH, group, deformable_group, im2col_step) -> None:
    geometry = _geometry_v1(dW, dH, padW, padH, dilationW, dilationH)
    gradients = _deform_gradients((input, offset, weight, None, None), grad_output, **geometry)
    grad_input.copy_(gradients[0])
    grad_offset.copy_(gradients[1])


@implements
def deform_conv_backward_parameters(input, offset, grad_output, grad_weight, columns, ones, kW, kH, dW, dH, padW, padH,
                                    dilationW, dilationH, group, deformable_group, scale, im2col_step) -> None:
    # The convolution is linear in the weight, so the gradient of the weight is the same at any weight.
    geometry = _geometry_v1(dW, dH, padW, padH, dilationW, dilationH)
    gradients = _deform_gradients((input, offset, torch.zeros_like(grad_weight), None, None), grad_output, **geometry)
    grad_weight.add_(gradients[2], alpha=scale)


def _geometry_v2(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w) -> dict:
    return dict(stride=(stride_h, stride_w), padding=(pad_h, pad_w), dilation=(dilation_h, dilation_w))


@implements
def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask, output, columns, kernel_h, kernel_w,
                                  stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group,
                                  with_bias) -> None:
    geometry = _geometry_v2(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
    output.copy_(_deform_conv2d(input, offset, weight, bias if with_bias else None, mask=mask, **geometry))


@implements
def modulated_deform_conv_backward(input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight,
                                   grad_bias, grad_offset, grad_mask, grad_output, kernel_h, kernel_w, stride_h,
                                   stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group,
                                   with_bias) -> None:
    geometry = _geometry_v2(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w)
    gradients = _deform_gradients((input, offset, weight, bias if with_bias else None, mask), grad_output, **geometry)
    for buffer, gradient in zip((grad_input, grad_offset, grad_weight, grad_bias, grad_mask), gradients):
        if gradient is not None:
            buffer.copy_(gradient)
