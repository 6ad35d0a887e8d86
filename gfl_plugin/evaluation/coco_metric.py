"""COCO's detection metric, computed by the fastest implementation that is installed."""
import importlib.util
import math
from collections import defaultdict
from typing import Callable, Dict, List, Optional, Sequence, Tuple
from unittest import mock

import numpy as np
from mmdet.evaluation.metrics import CocoMetric as MMDetCocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmengine.logging import MMLogger

from ..datasets.annotations import NOT_FINITE, REQUIRED_BY_METRIC, category_ids, load_annotations
from ..datasets.coco import index_annotations
from ..datasets.folder import read_split
from ..errors import SetupError
from ..registry import METRICS
from .matching import ABSORBED, OperatingPoint, best_f1, match_detections

BOX_METRICS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


def evaluators() -> Dict[str, Tuple[Callable, Callable]]:
    """List the installed implementations of COCO's evaluation, fastest first: (COCO class, COCOeval class) by name."""
    found = {'pycocotools': (coco_metric.COCO, coco_metric.COCOeval)}
    if importlib.util.find_spec('faster_coco_eval'):
        from faster_coco_eval import COCO, COCOeval_faster
        found = {'faster-coco-eval': (COCO, COCOeval_faster), **found}
    return found


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """MMDetection's CocoMetric, computed by faster-coco-eval or else by pycocotools, which give the same numbers.

    The annotation file is checked and completed as for training: a missing ``area`` becomes the area of the box, a
    missing ``iscrowd`` becomes 0, and ids start at 1. Boxes that are not finite are left out with a warning.

    Unlike mmdet: classes and categories are matched by name, whatever the order of the file's categories. Every AP is 0
    if nothing was detected; MMDetection reports none. After each evaluation ``class_precision`` has the AP of each
    class by its name; ``classwise=True`` also reports them among the metrics. ``best_f1`` has the best F1 over all
    classes at an IoU of 0.5, and ``score_thr`` the score threshold that gives it. ``precision`` (T, R, C) has the
    precision at T IoUs and R recalls of each class; it is -1 for a class without objects. It is None if nothing was
    detected and pycocotools computes none.

    Args:
        ann_file: Path of the annotation file; without one, the metric uses the ground truth of the data samples.
        backend: ``'faster-coco-eval'`` or ``'pycocotools'``; by default, the first of these that is installed.
        args, kwargs: Passed on to MMDetection's metric.

    Raises:
        SetupError: The backend is not installed, the annotation file is not usable, or it has no category for a class.
    """

    def __init__(self, ann_file: Optional[str] = None, *args, backend: Optional[str] = None, **kwargs) -> None:
        found = evaluators()
        if backend is not None and backend not in found:
            raise SetupError(f'CocoMetric(backend={backend!r}): the installed backends are {", ".join(found)}')
        self._classes = found[backend or next(iter(found))]
        self._ann_file = ann_file
        self.class_precision: Dict[str, float] = {}
        self.best_f1: Optional[OperatingPoint] = None
        self.precision: Optional[np.ndarray] = None
        with mock.patch.object(coco_metric, 'COCO', self._load_truth):
            super().__init__(ann_file, *args, **kwargs)
        self._reports_classes, self.classwise = self.classwise, True

    @property
    def score_thr(self) -> Optional[float]:
        """The score threshold of the best F1 in the last evaluation of boxes; None if no detection was right."""
        return None if self.best_f1 is None else self.best_f1.score_thr

    def _load_truth(self, path: str):
        """Read and index the annotations. MMDetection calls this in place of the constructor of its COCO."""
        content = self._read_content(path)
        boxes = content.get('annotations', [])
        finite = [box for box in boxes if math.isfinite(sum(box['bbox']))]
        if len(finite) < len(boxes):  # no detection can match a NaN box, and it has no area
            MMLogger.get_current_instance().warning(
                f'{self._ann_file}: {len(boxes) - len(finite)} boxes were dropped from the evaluation ({NOT_FINITE})')
            content['annotations'] = finite
        return index_annotations(content, self._classes[0])

    def _read_content(self, path: str) -> dict:
        return load_annotations(path, self._ann_file, needs_annotations=not self.format_only,
                                required=REQUIRED_BY_METRIC)

    @MMDetCocoMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        # MMEngine sets this when it builds a loop, so a class without a category stops the run before it starts.
        if 'classes' not in (dataset_meta or {}):
            raise SetupError('The metric does not know the classes of the data set. Set metainfo=dict(classes=...) in '
                             'the data set of the config')
        self._dataset_meta = dataset_meta
        if self._coco_api is not None:
            self.cat_ids = sorted(self._ids_by_label())

    def _ids_by_label(self) -> List[int]:
        return category_ids(self._coco_api.dataset['categories'], self.dataset_meta['classes'], self._ann_file)

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict:
        # Here MMDetection indexes `cat_ids` with labels, so the list must be in the order of the labels. Elsewhere it
        # must be sorted: MMDetection's table of classes indexes the precision with it, and COCOeval sorts the ids.
        with mock.patch.object(self, 'cat_ids', self._ids_by_label()):
            return super().results2json(results, outfile_prefix)

    def compute_metrics(self, results: list) -> Dict[str, float]:
        evaluations: list = []

        def start_evaluation(*args):
            evaluations.append(self._classes[1](*args))
            return evaluations[-1]

        # MMDetection's metric looks both classes up in its module.
        with mock.patch.multiple(coco_metric, COCO=self._classes[0], COCOeval=start_evaluation):
            metrics = super().compute_metrics(results)
        if 'bbox' in self.metrics and not self.format_only:
            for name in self.metric_items or BOX_METRICS:
                metrics.setdefault(f'bbox_{name}', 0.0)
            self._take_class_precision(metrics)
            self.precision = next((self._order_by_label(one.eval['precision']) for one in evaluations
                                   if one.params.iouType == 'bbox' and one.params.useCats), None)
            self.best_f1 = self._find_best_f1([found for _, found in results])
        return metrics

    def _take_class_precision(self, metrics: Dict[str, float]) -> None:
        take = metrics.get if self._reports_classes else metrics.pop
        self.class_precision = {name: float(take(f'{name}_precision', 0.0)) for name in self.dataset_meta['classes']}

    def _order_by_label(self, precision: np.ndarray) -> np.ndarray:
        """(T, R, C) of objects of all sizes from COCOeval's (T, R, C, sizes, numbers of detections)."""
        place = {category: index for index, category in enumerate(self.cat_ids)}
        return precision[:, :, [place[category] for category in self._ids_by_label()], 0, -1]

    def _find_best_f1(self, results: Sequence[dict]) -> Optional[OperatingPoint]:
        """Match the detections of all images. MMDetection's metric has indexed the ground truths before."""
        labels = {category: label for label, category in enumerate(self._ids_by_label())}
        truth, images = defaultdict(list), set(self.img_ids)
        for entry in self._coco_api.dataset.get('annotations', ()):
            if entry['category_id'] in labels and entry['image_id'] in images:
                truth[entry['image_id']].append(entry)
        scores, is_true = [], []
        for found in results:
            entries = truth[found['img_id']]
            boxes = np.array([entry['bbox'] for entry in entries], dtype=float).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            index = match_detections(found['bboxes'], found['scores'], found['labels'], boxes,
                                     np.array([labels[entry['category_id']] for entry in entries]),
                                     np.array([bool(entry['iscrowd']) for entry in entries])).gt_index
            scores.append(found['scores'][index != ABSORBED])
            is_true.append(index[index != ABSORBED] >= 0)
        num_truth = sum(not entry['iscrowd'] for entries in truth.values() for entry in entries)
        return best_f1(np.concatenate(scores), np.concatenate(is_true), num_truth)


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
