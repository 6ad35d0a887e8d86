"""Compute everything that the page about a detector shows, in one pass over the images of a split."""
import contextlib
import datetime
import logging
import math
import os
from collections import defaultdict
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.logging import MMLogger
from tqdm import tqdm

from ..card import installed_versions
from ..datasets.annotations import some
from ..datasets.layouts import Split
from ..errors import SetupError
from ..evaluation import CocoMetric
from ..evaluation.coco_metric import BOX_METRICS
from ..inference import Detector, ImageError, Result
from ..inference.images import Source
from . import history, pictures, uncertainty
from .mistakes import Truth
from .tally import Tally

RECALLS = np.linspace(0, 1, 101)
MOST_CURVES = 20  # of single classes


class Subject(NamedTuple):
    """What the page is about.

    Attributes:
        checkpoint: Path or URL.
        run: The folder of the run that trained it, if it is known.
        config: Name of its config, if it is known.
        data: Path of the data set.
        split_name: ``'train'``, ``'val'`` or ``'test'``.
        split: The images, and their objects.
        label_of: The detector's label of each category, by the category's id; -1 for one that it does not know.
        notes: Sentences to show.
    """
    checkpoint: str
    run: Optional[str]
    config: Optional[str]
    data: str
    split_name: str
    split: Split
    label_of: Dict[int, int]
    notes: Sequence[str] = ()


class SplitMetric(CocoMetric):
    """CocoMetric on a split that is in memory, and on classes of which it has no objects.

    Args:
        split: Its content is complete (:func:`gfl_plugin.datasets.annotations.complete`).
        classes: C names. Those that the split has no category for get one.
    """

    def __init__(self, split: Split, classes: Sequence[str]) -> None:
        known = {category['name'] for category in split.content['categories']}
        free = max([0, *(category['id'] for category in split.content['categories'])]) + 1
        new = [dict(id=free + number, name=name) for number, name in enumerate(
            name for name in classes if name not in known)]
        self._content = dict(split.content, annotations=[dict(entry) for entry in split.content['annotations']],
                             categories=[*split.content['categories'], *new])
        super().__init__(split.source, metric_items=[*BOX_METRICS, 'AR@100'])
        self.dataset_meta = dict(classes=tuple(classes))

    def _read_content(self, path: str) -> dict:
        return self._content


def read_report(detector: Detector, subject: Subject) -> Dict[str, Any]:
    """Detect on the images of a split, and compute what the page shows, as data for JSON.

    An image that cannot be read is left out, and a note says so.

    Args:
        detector: Its ``score_thr`` is that of the detections that the page shows.
        subject: What it is about.

    Raises:
        SetupError: No image can be read, or the annotations do not fit.
    """
    notes = [*subject.notes, *_ask_for_distributions(detector)]
    metric = SplitMetric(subject.split, detector.classes)
    tally = Tally(len(detector.classes), detector.score_thr)
    truths, failed = _objects(subject), {}
    for image, result in _detect(detector, subject.split, failed):
        metric.process({}, [_sample(image, result)])
        tally.add(image['file_name'], result, truths[image['id']])
    if not tally.num_images:
        raise SetupError(f'None of the {len(failed)} images of {subject.data} can be read. The first: '
                         + next((f'{name}: {reason}' for name, reason in failed.items()), 'there is none'))
    notes += _note_images(failed, tally.num_images) + _note_classes(subject, detector.classes)
    shown, worst, doubtful = tally.images()
    logged = None if subject.run is None else history.read_history(subject.run)
    return plain(dict(
        title=_title(subject), made=datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        versions=_without_date(installed_versions()), about=_describe(detector, subject, tally, logged),
        **_measure(metric, tally, detector.classes),
        verdict=history.judge(logged), training=None if logged is None else history.draw_curves(logged),
        confusion=tally.confusion(detector.classes), errors=tally.errors(), quality=tally.quality(),
        uncertainty=_measure_uncertainty(detector, tally),
        images=[pictures.describe(one) for one in shown], worst=worst, doubtful=doubtful,
        rules=dict(worst='The images with the most errors of all kinds together; of equally many, those with the '
                   'fewest correct detections',
                   doubtful='The images with the largest doubt. Doubt is the mean spread of the four sides of a box, '
                   'as a share of the square root of its area; an image has that of its most doubtful box'),
        notes=notes))


# ---- detections and objects ----

def _ask_for_distributions(detector: Detector) -> List[str]:
    """Ask for the distributions of the sides, or say why there are none."""
    try:
        detector.ask_for_distributions()
    except SetupError:
        return ['This detector does not say how far each side of a box can be trusted, so the page shows no spreads '
                'and no distributions. gfl_plugin.GFLHead says it, unless its box is DiracDelta.']
    return []


def _detect(detector: Detector, split: Split, failed: Dict[str, str]) -> Iterator[Tuple[dict, Result]]:
    """Yield each image that can be read, and all of its detections. Note the others in ``failed``, by their names."""
    images = split.content['images']
    paths = [os.path.join(split.images, image['file_name']) for image in images]

    def note(error: ImageError) -> None:
        failed[error.name] = error.reason
        bar.update()

    with tqdm(total=len(images), unit='image', disable=None) as bar:
        results = detector.stream([Source(path, path) for path in paths], score_thr=0, on_error=note)
        waiting = iter(zip(images, paths))
        for result in results:
            yield next(image for image, path in waiting if path not in failed), result
            bar.update()


