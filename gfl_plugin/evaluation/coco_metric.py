"""COCO's detection metric, computed by the fastest implementation that is installed."""
import importlib.util
import math
from typing import Callable, Dict, List, Optional, Sequence, Tuple
from unittest import mock

from mmdet.evaluation.metrics import CocoMetric as MMDetCocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmengine.logging import MMLogger

from ..datasets.annotations import NOT_FINITE, REQUIRED_BY_METRIC, category_ids, load_annotations
from ..datasets.coco import index_annotations
from ..datasets.folder import read_split
from ..errors import SetupError
from ..registry import METRICS

BOX_METRICS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


def evaluators() -> Dict[str, Tuple[Callable, Callable]]:
    """The installed implementations of COCO's evaluation, fastest first: class of the data set, class of the metric."""
    found = {'pycocotools': (coco_metric.COCO, coco_metric.COCOeval)}
    if importlib.util.find_spec('faster_coco_eval'):
        from faster_coco_eval import COCO, COCOeval_faster
        found = {'faster-coco-eval': (COCO, COCOeval_faster), **found}
    return found


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """MMDetection's CocoMetric by faster-coco-eval where it is installed, else by pycocotools: the same numbers.

    The annotation file is checked and completed as for training: a missing ``area`` is that of the box, a missing
    ``iscrowd`` is 0, and ids count from 1. Boxes that are not finite are left out with a warning.

    Unlike mmdet: each class finds its category in the file by its name, whatever the order of the categories. Every AP
    is 0 where nothing at all was detected; MMDetection reports none. ``class_precision`` has the AP of each class by
    its name after each evaluation; ``classwise=True`` reports them among the metrics, too.

    Args:
        ann_file: Path of the annotation file; without one the metric uses the ground truth of the data samples.
        backend: ``'faster-coco-eval'`` or ``'pycocotools'``; the first that is installed by default.
        args, kwargs: As MMDetection's.

    Raises:
        SetupError: The backend is not installed, the annotation file is not usable, or it has no category for a class.
    """

    def __init__(self, ann_file: Optional[str] = None, *args, backend: Optional[str] = None, **kwargs) -> None:
        found = evaluators()
        if backend is not None and backend not in found:
            raise SetupError(f'CocoMetric(backend={backend!r}): installed are {", ".join(found)}')
        self._classes = found[backend or next(iter(found))]
        self._ann_file = ann_file
        self.class_precision: Dict[str, float] = {}
        with mock.patch.object(coco_metric, 'COCO', self._load_truth):
            super().__init__(ann_file, *args, **kwargs)
        self._reports_classes, self.classwise = self.classwise, True

    def _load_truth(self, path: str):
        """Index the annotations. MMDetection calls this where it would construct its own COCO."""
        content = self._read_content(path)
        boxes = content.get('annotations', [])
        finite = [box for box in boxes if math.isfinite(sum(box['bbox']))]
        if len(finite) < len(boxes):  # no detection can match the others, and they have no area
            MMLogger.get_current_instance().warning(
                f'{self._ann_file}: {len(boxes) - len(finite)} boxes were dropped from the evaluation ({NOT_FINITE})')
            content['annotations'] = finite
        return index_annotations(content, self._classes[0])

    def _read_content(self, path: str) -> dict:
        return load_annotations(path, self._ann_file, needs_annotations=not self.format_only,
                                required=REQUIRED_BY_METRIC)

    @MMDetCocoMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        # MMEngine sets this when it builds a loop, so a class without a category ends a run before it starts.
        self._dataset_meta = dataset_meta
        if self._coco_api is not None:
            self.cat_ids = sorted(self._ids_by_label())

    def _ids_by_label(self) -> List[int]:
        return category_ids(self._coco_api.dataset['categories'], self.dataset_meta['classes'], self._ann_file)

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict:
        # MMDetection indexes `cat_ids` with labels here. Its table of classes later indexes the precision with the same
        # list, and COCO's evaluation sorts the ids.
        with mock.patch.object(self, 'cat_ids', self._ids_by_label()):
            return super().results2json(results, outfile_prefix)

    def compute_metrics(self, results: list) -> Dict[str, float]:
        # MMDetection's metric takes both classes from its module.
        with mock.patch.multiple(coco_metric, COCO=self._classes[0], COCOeval=self._classes[1]):
            metrics = super().compute_metrics(results)
        if 'bbox' in self.metrics and not self.format_only:
            for name in self.metric_items or BOX_METRICS:
                metrics.setdefault(f'bbox_{name}', 0.0)
            self._take_class_precision(metrics)
        return metrics

    def _take_class_precision(self, metrics: Dict[str, float]) -> None:
        take = metrics.get if self._reports_classes else metrics.pop
        self.class_precision = {name: float(take(f'{name}_precision', 0.0)) for name in self.dataset_meta['classes']}


@METRICS.register_module()
class FolderMetric(CocoMetric):
    """CocoMetric on one split of a data set in COCO, YOLO or Pascal VOC layout.

    Args:
        path, split, val_share: As of ``FolderDataset``.
        kwargs: As of ``CocoMetric``, except ``ann_file``.
    """

    def __init__(self, path: str, split: str, val_share: float = 0.2, **kwargs) -> None:
        self._source = (path, split, val_share)
        super().__init__(read_split(*self._source).source, **kwargs)

    def _read_content(self, path: str) -> dict:
        return read_split(*self._source).content
