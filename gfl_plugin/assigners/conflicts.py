"""What the assigners share: priors that several ground truths claim."""
from typing import Optional

import torch
from torch import Tensor

# The centre of a positive prior is inside its ground truth by more than this, in pixels (MMDetection's constant).
INSIDE_BY = 0.01
PLAIN_IOU = dict(mode='iou', dtype=None)  # settings of MMDetection's BboxOverlaps2D


def resolve_conflicts(key: Tensor, positive: Tensor, overlap: Tensor, num_keys: int) -> Tensor:
    """Leave each prior to the ground truth of highest IoU; of equal IoUs, to the first.

    Args:
        key: (G, K) prior of each candidate, numbered over all images, 0..num_keys-1.
        positive: (G, K) bool.
        overlap: (G, K) IoUs.
        num_keys: How many priors there are in all images.

    Returns:
        (G, K) bool, True at most once for each key.
    """
    flat_key = key.flatten()
    claim = torch.where(positive, overlap, -1).flatten()
    best = claim.new_full((num_keys, ), -1).scatter_reduce(0, flat_key, claim, 'amax')
    wins = positive & (overlap == best[key])
    gt = torch.arange(len(key), device=key.device)[:, None].expand_as(key)
    first = gt.new_full((num_keys, ), len(key)).scatter_reduce(
        0, flat_key, torch.where(wins, gt, len(key)).flatten(), 'amin')
    return wins & (gt == first[key])


def require_iou(iou_calculator: Optional[dict]) -> None:
    """Check that a config of MMDetection's ``iou_calculator`` asks for the plain IoU in fp32, under any scope.

    Raises:
        ValueError: It asks for something else.
    """
    if iou_calculator is None:
        return
    settings = dict(iou_calculator) if isinstance(iou_calculator, dict) else dict(type=iou_calculator)
    kind = settings.pop('type', None)
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    for ignored in ('_scope_', 'scale'):  # the scale is for fp16
        settings.pop(ignored, None)
    if name.rpartition('.')[2] != 'BboxOverlaps2D' or {**PLAIN_IOU, **settings} != PLAIN_IOU:
        raise ValueError(f'iou_calculator={iou_calculator!r} is not supported: this assigner measures the IoU in fp32, '
                         'as dict(type=\'BboxOverlaps2D\') does. Use MMDetection\'s assigner for another measure')
