"""COCO's metric by faster-coco-eval and by pycocotools, on random detections."""
import contextlib
import copy
import os
from typing import Dict, List, Tuple

import torch

from ..errors import SetupError
from ..evaluation.coco_metric import evaluators
from .timing import Row, compare_times, in_turn


def compare_evaluation(images: int, rounds: int) -> List[Row]:
    """Measure both evaluators on the same detections, and how far apart their numbers are.

    Raises:
        SetupError: Only one evaluator is installed.
    """
    if len(evaluators()) < 2:
        raise SetupError('There is nothing to compare with: pip install faster-coco-eval')
    results = random_results(images)
    numbers: Dict[str, List[float]] = {}

    def run(backend: str) -> None:
        numbers[backend] = twelve_numbers(*results, backend)

    pairs = in_turn(*(lambda backend=backend: run(backend) for backend in evaluators()), rounds, 'cpu')
    difference = max(abs(a - b) for a, b in zip(*numbers.values()))
    return [compare_times(f'evaluation of {images} images, 100 detections each (pycocotools)', pairs),
            Row('  largest difference of the twelve numbers', difference, 0.0, '', 1.0, (1.0, 1.0))]


def twelve_numbers(truth: dict, detections: List[dict], backend: str) -> List[float]:
    """COCO's twelve numbers of detections in COCO's JSON format, by one of :func:`evaluators`."""
    make_data, make_evaluation = evaluators()[backend]
    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):
        data = make_data()
        data.dataset = copy.deepcopy(truth)
        data.createIndex()
        evaluation = make_evaluation(data, data.loadRes(copy.deepcopy(detections)), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats[:12])


def random_results(images: int, objects: int = 7, found: int = 100) -> Tuple[dict, List[dict]]:
    """COCO-format annotations of random objects, and detections near the objects of each image."""
    generator = torch.Generator().manual_seed(0)
    annotations, detections = [], []
    for image in range(images):
        corner = torch.rand(objects, 2, generator=generator) * 400
        boxes = torch.cat([corner, 10 + torch.rand(objects, 2, generator=generator) * 150], 1)
        labels = torch.randint(1, 81, (objects, ), generator=generator)
        for box, label in zip(boxes.tolist(), labels.tolist()):
            annotations.append(dict(id=len(annotations) + 1, image_id=image + 1, category_id=label, bbox=box,
                                    area=box[2] * box[3], iscrowd=0))
        near = torch.randint(0, objects, (found, ), generator=generator)
        shifted = boxes[near] + torch.randn(found, 4, generator=generator) * 6
        shifted[:, 2:].clamp_(min=1)
        scores = torch.rand(found, generator=generator)
        detections += [dict(image_id=image + 1, category_id=label, bbox=box, score=score)
                       for box, label, score in zip(shifted.tolist(), labels[near].tolist(), scores.tolist())]
    truth = dict(info={}, images=[dict(id=i + 1, width=640, height=640, file_name='') for i in range(images)],
                 annotations=annotations, categories=[dict(id=i, name=str(i)) for i in range(1, 81)])
    return truth, detections
