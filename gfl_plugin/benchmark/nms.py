"""Non-maximum suppression alone."""
import torch

from ..functional.nms import class_aware_nms
from .inputs import NUM_CLASSES, random_objects
from .timing import Row, compare_times, in_turn


def compare_nms(rounds: int, device: str, count: int = 5000, max_keep: int = 100) -> Row:
    """Measure the plugin's NMS of the boxes of one image against mmcv's."""
    from mmcv.ops import batched_nms
    (objects, ), _ = random_objects(1, (800, 1344), count, device)
    scores, image = torch.rand(count, device=device), torch.zeros(count, dtype=torch.long, device=device)
    settings = dict(type='nms', iou_threshold=0.6)
    pairs = in_turn(
        lambda: class_aware_nms(objects.bboxes, scores, objects.labels, image, 0.6, max_keep=max_keep),
        lambda: batched_nms(objects.bboxes, scores, objects.labels, settings)[1][:max_keep], rounds, device)
    return compare_times(f"NMS of {count:,} boxes of {NUM_CLASSES} classes, {max_keep} kept (mmcv's)", pairs)
