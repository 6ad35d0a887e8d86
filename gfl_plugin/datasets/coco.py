"""COCO-format detection data, checked when it is loaded."""
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
CHECK = '`gfl check` lists every problem of a data set'
UNSEEN, READ, UNREADABLE = range(3)  # what is known about an image


@DATASETS.register_module()
class CocoDataset(MMDetCocoDataset):
    """MMDetection's CocoDataset with checks: it says what is wrong with its files. Other arguments as MMDetection's.

    Unlike mmdet: classes and categories are matched by name. Labels follow the order of ``metainfo['classes']``,
    whatever the order of the file's categories.

    The data set drops boxes that have no area, lie outside the image or are not finite, and counts them in one warning.
    Training ignores crowd boxes, as COCO's rules say.

    Training skips an image that cannot be read (missing, empty, truncated, not an image), draws another one in its
    place, and names it in the log. All worker processes share one count, each image counts once, and training ends when
    the share of unreadable images exceeds ``max_unreadable``. Each rank keeps its own count, relative to the images it
    has read so far. In evaluation (``test_mode``) one such image is an error, because the metric would silently cover
    fewer images. Files of a storage backend (``s3://...``) are not read twice, so a truncated one is noticed only if it
    cannot be decoded.

    Args:
        max_unreadable: The largest share of unreadable images that training may skip, in [0, 1].

    Raises:
        SetupError: The annotation file or the folder of images is missing, an entry of the file is malformed, a class
            has no category in the file or several, there are no images, or too many images cannot be read.
    """

    def __init__(self, *args, max_unreadable: float = 0.01, **kwargs) -> None:
        if not 0 <= max_unreadable <= 1:
            raise SetupError(f'max_unreadable must be a share of the images, from 0 to 1, not {max_unreadable}')
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
        """Read the annotations and index them. MMDetection calls this instead of the constructor of its own COCO."""
        content = self._read_content(path)
        coco = index_annotations(content, COCO)
        # MMDetection asks the index for the category ids. Its own index answers in the order of the file's categories.
        ids = category_ids(content['categories'], self.metainfo['classes'], self.ann_file)
        coco.get_cat_ids = lambda cat_names: ids
        strays = sum(annotation['image_id'] not in coco.imgs for annotation in content.get('annotations', ()))
        if strays:  # MMDetection skips them silently
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
        if not kept:  # otherwise MMEngine fails with an obscure error when it serializes an empty list
            raise SetupError(f'There is no image in {self.ann_file}'
                             + (' that passes filter_cfg' if self.data_list else ''))
        if self._indices is None:  # with indices, only some of these images are used
            self._check_images(kept)
        return kept

    def _check_files(self) -> None:
        if _is_remote(self.ann_file):  # only the storage backend knows whether it exists
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
            self._reset_count()

    def get_subset_(self, indices) -> None:
        super().get_subset_(indices)
        self._reset_count()

    def get_subset(self, indices) -> 'CocoDataset':
        subset = super().get_subset(indices)
        subset._reset_count()
        return subset

    def prepare_data(self, idx: int) -> Any:
        """Run an image through the pipeline. If it cannot be read, return None: MMEngine then draws another one."""
        info = self.get_data_info(idx)
        damage = find_damage(info['img_path']) if self._reads_files(info['img_path']) else None
        if damage is None:
            try:
                data = self.pipeline(info)
            except Exception as error:
                damage = self._blame_file(info, error)
                if damage is None:  # the file is fine, so the fault is the pipeline's
                    raise
            else:
                self._known[info['sample_idx']] = READ  # even after a failure: a network drive may come back
                return data
        self._skip(info, damage)
        return None

    def _reads_files(self, path: str) -> bool:
        return bool(self.pipeline.transforms) and not _is_remote(path)  # an empty pipeline opens no file

    def _blame_file(self, info: dict, error: Exception) -> Optional[str]:
        """Say what is wrong with the file of an image that the pipeline failed on; None if the file is fine."""
        if 'ori_shape' not in info:  # the pipeline failed before it had loaded the image
            return describe(error) if _is_remote(info['img_path']) else open_image(info['img_path'])[0]
        (height, width), expected = info['ori_shape'][:2], (info['width'], info['height'])
        return None if (width, height) == expected else (
            f'it has {width} x {height} pixels, but its entry says {expected[0]} x {expected[1]} '
            f'({describe(error)})')

    def _check_images(self, data_list: List[dict]) -> None:
        """Look for missing files before the first iteration, so that half a data set is noticed at once."""
        paths = [info['img_path'] for info in data_list]
        missing = find_missing(path for path in paths if self._reads_files(path))
        if missing:
            said = (f'{len(missing)} of the {len(paths)} image files of {self.ann_file} are missing '
                    f'({self._some_files(missing)})')
            if self.test_mode or len(missing) > self.max_unreadable * len(paths):
                raise SetupError(f'{said}. {self._consequence()}')
            MMLogger.get_current_instance().warning(f'{said}: they will be skipped')

    def _reset_count(self) -> None:
        # In shared memory, because workers are processes. No lock is needed: each writes only its own images' bytes.
        self._known = torch.full((len(self), ), UNSEEN, dtype=torch.uint8).share_memory_()
        self._ranks = get_world_size()

    def _skip(self, info: dict, damage: str) -> None:
        """Count an image that cannot be read, and name it in the log.

        Raises:
            SetupError: This is an evaluation, or too many images cannot be read.
        """
        image = f'{printable(info["img_path"])} (image {info["img_id"]} of {self.ann_file}) cannot be read: {damage}'
        if self.test_mode:
            raise SetupError(f'{image}. {self._consequence()}')
        is_new = self._known[info['sample_idx']] != UNREADABLE
        self._known[info['sample_idx']] = UNREADABLE
        unreadable = (self._known == UNREADABLE).nonzero().flatten().tolist()
        if is_new:  # logged as an error, because MMEngine shows warnings of the first rank only
            MMLogger.get_current_instance().error(
                f'{image}. Training skips it ({len(unreadable)} of {len(self)} images so far)')
        # With several ranks, each reads its part of the images in the first epoch, and all of them in time.
        images_read = max(int((self._known != UNSEEN).sum()), len(self) / self._ranks)
        if len(unreadable) > self.max_unreadable * images_read or len(unreadable) == len(self):
            files = self._some_files([self.get_data_info(index)['img_path'] for index in unreadable])
            raise SetupError(f'{len(unreadable)} of the {len(self)} images of {self.ann_file} cannot be read '
                             f'({files}). The last one: {image}. {self._consequence()}')

    def _some_files(self, paths: List[str]) -> str:
        return some([os.path.relpath(path, self.data_prefix['img']) for path in paths])

    def _consequence(self) -> str:
        if self.test_mode:
            return f'An evaluation without them would not measure this data set: repair the files. {CHECK}'
        return f'Training tolerates a share of up to max_unreadable={self.max_unreadable:g}. {CHECK}'


def index_annotations(content: dict, coco_class: type) -> COCO:
    """Fill pycocotools' COCO class, or one with the same interface, from annotations that are in memory already."""
    coco = coco_class()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints two lines about it
        coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
    return coco


def _is_remote(path: str) -> bool:
    return re.match(r'[\w+.-]+://', path) is not None
