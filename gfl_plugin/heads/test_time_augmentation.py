"""Test-time augmentation that also merges the distributions of the sides."""
from typing import List

from mmcv.ops import batched_nms
from mmdet.models.test_time_augs import DetTTAModel as MMDetDetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.structures import InstanceData

from ..registry import MODELS

SIDE_FIELDS = ('side_std', 'side_probs', 'side_places')  # (N, 4, ...): left, top, right, bottom
# The axes that a flip mirrors, x before y, by MMDetection's name of the flip.
MIRRORED_AXES = dict(horizontal=(0, ), vertical=(1, ), diagonal=(0, 1))


@MODELS.register_module()
class DetTTAModel(MMDetDetTTAModel):
    """MMDetection's DetTTAModel, whose merged detections also carry what the head says about their sides.

    A detection that is kept takes these fields from the view that found it. Boxes, scores, labels and their order are
    MMDetection's.
    """

    def _merge_single_sample(self, data_samples: List[DetDataSample]) -> DetDataSample:
        if not any(name in data_samples[0].pred_instances for name in SIDE_FIELDS):
            return super()._merge_single_sample(data_samples)
        found = InstanceData.cat([unflip(sample.pred_instances, sample.metainfo) for sample in data_samples])
        if len(found):
            best, keep = batched_nms(found.bboxes, found.scores, found.labels, self.tta_cfg.nms)
            found = found[keep]
            found.bboxes, found.scores = best[:, :4], best[:, 4]
            data_samples[0].pred_instances = found[:self.tta_cfg.max_per_img]
        return data_samples[0]


def unflip(found: InstanceData, meta: dict) -> InstanceData:
    """Detections in a flipped image as detections in the image before the flip.

    Args:
        found: N detections, in pixels of the original image.
        meta: ``flip``, ``flip_direction`` and ``ori_shape`` of the image.
    """
    if not meta['flip']:
        return found
    direction, shape = meta['flip_direction'], meta['ori_shape']
    sides = [0, 1, 2, 3]
    for axis in MIRRORED_AXES[direction]:
        sides[axis], sides[axis + 2] = axis + 2, axis
    fields = dict(found.items(), bboxes=bbox_flip(found.bboxes, shape, direction))
    fields.update({name: fields[name][:, sides] for name in SIDE_FIELDS if name in found})  # a copy
    for axis in MIRRORED_AXES[direction] if 'side_places' in found else ():
        fields['side_places'][:, axis::2] = shape[1 - axis] - fields['side_places'][:, axis::2]
    return InstanceData(**fields)
