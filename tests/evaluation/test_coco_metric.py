"""COCO's metric by either implementation."""
import json

import pytest
import torch
from mmdet.registry import METRICS

from gfl_plugin.engine.measure import random_results, twelve_numbers
from gfl_plugin.errors import SetupError
from gfl_plugin.evaluation.coco_metric import evaluators

IMAGES = 12
NUMBERS = [f'mAP{end}' for end in ('', '_50', '_75', '_s', '_m', '_l')] + [
    f'AR{end}' for end in ('@100', '@300', '@1000', '_s@1000', '_m@1000', '_l@1000')]


def evaluate(tmp_path, **options):
    truth, detections = random_results(IMAGES)
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    metric = METRICS.build(dict(type='gfl_plugin.CocoMetric', ann_file=str(tmp_path / 'truth.json'), metric='bbox',
                                metric_items=NUMBERS, **options))
    metric.dataset_meta = dict(classes=[str(i) for i in range(1, 81)])
    for image in range(1, IMAGES + 1):
        mine = [d for d in detections if d['image_id'] == image]
        boxes = torch.tensor([d['bbox'] for d in mine])
        boxes[:, 2:] += boxes[:, :2]
        found = dict(bboxes=boxes, scores=torch.tensor([d['score'] for d in mine]),
                     labels=torch.tensor([d['category_id'] - 1 for d in mine]))
        metric.process({}, [dict(img_id=image, ori_shape=(640, 640), pred_instances=found)])
    return {name: value for name, value in metric.evaluate(IMAGES).items() if 'copypaste' not in name}


both = pytest.mark.skipif('faster-coco-eval' not in evaluators(), reason='faster-coco-eval is not installed')


@both
def test_the_implementations_agree():
    """Before MMDetection rounds them to three digits."""
    results = random_results(IMAGES)
    fast, slow = (twelve_numbers(*results, name) for name in evaluators())
    assert fast == pytest.approx(slow, abs=1e-6)


@both
def test_the_twelve_numbers_are_the_same(tmp_path):
    fast, slow = (evaluate(tmp_path, backend=name) for name in ('faster-coco-eval', 'pycocotools'))
    assert len(fast) == 12 and fast.keys() == slow.keys()
    assert 0.05 < slow['coco/bbox_mAP'] < 0.95, 'the numbers should be of detections that are partly right'
    for name in slow:
        assert fast[name] == pytest.approx(slow[name], abs=1e-6), name
    assert evaluate(tmp_path) == fast, 'the faster one should be the default'


def test_pycocotools_serves_where_the_faster_one_is_missing(tmp_path, monkeypatch):
    slow = evaluate(tmp_path, backend='pycocotools')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert evaluate(tmp_path) == slow
    with pytest.raises(SetupError, match='installed are pycocotools'):
        evaluate(tmp_path, backend='faster-coco-eval')