def _objects(subject: Subject) -> Dict[int, Truth]:
    """The objects of each image that the detector knows, by the image's id. Boxes that are not finite are left out."""
    entries = defaultdict(list)
    for entry in subject.split.content['annotations']:
        if subject.label_of.get(entry['category_id'], -1) >= 0 and all(map(math.isfinite, entry['bbox'])):
            entries[entry['image_id']].append(entry)
    return {image['id']: _truth(entries[image['id']], subject.label_of) for image in subject.split.content['images']}


def _truth(entries: Sequence[dict], label_of: Dict[int, int]) -> Truth:
    boxes = np.array([entry['bbox'] for entry in entries], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Truth(boxes, np.array([label_of[entry['category_id']] for entry in entries], int),
                 np.array([bool(entry.get('iscrowd') or entry.get('ignore')) for entry in entries], bool))


def _sample(image: dict, result: Result) -> Dict[str, Any]:
    """What the metric takes of an image."""
    found = {name: torch.from_numpy(values) for name, values in (
        ('bboxes', result.boxes), ('scores', result.scores), ('labels', result.labels))}
    return dict(img_id=image['id'], ori_shape=result.size[::-1], pred_instances=found)


# ---- numbers ----

def _measure(metric: CocoMetric, tally: Tally, names: Sequence[str]) -> Dict[str, Any]:
    """COCO's metrics, rows of the classes, and curves of precision and recall at an IoU of 0.5."""
    metric.img_ids = [truth['img_id'] for truth, _ in metric.results]  # those that could be read
    with _quiet():
        scores = metric.compute_metrics(metric.results)
    has_objects = tally.objects > 0
    # COCO's -1 means that there are no such objects. CocoMetric gives 0 if nothing was detected.
    metrics = {name.removeprefix('bbox_').replace('@', '_'): None if value < 0 or not has_objects.any() else value
               for name, value in scores.items()}
    ap = [None if math.isnan(value) else value for value in metric.class_precision.values()]
    curves = np.zeros((len(RECALLS), len(names))) if metric.precision is None else metric.precision[0]
    ap50 = [round(float(curve.mean()), 3) if known else None for curve, known in zip(curves.T, has_objects)]
    most = [index for index in np.argsort(-tally.objects, kind='stable')[:MOST_CURVES].tolist() if has_objects[index]]
    return dict(metrics=metrics, classes=tally.classes(names, ap, ap50), precision_recall=dict(
        recall=RECALLS.round(2).tolist(),
        mean=curves[:, has_objects].mean(1).round(4).tolist() if has_objects.any() else [None] * len(RECALLS),
        classes={index: curves[:, index].round(4).tolist() for index in most}))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MMDetection's tables of the metrics from the screen: the page has them."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _measure_uncertainty(detector: Detector, tally: Tally) -> Optional[Dict[str, Any]]:
    matched, scores = tally.matched()
    return uncertainty.compare(matched, scores, detector.calibration) if tally.has_spreads else None


# ---- about ----

def _title(subject: Subject) -> str:
    return os.path.basename(os.path.abspath(subject.run)) if subject.run else os.path.basename(subject.checkpoint)


def _describe(detector: Detector, subject: Subject, tally: Tally, logged: Optional[history.History]) -> Dict[str, Any]:
    epochs = [one['epoch'] for one in logged.iterations if one.get('epoch') is not None] if logged else []
    return dict(
        checkpoint=subject.checkpoint, run=subject.run, config=subject.config, classes=list(detector.classes),
        trained_on=detector.card.trained_on, trained_with=detector.card.versions, data=subject.data,
        split=subject.split_name, images=tally.num_images, objects=int(tally.objects.sum()),
        score_thr=detector.score_thr, epochs=max(epochs, default=None),
        parameters=sum(values.numel() for values in detector.model.parameters()))


def _without_date(versions: Dict[str, str]) -> Dict[str, str]:
    return {name: version for name, version in versions.items() if name != 'date'}


def _note_images(failed: Dict[str, str], read: int) -> List[str]:
    if not failed:
        return []
    names = [os.path.basename(name) for name in failed]
    return [f'{len(failed)} of the {len(failed) + read} images cannot be read ({some(names)}). All numbers are of the '
            'others.']


def _note_classes(subject: Subject, classes: Sequence[str]) -> List[str]:
    categories = subject.split.content['categories']
    unknown = [category['name'] for category in categories if subject.label_of[category['id']] < 0]
    missing = sorted(set(classes) - {category['name'] for category in categories})
    return [*([f'The detector does not know {len(unknown)} classes of the data ({some(unknown)}). Their objects are '
               'left out.'] if unknown else []),
            *([f'The data have no class {some(missing)}, which the detector knows.'] if missing else [])]


def plain(node: Any) -> Any:
    """Copy nested data as JSON takes them: plain numbers, and None in the place of those that are not finite."""
    if isinstance(node, dict):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple, np.ndarray)):
        return [plain(value) for value in node]
    if isinstance(node, np.generic):
        node = node.item()
    return None if isinstance(node, float) and not math.isfinite(node) else node
