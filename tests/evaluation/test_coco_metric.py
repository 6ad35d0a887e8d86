"""COCO's metric, computed by each of its implementations."""
import copy
import itertools
import json

import pytest
import torch
from mmdet.registry import METRICS

from gfl_plugin.benchmark.evaluation import random_results, twelve_numbers
from gfl_plugin.errors import SetupError
from gfl_plugin.evaluation.coco_metric import evaluators

IMAGES = 12
SIDES = dict(small=20, medium=60, large=150)  # pixels: one object of each of COCO's size classes
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


def truth(images=3):
    """Annotations: in each image, two classes with a small, a medium and a large object each."""
    annotations = [dict(image_id=image, category_id=category, bbox=[200 * place, 300 * category - 300, side, side],
                        area=side**2, iscrowd=0)
                   for image in range(1, images + 1) for category in (1, 2)
                   for place, side in enumerate(SIDES.values())]
    return dict(images=[dict(id=i, width=640, height=640, file_name=f'{i}.jpg') for i in range(1, images + 1)],
                categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
                annotations=[dict(entry, id=number) for number, entry in enumerate(annotations, 1)])


def evaluate_perfect(path, content, classes=('cat', 'dog'), **options):
    """Write annotations to a file, and evaluate a detector that finds every object and names its class."""
    path.write_text(json.dumps(content))
    metric = METRICS.build(dict(type='gfl_plugin.CocoMetric', ann_file=str(path), **options))
    metric.dataset_meta = dict(classes=classes)
    names = {category['id']: category['name'] for category in content['categories']}
    for image in content['images']:
        mine = [entry for entry in content['annotations'] if entry['image_id'] == image['id']
                and not entry.get('iscrowd') and names[entry['category_id']] in classes]
        boxes = torch.tensor([entry['bbox'] for entry in mine], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found = dict(bboxes=boxes, scores=torch.linspace(1, 0.5, len(mine)),
                     labels=torch.tensor([classes.index(names[entry['category_id']]) for entry in mine]).long())
        metric.process({}, [dict(img_id=image['id'], ori_shape=(image['height'], image['width']),
                                 pred_instances=found)])
    return metric.evaluate(len(content['images']))


def strip(content, without):
    """Copy annotations as a careless tool would write them: without some keys, or with ids from 0."""
    content = copy.deepcopy(content)
    for number, entry in enumerate(content['annotations']):
        for key in set(without) & {'area', 'iscrowd'}:
            del entry[key]
        if 'id' in without:
            entry['id'] = number
    return content


def assert_perfect(results):
    for end in ('', '_50', '_75', '_s', '_m', '_l'):
        assert results[f'coco/bbox_mAP{end}'] == 1, f'every object was found, so AP should be 1: {results}'


both = pytest.mark.skipif('faster-coco-eval' not in evaluators(), reason='faster-coco-eval is not installed')


@both
def test_the_implementations_agree():
    """Compare all digits; MMDetection rounds to three."""
    results = random_results(IMAGES)
    fast, slow = (twelve_numbers(*results, name) for name in evaluators())
    assert fast == pytest.approx(slow, abs=1e-6)


@both
def test_the_twelve_numbers_are_the_same(tmp_path):
    fast, slow = (evaluate(tmp_path, backend=name) for name in ('faster-coco-eval', 'pycocotools'))
    assert len(fast) == 12 and fast.keys() == slow.keys()
    assert 0.05 < slow['coco/bbox_mAP'] < 0.95, 'only some detections should be right, otherwise this tests little'
    for name in slow:
        assert fast[name] == pytest.approx(slow[name], abs=1e-6), name
    assert evaluate(tmp_path) == fast, 'the faster implementation should be the default'


def test_pycocotools_is_used_if_the_faster_one_is_missing(tmp_path, monkeypatch):
    slow = evaluate(tmp_path, backend='pycocotools')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert evaluate(tmp_path) == slow
    with pytest.raises(SetupError, match='the installed backends are pycocotools'):
        evaluate(tmp_path, backend='faster-coco-eval')


LEFT_OUT = [keys for count in range(4) for keys in itertools.combinations(('area', 'iscrowd', 'id'), count)]


@pytest.mark.parametrize('backend', evaluators())
@pytest.mark.parametrize('without', LEFT_OUT, ids='_'.join)
def test_missing_keys_are_completed(tmp_path, backend, without):
    content = strip(truth(), without)
    assert_perfect(evaluate_perfect(tmp_path / 'boxes.json', content, backend=backend))
    assert json.loads((tmp_path / 'boxes.json').read_text()) == content, "the user's file should not change"


@pytest.mark.parametrize('backend', evaluators())
def test_real_annotations_with_missing_keys(tiny_coco, tmp_path, backend):
    with open(f'{tiny_coco}/annotations/instances_val2017.json') as file:
        content = json.load(file)
    content['annotations'] = [entry for entry in content['annotations'] if not entry['iscrowd']]
    classes = [category['name'] for category in content['categories']]
    assert_perfect(evaluate_perfect(tmp_path / 'boxes.json', strip(content, ('area', 'iscrowd', 'id')), classes,
                                    backend=backend, proposal_nums=(100, 300, 1000)))


@pytest.mark.parametrize('backend', evaluators())
def test_boxes_that_are_not_finite_are_left_out_with_a_warning(tmp_path, backend, log):
    content = truth()
    finite = copy.deepcopy(content)
    content['annotations'].insert(0, dict(id=99, image_id=1, category_id=1, bbox=[5, 5, float('nan'), 5]))
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    metric = METRICS.build(dict(type='gfl_plugin.CocoMetric', ann_file=str(tmp_path / 'boxes.json'), backend=backend))
    assert metric._coco_api.dataset['annotations'] == finite['annotations'], 'the other boxes should not change'
    said = '1 boxes were dropped from the evaluation (boxes not finite)'
    assert any(said in line for line in log()), 'a warning should count the dropped box'


def test_a_malformed_annotation_is_refused(tmp_path):
    content = truth()
    content['annotations'][4]['area'] = 'large'
    with pytest.raises(SetupError, match=r"boxes.json: annotations\[4\] \(id 5\) has the area 'large', not a finite"):
        evaluate_perfect(tmp_path / 'boxes.json', content)


def test_results_for_a_server_need_no_annotations(tmp_path):
    """COCO's image_info_test-dev2017.json has none."""
    content = dict(truth(), annotations=[])
    prefix = str(tmp_path / 'results')
    assert evaluate_perfect(tmp_path / 'boxes.json', content, format_only=True, outfile_prefix=prefix) == {}
    del content['annotations']
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    settings = dict(type='gfl_plugin.CocoMetric', ann_file=str(tmp_path / 'boxes.json'))
    METRICS.build(dict(settings, format_only=True, outfile_prefix=prefix))
    with pytest.raises(SetupError, match='boxes.json: annotations is missing from the file'):
        METRICS.build(settings)


REORDERED = {  # the categories of the file, and the classes of the config
    'classes': ([(1, 'cat'), (2, 'dog')], ('dog', 'cat')),
    'categories': ([(2, 'dog'), (1, 'cat')], ('cat', 'dog')),
    'ids': ([(2, 'cat'), (1, 'dog')], ('cat', 'dog')),
    'both': ([(1, 'dog'), (7, 'bird'), (2, 'cat')], ('cat', 'bird', 'dog')),
    'a_subset': ([(1, 'dog'), (7, 'bird'), (2, 'cat')], ('cat', 'dog')),
    'one_class': ([(2, 'dog'), (1, 'cat')], ('cat', )),
}


@pytest.mark.parametrize('backend', evaluators())
@pytest.mark.parametrize('kind', REORDERED)
def test_classes_are_matched_by_name(tmp_path, backend, kind):
    categories, classes = REORDERED[kind]
    content = dict(truth(), categories=[dict(id=id, name=name) for id, name in categories])
    results = evaluate_perfect(tmp_path / 'boxes.json', content, classes, backend=backend, classwise=True,
                               outfile_prefix=str(tmp_path / 'results'))
    assert_perfect(results)
    assert {name for name in classes if f'coco/{name}_precision' in results} == set(classes), \
        'every class should have its precision'
    written = json.loads((tmp_path / 'results.bbox.json').read_text())
    expected = {(entry['image_id'], entry['category_id'], *entry['bbox']) for entry in content['annotations']
                if dict(categories)[entry['category_id']] in classes}
    assert {(entry['image_id'], entry['category_id'], *entry['bbox']) for entry in written} == expected, \
        'the results file should use the ids of the annotation file'


@pytest.mark.parametrize('backend', evaluators())
@pytest.mark.parametrize('kind', ['classes', 'categories', 'ids', 'both'])
def test_each_class_gets_its_own_precision(tmp_path, backend, kind):
    """COCOeval sorts the ids, so its table of precisions is not in the order of the classes."""
    categories, classes = REORDERED[kind]
    content = dict(truth(), categories=[dict(id=id, name=name) for id, name in categories])
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    metric = METRICS.build(dict(type='gfl_plugin.CocoMetric', ann_file=str(tmp_path / 'boxes.json'), backend=backend,
                                classwise=True))
    metric.dataset_meta = dict(classes=classes)
    cat = {name: id for id, name in categories}['cat']
    for image in content['images']:
        boxes = torch.tensor([entry['bbox'] for entry in content['annotations']
                              if entry['image_id'] == image['id'] and entry['category_id'] == cat])
        boxes[:, 2:] += boxes[:, :2]
        found = dict(bboxes=boxes, scores=torch.ones(3), labels=torch.full((3, ), classes.index('cat')))
        metric.process({}, [dict(img_id=image['id'], ori_shape=(640, 640), pred_instances=found)])
    results = metric.evaluate(len(content['images']))
    assert (results['coco/cat_precision'], results['coco/dog_precision']) == (1, 0), \
        'only cats were detected, so only their precision should be 1'
    means = dict(zip(classes, metric.precision.mean((0, 1))))
    assert metric.precision.shape == (10, 101, len(classes)) and (means['cat'], means['dog']) == (1, 0)
    assert means.get('bird', -1) == -1, 'there are no birds'


@pytest.mark.parametrize('backend', evaluators())
def test_without_detections_there_is_no_precision(tmp_path, backend):
    (tmp_path / 'boxes.json').write_text(json.dumps(truth(1)))
    metric = METRICS.build(dict(type='gfl_plugin.CocoMetric', ann_file=str(tmp_path / 'boxes.json'), backend=backend))
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    nothing = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())
    metric.process({}, [dict(img_id=1, ori_shape=(640, 640), pred_instances=nothing)])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 0
    assert metric.precision is None if backend == 'pycocotools' else (metric.precision == 0).all()


