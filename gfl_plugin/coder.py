"""Boxes as four numbers relative to a prior: distances from its centre to the sides, or deltas to its box."""
from typing import Optional, Sequence

import torch
from torch import Tensor

from .functional.boxes import BELOW_LAST_BIN, box_to_delta, box_to_distance, clip_boxes, delta_to_box, distance_to_box
from .registry import TASK_UTILS


@TASK_UTILS.register_module()
class DistancePointBBoxCoder:
    """Encode and decode; arguments as those of MMDetection's coder of this name.

    Args:
        clip_border: Whether boxes are cut to the image in prediction.
    """
    encode_size = 4

    def __init__(self, clip_border: bool = True) -> None:
        self.clip_border = clip_border

    def encode(self, points: Tensor, boxes: Tensor, max_dis: float, eps: float = BELOW_LAST_BIN) -> Tensor:
        """(K, 4) distances, within [0, max_dis - eps], of (K, 2) points to the sides of (K, 4) boxes."""
        return box_to_distance(points, boxes, max_dis, eps)

    def decode(self, points: Tensor, distances: Tensor, max_shape: Optional[Tensor] = None) -> Tensor:
        """(K, 4) boxes from (K, 2) points, cut to ``max_shape`` (K, 2), height and width, if given."""
        boxes = distance_to_box(points, distances)
        return boxes if max_shape is None or not self.clip_border else clip_boxes(boxes, max_shape)


@TASK_UTILS.register_module()
class DeltaXYWHBBoxCoder:
    """Encode and decode; arguments as those of MMDetection's coder of this name.

    Args:
        target_means, target_stds: What predictions are normalised by: delta = prediction * std + mean.
        clip_border: Whether boxes are cut to the image in prediction.
    """
    encode_size = 4

    def __init__(self, target_means: Sequence[float] = (0., 0., 0., 0.),
                 target_stds: Sequence[float] = (1., 1., 1., 1.), clip_border: bool = True) -> None:
        self.means, self.stds, self.clip_border = torch.tensor(target_means), torch.tensor(target_stds), clip_border

    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """(K, 4) normalised deltas of (K, 4) boxes to (K, 4) prior boxes."""
        deltas = box_to_delta(priors, boxes)
        return (deltas - self._on(self.means, deltas)) / self._on(self.stds, deltas)

    def decode(self, priors: Tensor, deltas: Tensor, max_shape: Optional[Tensor] = None) -> Tensor:
        """(K, 4) boxes from (K, 4) prior boxes, cut to ``max_shape`` (K, 2), height and width, if given."""
        boxes = delta_to_box(priors, deltas * self._on(self.stds, deltas) + self._on(self.means, deltas))
        return boxes if max_shape is None or not self.clip_border else clip_boxes(boxes, max_shape)

    @staticmethod
    def _on(constant: Tensor, like: Tensor) -> Tensor:
        return constant.to(like.device, non_blocking=True)
