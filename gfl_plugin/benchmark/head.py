"""The head alone, on random maps: its loss path, its class loss and its predictions."""
from typing import List, Sequence, Tuple

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import Tensor

from ..losses import fused_class_loss as fused
from ..losses.closed_form import ClassTargets
from .inputs import NUM_CLASSES, STRIDES, class_maps_with, normal_class_maps, random_maps, random_objects
from .nms import compare_nms
from .timing import Row, compare_memory, compare_times, in_turn, on_device, peak_memory


def compare_head(device: str, batch: int, size: Tuple[int, int], gts: Sequence[int], rounds: int,
                 amp: bool = False) -> List[Row]:
    """Measure the loss path, the class loss, prediction and NMS.

    Args:
        device: ``cpu`` or a CUDA device.
        batch: Number of images.
        size: Height and width of the images in pixels.
        gts: Numbers of objects an image. The loss path is measured with each of them.
        rounds: Pairs to measure.
        amp: Whether the class logits are bf16, as under autocast.
    """
    torch.manual_seed(0)
    heads = [MODELS.build(head_settings(stock)).to(device) for stock in (False, True)]
    dtype = torch.bfloat16 if amp else torch.float32
    scores = [m.requires_grad_() for m in normal_class_maps(-4.6, 0.7, batch, size, device, dtype)]
    sides = [m.requires_grad_() for m in random_maps(batch, size, 68, device)]  # fp32, as the head gives them
    rows = []
    for count in gts:
        rows += _compare_loss_paths(heads, scores, sides, random_objects(batch, size, count, device), rounds)
    rows += _compare_class_loss_with_a_copy(heads[0], scores, rounds)
    with torch.no_grad():
        rows += _compare_predictions(heads, sides, size, rounds)
        rows.append(compare_nms(rounds, device))
    return rows


def head_settings(stock: bool, num_classes: int = NUM_CLASSES) -> ConfigDict:
    """The head of the 1x config; if ``stock``, MMDetection's with MMDetection's losses and assigner."""
    scope = '' if stock else 'gfl_plugin.'
    return ConfigDict(
        type=f'{scope}GFLHead', num_classes=num_classes, in_channels=8, feat_channels=8, stacked_convs=0,
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1,
                              strides=list(STRIDES)),
        loss_cls=dict(type=f'{scope}QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type=f'{scope}DistributionFocalLoss', loss_weight=0.25), reg_max=16,
        loss_bbox=dict(type=f'{scope}GIoULoss', loss_weight=2.0),
        train_cfg=dict(assigner=dict(type=f'{scope}ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1,
                       debug=False),
        test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6),
                      max_per_img=100))


def _compare_loss_paths(heads, scores: List[Tensor], sides: List[Tensor], truth, rounds: int) -> List[Row]:
    """Losses and their gradients: time, and memory beyond the gradients."""
    objects, metas = truth
    device = str(scores[0].device)

    def run(head):
        losses = head.loss_by_feat(scores, sides, objects, metas)
        total = sum(v if isinstance(v, Tensor) else sum(v) for v in losses.values())
        torch.autograd.grad(total, [*scores, *sides])

    pairs = in_turn(*(lambda head=head: run(head) for head in heads), rounds, device)
    gradients = sum(m.numel() * m.element_size() for m in (*scores, *sides))
    extra = [peak_memory(lambda: run(head), device) - gradients for head in heads]
    return [compare_times(f'loss path, forward and backward, {len(objects[0])} objects an image', pairs),
            compare_memory('  peak memory beyond logits and gradients', *extra)]


def _compare_class_loss_with_a_copy(head, scores: List[Tensor], rounds: int) -> List[Row]:
    """QFL of all logits with its gradient, against one copy of the logits."""
    device = str(scores[0].device)
    targets, form = _random_targets_of(scores, 300), head.loss_cls.closed_form
    scale = torch.tensor(1 / 300, device=device)

    def qfl():
        torch.autograd.grad(fused.fused_class_loss(form, scores, targets, [None] * len(scores), scale), scores)

    def copy():
        return [m.detach().clone() for m in scores]

    pairs = in_turn(qfl, copy, rounds, device)
    rows = [compare_times('QFL, forward and backward (mmdet: one copy of its logits)', pairs)]
    if device.startswith('cuda'):
        pairs = in_turn(on_device(qfl, device), on_device(copy, device), rounds, device)
        rows.append(compare_times('  the same, replayed as a CUDA graph', pairs))
    return rows


def _random_targets_of(maps: Sequence[Tensor], count: int) -> List[ClassTargets]:
    """Random scores at ``count`` different places of each map, or at every place of a smaller map."""
    targets = []
    for m in maps:
        chosen = torch.randperm(m.numel())[:count].to(m.device)
        image, label, cell = torch.unravel_index(chosen, m.flatten(2).shape)
        targets.append(ClassTargets(image, label, cell, torch.rand(len(chosen), device=m.device)))
    return targets


def _compare_predictions(heads, sides: List[Tensor], size: Tuple[int, int], rounds: int) -> List[Row]:
    """From maps to detections: many and few scores above the threshold, with and without NMS, and early in training."""
    device, batch = str(sides[0].device), len(sides[0])
    _, metas = random_objects(batch, size, 1, device)

    def compare(name: str, maps: List[Tensor], with_nms: bool = True) -> Row:
        pairs = in_turn(*(lambda head=head: head.predict_by_feat(maps, sides, batch_img_metas=metas, with_nms=with_nms)
                          for head in heads), rounds, device)
        return compare_times(f'prediction, {name}{"" if with_nms else ", without NMS"}', pairs)

    rows = []
    for candidates in (5000, 300):
        maps = class_maps_with(candidates, batch, size, device)
        rows += [compare(f'{candidates} candidates an image', maps, with_nms) for with_nms in (True, False)]
    rows.append(compare('early in training', normal_class_maps(-3.1, 1.0, batch, size, device)))  # 44% are above 0.05
    return rows
