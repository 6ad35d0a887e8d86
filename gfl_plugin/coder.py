"""Boxes as distances from a prior's centre to the four sides."""
from typing import Optional

from torch import Tensor

from .functional.boxes import box_to_distance, clip_boxes, distance_to_box
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

    def encode(self, points: Tensor, boxes: Tensor, max_dis: float, eps: float = 0.1) -> Tensor:
        """(K, 4) distances, within [0, max_dis - eps], of (K, 2) points to the sides of (K, 4) boxes."""
        return box_to_distance(points, boxes, max_dis, eps)

    def decode(self, points: Tensor, distances: Tensor, max_shape: Optional[Tensor] = None) -> Tensor:
        """(K, 4) boxes from (K, 2) points, cut to ``max_shape`` (K, 2), height and width, if given."""
        boxes = distance_to_box(points, distances)
        return boxes if max_shape is None or not self.clip_border else clip_boxes(boxes, max_shape)
