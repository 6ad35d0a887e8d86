"""Data sets and metrics that a config gives nothing but a path."""
import copy
import os

import layouts
import pytest
import torch
from data_sets import TRAIN
from mmdet.registry import DATASETS, METRICS

from gfl_plugin.datasets import folder
from gfl_plugin.errors import SetupError
from gfl_plugin.evaluation.coco_metric import evaluators

WRITERS = dict(coco=layouts.write_coco, yolo=layouts.write_yolo, voc=layouts.write_voc)


@pytest.fixture(params=WRITERS)
def root(request, tmp_path):
    return str(WRITERS[request.param](layouts.make_splits(tmp_path / 'parts'), tmp_path / 'set'))


def build(path, split='train', **options):
    return DATASETS.build(dict(type='gfl_plugin.FolderDataset', path=path, split=split, pipeline=TRAIN,
                               serialize_data=False, **options))


def snapshot(path):
    return {os.path.join(parent, name): os.stat(os.path.join(parent, name)).st_mtime_ns
            for parent, _, names in os.walk(path) for name in ['', *names]}


def test_every_layout_gives_the_same_data(root):
    train, val = build(root), build(root, 'val', test_mode=True)
    assert train.metainfo['classes'] == val.metainfo['classes'] == layouts.CLASSES
    assert len(set(train.metainfo['palette'])) == 3, 'each class should have its own colour'
    found = {os.path.basename(info['img_path']): [(each['bbox_label'], each['bbox']) for each in info['instances']]
             for info in map(train.get_data_info, range(len(train)))}
    boxes = [(label, [x, y, x + w, y + h]) for label, (x, y, w, h) in layouts.BOXES]
    assert len(train) == 4 and len(val) == 2
    expected = boxes[:2] + boxes[3:]
    assert [label for label, _ in found['b c.jpg']] == [label for label, _ in expected]
    assert [box for _, box in found['b c.jpg']] == [pytest.approx(box) for _, box in expected]
    assert train[0]['inputs'].shape == (3, 43, 64), 'an image should go through the pipeline'


def test_every_layout_is_evaluated_alike(root):
    metric = METRICS.build(dict(type='gfl_plugin.FolderMetric', path=root, split='val'))
    metric.dataset_meta = dict(classes=layouts.CLASSES)
    val = build(root, 'val', test_mode=True)
    for info in map(val.get_data_info, range(len(val))):
        sample = dict(img_id=info['img_id'], ori_shape=(info['height'], info['width']))
        metric.process({}, [dict(sample, pred_instances=perfect(info))])
    result = metric.evaluate(len(val))
    assert result['coco/bbox_mAP'] == 1 and metric.class_precision == dict.fromkeys(layouts.CLASSES, 1.0)
    assert not any('precision' in key for key in result), 'the log should have a line of six numbers, not of 86'


def perfect(info):
    boxes = torch.tensor([each['bbox'] for each in info['instances']]).reshape(-1, 4)
    labels = torch.tensor([each['bbox_label'] for each in info['instances']])
    return dict(bboxes=boxes, scores=torch.ones(len(boxes)), labels=labels)


def test_nothing_is_written_and_what_was_read_stays(root):
    before, data = snapshot(root), folder.read_data(root)
    content = copy.deepcopy(data.splits)
    build(root)
    METRICS.build(dict(type='gfl_plugin.FolderMetric', path=root, split='val'))
    assert folder.read_data(root) is data and data.splits == content, 'one reading should serve all, unchanged'
    assert snapshot(root) == before, 'no file should be new or changed in the folder of a user'
    folder.forget_data()
    assert folder.read_data(root) is not data


def test_the_classes_of_a_config_count(root):
    train = build(root, metainfo=dict(classes=('other', 'thing')))
    assert train.metainfo['classes'] == ('other', 'thing')
    labels = [each['bbox_label'] for info in map(train.get_data_info, range(len(train))) for each in info['instances']]
    assert set(labels) == {0, 1}, 'objects of the third class should be left out'


def test_a_split_that_is_not_there(root):
    with pytest.raises(SetupError, match='has no test split. Its splits: train, val'):
        build(root, 'test')


@pytest.mark.parametrize('backend', evaluators())
def test_no_detection_at_all_has_an_ap_of_zero(root, backend):
    metric = METRICS.build(dict(type='gfl_plugin.FolderMetric', path=root, split='val', backend=backend))
    metric.dataset_meta = dict(classes=layouts.CLASSES)
    nothing = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())
    for index in (1, 2):
        metric.process({}, [dict(img_id=index, ori_shape=(32, 48), pred_instances=nothing)])
    assert metric.evaluate(2)['coco/bbox_mAP'] == 0, 'a run that keeps the best checkpoint needs a number'
    assert metric.class_precision == dict.fromkeys(layouts.CLASSES, 0.0)