def test_a_class_without_category_ends_an_evaluation_before_it_starts(tmp_path):
    (tmp_path / 'boxes.json').write_text(json.dumps(truth()))
    metric = METRICS.build(dict(type='gfl_plugin.CocoMetric', ann_file=str(tmp_path / 'boxes.json')))
    with pytest.raises(SetupError, match=r'1 of the 3 classes of the data set \(bird\) .*boxes.json \(cat, dog\)'):
        metric.dataset_meta = dict(classes=('cat', 'bird', 'dog'))


def test_the_ground_truth_may_come_from_the_data_samples():
    """There is no annotation file."""
    metric = METRICS.build(dict(type='gfl_plugin.CocoMetric'))
    metric.dataset_meta = dict(classes=('dog', 'cat'))
    boxes = torch.tensor([[0., 0, 50, 50], [100, 100, 300, 300]])
    instances = [dict(bbox=box, bbox_label=label) for label, box in enumerate(boxes.tolist())]
    found = dict(bboxes=boxes, scores=torch.ones(2), labels=torch.arange(2))
    metric.process({}, [dict(img_id=5, ori_shape=(400, 400), instances=instances, pred_instances=found)])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 1


def test_a_data_set_without_classes_is_a_mistake(tmp_path):
    (tmp_path / 'truth.json').write_text(json.dumps(truth()))
    metric = METRICS.build(dict(type='gfl_plugin.CocoMetric', ann_file=str(tmp_path / 'truth.json')))
    with pytest.raises(SetupError, match=r'Set metainfo=dict\(classes='):
        metric.dataset_meta = {}


