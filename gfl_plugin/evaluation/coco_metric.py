"""COCO's detection metric, computed by the fastest implementation that is installed."""
import importlib.util
from typing import Callable, Dict, Optional, Tuple
from unittest import mock

from mmdet.evaluation.metrics import CocoMetric as MMDetCocoMetric
from mmdet.evaluation.metrics import coco_metric

from ..errors import SetupError
from ..registry import METRICS


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

    Args:
        backend: ``'faster-coco-eval'`` or ``'pycocotools'``; the first that is installed by default.
        args, kwargs: As MMDetection's.

    Raises:
        SetupError: The backend is not installed.
    """

    def __init__(self, *args, backend: Optional[str] = None, **kwargs) -> None:
        found = evaluators()
        if backend is not None and backend not in found:
            raise SetupError(f'CocoMetric(backend={backend!r}): installed are {", ".join(found)}')
        self._classes = found[backend or next(iter(found))]
        with self._by_backend():
            super().__init__(*args, **kwargs)

    def _by_backend(self):
        """MMDetection's metric takes its two classes from its module."""
        return mock.patch.multiple(coco_metric, COCO=self._classes[0], COCOeval=self._classes[1])

    def compute_metrics(self, results: list) -> Dict[str, float]:
        with self._by_backend():
            return super().compute_metrics(results)
