"""Train on a folder in any of the known layouts. A config names its path and a split, and nothing else of it."""
import functools
import os
from typing import Optional

from ..errors import SetupError
from ..registry import DATASETS
from ..visualization.palette import class_color
from .annotations import complete
from .coco import CocoDataset
from .layouts import Data, Split, find_layout


def read_data(path: str, val_share: float = 0.2) -> Data:
    """Read a user's data set once per process, however many data sets and metrics ask for it. Change nothing in it.

    Raises:
        SetupError: As ``find_layout``.
    """
    return _read(os.path.abspath(os.path.expanduser(path)), val_share)


@functools.lru_cache(maxsize=4)
def _read(path: str, val_share: float) -> Data:
    return find_layout(path, val_share)


def forget_data() -> None:
    """Free the data sets that ``read_data`` keeps: a large one takes gigabytes."""
    _read.cache_clear()


def read_split(path: str, split: str, val_share: float = 0.2) -> Split:
    """A copy of one split, complete as the metric needs it. MMDetection writes into its entries.

    Raises:
        SetupError: As ``find_layout``, or the data set has no such split.
    """
    data = read_data(path, val_share)
    if split not in data.splits:
        raise SetupError(f'{data.root} has no {split} split. Its splits: {", ".join(data.splits)}')
    found = data.splits[split]
    content = {key: [dict(entry) for entry in found.content[key]] for key in ('images', 'annotations', 'categories')}
    complete(content['annotations'])
    return found._replace(content=content)


@DATASETS.register_module()
class FolderDataset(CocoDataset):
    """One split of a data set in COCO, YOLO or Pascal VOC layout.

    Args:
        path: The folder, or the file that describes it.
        split: ``'train'``, ``'val'`` or ``'test'``.
        val_share: The share of training images to hold out for validation if there is no validation split.
        metainfo: ``classes`` are those of the data by default.
        kwargs: As for ``CocoDataset``, except ``data_root``, ``ann_file`` and ``data_prefix``.

    Raises:
        SetupError: As ``CocoDataset`` and ``find_layout``, or the data set has no such split.
    """

    def __init__(self, path: str, split: str, val_share: float = 0.2, metainfo: Optional[dict] = None,
                 **kwargs) -> None:
        self._source = (path, split, val_share)
        found = read_split(*self._source)
        classes = tuple((metainfo or {}).get('classes') or read_data(path, val_share).classes)
        palette = [class_color(label) for label in range(len(classes))]
        metainfo = {'palette': palette, **(metainfo or {}), 'classes': classes}
        super().__init__(ann_file=found.source, data_prefix=dict(img=found.images), metainfo=metainfo, **kwargs)

    def _check_files(self) -> None:
        """Check nothing: ``find_layout`` has found the files."""

    def _read_content(self, path: str) -> dict:
        return read_split(*self._source).content