@pytest.mark.parametrize('with_file', [True, False])
def test_the_threshold_of_the_best_f1(with_file, tmp_path):
    """Two cats and a crowd of dogs; the classes come in another order than the categories.

    The right cat has a score of 0.8, a false one 0.6, the other right cat 0.4, and a dog in the crowd 0.9. F1 is 2/3
    for one detection, 2/4 for two and 4/5 for three.
    """
    content = truth(images=1)
    boxes = [[0, 0, 20, 20], [200, 0, 60, 60], [0, 300, 400, 300]]
    content['annotations'] = [dict(id=number, image_id=1, category_id=1 + crowd, bbox=box, area=400, iscrowd=crowd)
                              for number, (box, crowd) in enumerate(zip(boxes, (0, 0, 1)), 1)]
    (tmp_path / 'truth.json').write_text(json.dumps(content))
    metric = METRICS.build(dict(type='gfl_plugin.CocoMetric', metric='bbox',
                                **(dict(ann_file=str(tmp_path / 'truth.json')) if with_file else {})))
    metric.dataset_meta = dict(classes=('dog', 'cat'))
    assert metric.score_thr is None
    corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    found = dict(bboxes=torch.tensor([corners[0], [500, 9, 600, 99], corners[1], [10, 310, 50, 350]]).float(),
                 scores=torch.tensor([.8, .6, .4, .9]), labels=torch.tensor([1, 1, 1, 0]))
    instances = [dict(bbox_label=1 - crowd, bbox=box, ignore_flag=crowd) for box, crowd in zip(corners, (0, 0, 1))]
    metric.process({}, [dict(img_id=1, ori_shape=(640, 640), pred_instances=found, instances=instances)])
    metric.evaluate(1)
    assert metric.best_f1.f1 == pytest.approx(.8) and metric.score_thr == pytest.approx(.2)
