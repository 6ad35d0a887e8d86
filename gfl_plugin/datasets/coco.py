"""COCO-format detection data, checked where it enters."""
import contextlib
import io
import os
import re
from collections import Counter
from typing import Any, List, Optional

import torch
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.dist import get_world_size
from mmengine.logging import MMLogger

from ..errors import SetupError
from ..registry import DATASETS
from .annotations import STRAY, UNKNOWN_CATEGORY, category_ids, load_annotations, printable, some, why_dropped
from .images import describe, find_damage, find_missing, open_image

SET_ROOT = 'Set the data root with --data-root DIR, or with --cfg-options data_root=DIR'
CHECK = 'tools/check_dataset.py lists all that is wrong with a data set'
UNSEEN, READ, UNREADABLE = range(3)  # what is known of an image


@DATASETS.register_module()
class CocoDataset(MMDetCocoDataset):
    """MMDetection's CocoDataset that says what is wrong with its files; other arguments as there.

    Unlike mmdet: labels follow the order of ``metainfo['classes']``, whatever the order of the file's categories. Each
    class finds its category by its name.

    Boxes without area, outside the image or not finite are dropped, with one warning that counts them; crowd boxes are
    to be ignored, as COCO says.

    In training an image that cannot be read (missing, empty, truncated, not an image) is skipped for another one and
    named in the log. All worker processes count together, an image counts once, and beyond ``max_unreadable`` the
    training ends. Of several ranks each counts by itself, and judges by the images that it has drawn. In evaluation
    (``test_mode``) one such image is an error: without it the metric would be that of another data set. Files of a
    storage backend (``s3://...``) are not read twice, so that a truncated one is found only if it cannot be decoded.

    Args:
        max_unreadable: The largest share of unreadable images that training may skip, in [0, 1].

    Raises:
        SetupError: The annotation file or the folder of images is missing, an entry of the file is malformed, a class
            has no category in the file or several, there is no image, or too many of them cannot be read.
    """

    def __init__(self, *args, max_unreadable: float = 0.01, **kwargs) -> None:
        if not 0 <= max_unreadable <= 1:
            raise SetupError(f'max_unreadable is a share of the images, from 0 to 1, and not {max_unreadable}')
        self.max_unreadable = max_unreadable
        super().__init__(*args, **kwargs)

    # Annotations.

    def load_data_list(self) -> List[dict]:
        self._check_files()
        self._dropped: Counter = Counter()
        data_list = super().load_data_list()
        if self._dropped:
            kinds = ', '.join(f'{kind}: {count}' for kind, count in self._dropped.items())
            MMLogger.get_current_instance().warning(
                f'{self.ann_file}: {sum(self._dropped.values())} boxes were dropped ({kinds})')
        return data_list

    def COCOAPI(self, path: str) -> COCO:
        """Read the annotations and index them. MMDetection calls this where it would construct its own COCO."""
        content = self._read_content(path)
        coco = index_annotations(content, COCO)
        # MMDetection asks the index for the ids of its classes. Its own answers in the order of the file's categories.
        ids = category_ids(content['categories'], self.metainfo['classes'], self.ann_file)
        coco.get_cat_ids = lambda cat_names: ids
        strays = sum(annotation['image_id'] not in coco.imgs for annotation in content.get('annotations', ()))
        if strays:  # MMDetection passes over them in silence
            self._dropped[STRAY] = strays
        return coco

    def _read_content(self, path: str) -> dict:
        return load_annotations(path, self.ann_file, needs_annotations=not self.test_mode)

    def parse_data_info(self, raw_data_info: dict) -> dict:
        image, boxes = raw_data_info['raw_img_info'], raw_data_info['raw_ann_info']
        usable = []
        for box in boxes:
            problem = (why_dropped(box, image['width'], image['height']) if box['category_id'] in self.coco.cats
                       else UNKNOWN_CATEGORY)
            if problem:
                self._dropped[problem] += 1
            else:
                usable.append(box)
        return super().parse_data_info(dict(raw_data_info, raw_ann_info=usable))

    def filter_data(self) -> List[dict]:
        kept = super().filter_data()
        if not kept:  # before MMEngine fails to serialize nothing
            raise SetupError(f'There is no image in {self.ann_file}'
                             + (' that filter_cfg lets through' if self.data_list else ''))
        if self._indices is None:  # else only a part of these is asked for
            self._check_images(kept)
        return kept

    def _check_files(self) -> None:
        if _is_remote(self.ann_file):  # a storage backend knows
            return
        if not os.path.isfile(self.ann_file):
            raise SetupError(f'The annotation file {os.path.abspath(self.ann_file)} does not exist. {SET_ROOT}')
        images = self.data_prefix.get('img', '')
        if not os.path.isdir(images):
            raise SetupError(f'The folder of images {os.path.abspath(images)} does not exist. {SET_ROOT}')

    # Images.

    def full_init(self) -> None:
        if not self._fully_initialized:
            super().full_init()
            self._count_anew()

    def get_subset_(self, indices) -> None:
        super().get_subset_(indices)
        self._count_anew()

    def get_subset(self, indices) -> 'CocoDataset':
        subset = super().get_subset(indices)
        subset._count_anew()
        return subset

    def prepare_data(self, idx: int) -> Any:
        """An image through the pipeline; None, for which MMEngine draws another one, if it cannot be read."""
        info = self.get_data_info(idx)
        damage = find_damage(info['img_path']) if self._reads_files(info['img_path']) else None
        if damage is None:
            try:
                data = self.pipeline(info)
            except Exception as error:
                damage = self._blame_file(info, error)
                if damage is None:  # a fault of the pipeline's must not pass for one of the image's
                    raise
            else:
                self._known[info['sample_idx']] = READ  # even if it failed before: a network drive may come back
                return data
        self._skip(info, damage)
        return None

    def _reads_files(self, path: str) -> bool:
        return bool(self.pipeline.transforms) and not _is_remote(path)  # without a pipeline nobody opens the file

    def _blame_file(self, info: dict, error: Exception) -> Optional[str]:
        """What is wrong with the file of an image with which the pipeline failed; None if nothing is."""
        if 'ori_shape' not in info:  # it has not been loaded
            return describe(error) if _is_remote(info['img_path']) else open_image(info['img_path'])[0]
        (height, width), expected = info['ori_shape'][:2], (info['width'], info['height'])
        return None if (width, height) == expected else (
            f'it has {width} x {height} pixels, not the {expected[0]} x {expected[1]} of its entry '
            f'({describe(error)})')

    def _check_images(self, data_list: List[dict]) -> None:
        """Look for missing files before the first iteration: half a data set is found out at once."""
        paths = [info['img_path'] for info in data_list]
        missing = find_missing(path for path in paths if self._reads_files(path))
        if missing:
            said = (f'{len(missing)} of the {len(paths)} image files of {self.ann_file} are missing '
                    f'({self._some_files(missing)})')
            if self.test_mode or len(missing) > self.max_unreadable * len(paths):
                raise SetupError(f'{said}. {self._consequence()}')
            MMLogger.get_current_instance().warning(f'{said}: they will be skipped')

    def _count_anew(self) -> None:
        # In shared memory: workers are processes. Each writes but the bytes of its images, so nothing need be locked.
        self._known = torch.full((len(self), ), UNSEEN, dtype=torch.uint8).share_memory_()
        self._ranks = get_world_size()

    def _skip(self, info: dict, damage: str) -> None:
        """Count and name an image that cannot be read.

        Raises:
            SetupError: This is an evaluation, or there are too many of them.
        """
        image = f'{printable(info["img_path"])} (image {info["img_id"]} of {self.ann_file}) cannot be read: {damage}'
        if self.test_mode:
            raise SetupError(f'{image}. {self._consequence()}')
        is_new = self._known[info['sample_idx']] != UNREADABLE
        self._known[info['sample_idx']] = UNREADABLE
        unreadable = (self._known == UNREADABLE).nonzero().flatten().tolist()
        if is_new:  # as an error: MMEngine keeps the warnings of all ranks but the first to itself
            MMLogger.get_current_instance().error(
                f'{image}. It is skipped; {len(unreadable)} of {len(self)} images so far')
        # A rank of several draws its part of the images in an epoch, and all of them in time.
        drawn = max(int((self._known != UNSEEN).sum()), len(self) / self._ranks)
        if len(unreadable) > self.max_unreadable * drawn or len(unreadable) == len(self):
            files = self._some_files([self.get_data_info(index)['img_path'] for index in unreadable])
            raise SetupError(f'{len(unreadable)} of the {len(self)} images of {self.ann_file} cannot be read '
                             f'({files}). The last one, {image}. {self._consequence()}')

    def _some_files(self, paths: List[str]) -> str:
        return some([os.path.relpath(path, self.data_prefix['img']) for path in paths])

    def _consequence(self) -> str:
        if self.test_mode:
            return f'An evaluation without them would be of another data set: mend the files. {CHECK}'
        return f'Training goes on without up to max_unreadable={self.max_unreadable:g} of them. {CHECK}'


def index_annotations(content: dict, coco_class: type) -> COCO:
    """Give pycocotools' class, or another one with its interface, annotations that are in memory already."""
    coco = coco_class()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints two lines about it
        coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
    return coco


def _is_remote(path: str) -> bool:
    return re.match(r'[\w+.-]+://', path) is not None
