"""MMDetection's heads as the reference, and random inputs for both."""
from typing import Dict, List, Sequence, Tuple, Union

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from torch import Tensor

from gfl_plugin.functional.priors import PriorGrid, stack_grids

STRIDES = (8, 16, 32, 64, 128)
MMLogger.get_instance('mmengine').setLevel('ERROR')  # otherwise it logs every parameter's initialization


def head_config(type: str, scope: str = '', num_classes: int = 8, reg_max: int = 16, allowed_border: float = -1,
                pos_weight: float = -1, strides: Sequence[int] = STRIDES, **options) -> ConfigDict:
    """Config of a small GFL head in MMDetection's style; ``scope`` applies to its losses and assigner."""
    return ConfigDict(
        type=type, num_classes=num_classes, in_channels=16, feat_channels=16, stacked_convs=1,
        norm_cfg=dict(type='GN', num_groups=4, requires_grad=True), reg_max=reg_max,
        anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1,
                              strides=list(strides)),
        loss_cls=dict(type=f'{scope}QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type=f'{scope}DistributionFocalLoss', loss_weight=0.25),
        loss_bbox=dict(type=f'{scope}GIoULoss', loss_weight=2.0),
        train_cfg=dict(assigner=dict(type=f'{scope}ATSSAssigner', topk=9), allowed_border=allowed_border,
                       pos_weight=pos_weight, debug=False),
        test_cfg=dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6),
                      max_per_img=100), **options)


def twin_heads(scope: str = 'gfl_plugin.', **options):
    """Build MMDetection's head and ours with equal weights that give scores over the whole range."""
    reference = MODELS.build(head_config('GFLHead', **options))
    ours = MODELS.build(head_config('gfl_plugin.GFLHead', scope, **options))
    for layer, std in ((reference.gfl_cls, 0.1), (reference.gfl_reg, 0.15)):
        torch.nn.init.normal_(layer.weight, std=std)
    torch.nn.init.constant_(reference.gfl_cls.bias, -1.5)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return reference, ours


def random_features(batch: int, height: int, width: int, strides: Sequence[int] = STRIDES, excess: int = 0,
                    channels: int = 16) -> List[Tensor]:
    """Random maps of ceil(image / stride) cells a side, plus ``excess``."""
    return [torch.randn(batch, channels, -(-height // s) + excess, -(-width // s) + excess) for s in strides]


def random_objects(counts: Sequence[int], height: int, width: int, num_classes: int = 8,
                   unpadded: Sequence[Tuple[int, int]] = ()) -> Tuple[List[InstanceData], List[dict]]:
    """Random boxes of all sizes inside the unpadded area of each image, and its meta information."""
    objects, metas = [], []
    for index, count in enumerate(counts):
        h, w = unpadded[index] if unpadded else (height, width)
        size = torch.tensor([w, h])
        extent = 4 + torch.rand(count, 2)**2 * (size - 5)
        corner = torch.rand(count, 2) * (size - extent)
        objects.append(InstanceData(bboxes=torch.cat([corner, corner + extent], 1),
                                    labels=torch.randint(0, num_classes, (count, ))))
        metas.append(dict(img_shape=(h, w), pad_shape=(height, width), ori_shape=(h, w), scale_factor=(1.25, 1.2)))
    return objects, metas


def grids_of(height: int, width: int, strides: Sequence[int] = STRIDES) -> List[PriorGrid]:
    """The grids of maps of ceil(image / stride) cells, with the priors of :func:`head_config`."""
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    return stack_grids(sizes, [(s, s) for s in strides], [(-4 * s, -4 * s, 4 * s, 4 * s) for s in strides])


def on(device: str, head, features: List[Tensor], objects: List[InstanceData]):
    """Move head, features and objects to a device; their random numbers were drawn on the CPU."""
    return head.to(device), [f.to(device) for f in features], [o.to(device) for o in objects]


def summed(losses: Dict[str, Union[Tensor, List[Tensor]]]) -> Dict[str, Tensor]:
    """The losses of a head, each summed over its levels."""
    return {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}


def losses_and_gradients(head, features: List[Tensor], objects, metas, ignored=None):
    """Compute the losses, each a scalar, and the gradients of the features and of the parameters."""
    features = [f.clone().requires_grad_() for f in features]
    head.zero_grad()
    losses = summed(head.loss_by_feat(*head(features), objects, metas, ignored))
    sum(losses.values()).backward()
    gradients = {f'feature {i}': f.grad for i, f in enumerate(features)}
    gradients.update({name: p.grad for name, p in head.named_parameters()})
    return losses, gradients


def assert_close(ours: Tensor, reference: Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Check that every element matches the reference within ``tolerance`` times that element.

    An element below the mean magnitude may differ by ``tolerance`` times the mean, since it can be a sum that cancels.
    """
    assert ours.shape == reference.shape, f'{what} should have the shape of the reference'
    magnitude = reference.double().abs()
    scale = magnitude.maximum(magnitude.mean()).clamp(min=1e-12) if reference.numel() else magnitude
    error = ((ours - reference).abs() / scale).max().item() if reference.numel() else 0
    assert error <= tolerance, \
        f'{what} should match the reference within {tolerance} (relative), but is off by {error:.2g}'


def atss_heads(scope: str = 'gfl_plugin.', num_classes: int = 8, strides: Sequence[int] = STRIDES, **options):
    """Build MMDetection's ATSSHead and our (CenternessBranch, DiracDelta) head, with equal weights by a strict load."""
    shared = head_config('', '', num_classes=num_classes, strides=strides, **options)
    for name in ('loss_cls', 'loss_dfl', 'loss_bbox', 'reg_max'):
        shared.pop(name)
    shared.train_cfg.assigner = dict(type=f'{scope}ATSSAssigner', topk=9)
    reference = MODELS.build(ConfigDict(
        shared, type='ATSSHead', loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
        train_cfg=dict(shared.train_cfg, assigner=dict(type='ATSSAssigner', topk=9))))
    ours = MODELS.build(ConfigDict(
        shared, type='gfl_plugin.GFLHead', loss_bbox=dict(type=f'{scope}GIoULoss', loss_weight=2.0),
        quality=dict(type='gfl_plugin.CenternessBranch',
                     loss_cls=dict(type=f'{scope}FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)),
        box=dict(type='gfl_plugin.DiracDelta',
                 bbox_coder=dict(type=f'{scope}DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]))))
    for layer, std in ((reference.atss_cls, 0.1), (reference.atss_reg, 0.3), (reference.atss_centerness, 0.1)):
        torch.nn.init.normal_(layer.weight, std=std)
    torch.nn.init.constant_(reference.atss_cls.bias, -1.5)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return reference, ours
