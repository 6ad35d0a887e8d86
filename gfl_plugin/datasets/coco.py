"""COCO-format detection data, checked where it enters."""
import math
import os
from typing import List

from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmengine.logging import MMLogger

from ..errors import SetupError
from ..registry import DATASETS

SET_ROOT = 'Set the data root with --data-root DIR, or with --cfg-options data_root=DIR'


@DATASETS.register_module()
class CocoDataset(MMDetCocoDataset):
    """MMDetection's CocoDataset that says what is wrong with its files; arguments as there.

    Boxes without area, outside the image or not finite are dropped, with one warning that counts them; crowd boxes are
    to be ignored, as COCO says.

    Raises:
        SetupError: The annotation file or the folder of images is missing, a class is not among the file's categories,
            or there is no image.
    """

    def load_data_list(self) -> List[dict]:
        self._check_files()
        self._dropped = 0
        data_list = super().load_data_list()
        if self._dropped:
            MMLogger.get_current_instance().warning(
                f'{self.ann_file}: {self._dropped} boxes without area, outside the image or not finite were dropped')
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict:
        image, boxes = raw_data_info['raw_img_info'], raw_data_info['raw_ann_info']
        usable = [box for box in boxes if _has_area_inside(box['bbox'], image['width'], image['height'])]
        self._dropped += len(boxes) - len(usable)
        for box in usable:  # MMDetection drops what has no area of its own; the box has one
            box.setdefault('area', box['bbox'][2] * box['bbox'][3])
        return super().parse_data_info(dict(raw_data_info, raw_ann_info=usable))

    def filter_data(self) -> List[dict]:
        kept = super().filter_data()
        if not kept:  # before MMEngine fails to serialize nothing
            raise SetupError(f'There is no image in {self.ann_file}'
                             + (' that filter_cfg lets through' if self.data_list else ''))
        return kept

    def _check_files(self) -> None:
        if '://' in self.ann_file:  # a storage backend knows
            return
        if not os.path.isfile(self.ann_file):
            raise SetupError(f'The annotation file {os.path.abspath(self.ann_file)} does not exist. {SET_ROOT}')
        images = self.data_prefix.get('img', '')
        if not os.path.isdir(images):
            raise SetupError(f'The folder of images {os.path.abspath(images)} does not exist. {SET_ROOT}')
        known = {category['name'] for category in self.COCOAPI(self.ann_file).dataset.get('categories', [])}
        missing = [name for name in self.metainfo['classes'] if name not in known]
        if missing:
            # MMDetection would number the classes that are left on, and every label after the gap would be wrong.
            raise SetupError(f'{len(missing)} of the {len(self.metainfo["classes"])} classes of the data set '
                             f'({_some(missing)}) are not among the {len(known)} categories of {self.ann_file} '
                             f'({_some(sorted(known))}). Name its classes in the config: metainfo=dict(classes=...), '
                             'and give the head as many num_classes')


def _some(names: List[str]) -> str:
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def _has_area_inside(box, width: float, height: float) -> bool:
    """Whether a box x, y, width, height in pixels has area within an image."""
    x, y, w, h = box
    inside = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
    return all(map(math.isfinite, box)) and w > 0 and h > 0 and min(inside) > 0
