"""Random inputs: objects, feature maps, and class maps as they are at some stage of a training."""
from typing import List, Tuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)
NUM_CLASSES = 80


def random_objects(batch: int, size: Tuple[int, int], count: int, device: str, num_classes: int = NUM_CLASSES
                   ) -> Tuple[List[InstanceData], List[dict]]:
    """``count`` boxes of all sizes in each image of ``size`` (height, width) pixels, and its meta information."""
    height, width = size
    extent = torch.exp(torch.empty(batch, count, 2).uniform_(2.5, 6.2)).minimum(torch.tensor([width, height]) * 0.95)
    corner = torch.rand(batch, count, 2) * (torch.tensor([width, height]) - extent)
    boxes = torch.cat([corner, corner + extent], -1).to(device)
    labels = torch.randint(0, num_classes, (batch, count)).to(device)
    meta = dict(img_shape=(height, width), pad_shape=(height, width), batch_input_shape=(height, width),
                ori_shape=(height, width), scale_factor=(1.0, 1.0))
    return [InstanceData(bboxes=b, labels=c) for b, c in zip(boxes, labels)], [meta] * batch


def random_maps(batch: int, size: Tuple[int, int], channels: int, device: str, dtype=torch.float32) -> List[Tensor]:
    """L maps (B, channels, H, W) of standard normal numbers."""
    return [torch.randn(batch, channels, -(-size[0] // s), -(-size[1] // s), device=device, dtype=dtype)
            for s in STRIDES]


def normal_class_maps(mean: float, std: float, batch: int, size: Tuple[int, int], device: str, dtype=torch.float32
                      ) -> List[Tensor]:
    """L maps (B, C, H, W) of normal class logits."""
    return [m.mul_(std).add_(mean) for m in random_maps(batch, size, NUM_CLASSES, device, dtype)]


def class_maps_with(candidates: int, batch: int, size: Tuple[int, int], device: str) -> List[Tensor]:
    """L maps (B, C, H, W) of class logits. Each image has ``candidates`` scores above 0.05, a fifth on each level."""
    maps = normal_class_maps(-6, 0.3, batch, size, device)
    for m in maps:
        flat = m.flatten(1)
        count = min(candidates // len(maps), flat.shape[1])
        for image in flat:
            chosen = torch.randperm(flat.shape[1])[:count].to(device)
            image[chosen] = torch.empty(count, device=device).uniform_(0.06, 0.9).logit()
    return maps
