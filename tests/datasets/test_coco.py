"""CocoDataset on COCO-format files with every kind of fault, and on real images where they are available."""
import json

import numpy as np
import pytest

from gfl_plugin.datasets import CocoDataset
from gfl_plugin.errors import SetupError

GOOD, CROWD = [10, 20, 30, 15], [0, 0, 60, 60]
UNUSABLE = {
    'no_width': [10, 10, 0, 5], 'negative_height': [10, 10, 5, -3], 'right_of_the_image': [100, 10, 5, 5],
    'above_the_image': [10, -20, 5, 15], 'nan': [float('nan'), 10, 5, 5], 'infinite': [10, 10, float('inf'), 5]}


def annotation(id, bbox, image=1, **options):
    return dict(id=id, image_id=image, category_id=7, bbox=bbox, area=100.0, iscrowd=0, **options)


def write(root, annotations, images=1):
    (root / 'images').mkdir()
    content = dict(images=[dict(id=i + 1, file_name=f'{i}.jpg', width=100, height=80) for i in range(images)],
                   categories=[dict(id=3, name='other'), dict(id=7, name='thing')], annotations=annotations)
    (root / 'boxes.json').write_text(json.dumps(content))


def build(root, classes=('thing', ), **options):
    options = dict(dict(ann_file='boxes.json', data_prefix=dict(img='images/')), **options)
    return CocoDataset(data_root=str(root), metainfo=dict(classes=classes), pipeline=[], **options)


def test_unusable_boxes_are_dropped_with_one_warning(tmp_path, log):
    write(tmp_path, [annotation(1, GOOD)] + [annotation(i, box) for i, box in enumerate(UNUSABLE.values(), 2)])
    instances = build(tmp_path)[0]['instances']
    assert [i['bbox'] for i in instances] == [[10, 20, 40, 35]], 'only the good box should be left, as corners'
    warnings = [line for line in log() if 'dropped' in line]
    assert len(warnings) == 1 and f' {len(UNUSABLE)} boxes' in warnings[0], 'one warning should count them'


def test_annotations_without_image_or_category_are_counted(tmp_path, log):
    strays = [annotation(2, GOOD, image=5), dict(annotation(3, GOOD), category_id=9), annotation(4, GOOD, image=6)]
    write(tmp_path, [annotation(1, GOOD), *strays])
    assert len(build(tmp_path)[0]['instances']) == 1, 'annotations without an image or a category should be left out'
    warning = [line for line in log() if 'dropped' in line]
    assert warning and '3 boxes were dropped' in warning[0] and 'annotations without image: 2' in warning[0] \
        and 'unknown categories: 1' in warning[0], 'a warning should count them'


@pytest.mark.parametrize('box', UNUSABLE.values(), ids=UNUSABLE)
def test_each_kind_of_unusable_box(tmp_path, box):
    write(tmp_path, [annotation(1, box)])
    assert build(tmp_path)[0]['instances'] == []


def test_a_box_beyond_the_border_stays(tmp_path):
    write(tmp_path, [annotation(1, [-10, -5, 50, 200])])
    assert len(build(tmp_path)[0]['instances']) == 1, 'a box that the border cuts still has area inside'


def test_a_box_needs_no_area_entry(tmp_path):
    box = annotation(1, GOOD)
    del box['area']
    write(tmp_path, [box])
    assert len(build(tmp_path)[0]['instances']) == 1


def test_crowd_is_ignored(tmp_path):
    write(tmp_path, [annotation(1, GOOD), dict(annotation(2, CROWD), iscrowd=1)])
    assert [i['ignore_flag'] for i in build(tmp_path)[0]['instances']] == [0, 1]


@pytest.mark.parametrize('classes, labels', [(('other', 'thing'), [1, 0]), (('thing', 'other'), [0, 1]),
                                             (('thing', ), [0]), (('other', ), [0])])
@pytest.mark.parametrize('reverse', [False, True])
def test_labels_follow_the_order_of_the_config(tmp_path, classes, labels, reverse):
    """Unlike mmdet: there the labels follow the categories of the file."""
    write(tmp_path, [annotation(1, GOOD), dict(annotation(2, CROWD), category_id=3)])
    content = json.loads((tmp_path / 'boxes.json').read_text())
    if reverse:
        content['categories'].reverse()
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    assert [i['bbox_label'] for i in build(tmp_path, classes, serialize_data=False)[0]['instances']] == labels


def test_a_refusal_lists_the_classes_in_the_order_of_the_file(tmp_path):
    """Users copy the names from the error into a config."""
    write(tmp_path, [])
    content = json.loads((tmp_path / 'boxes.json').read_text())
    content['categories'] = [dict(id=i, name=name) for i, name in enumerate(('zebra', 'ant', 'cow'))]
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    with pytest.raises(SetupError, match=r'3 categories of .*boxes.json \(zebra, ant, cow\)'):
        build(tmp_path)


def test_images_without_boxes_may_be_filtered(tmp_path):
    write(tmp_path, [annotation(1, GOOD, image=2)], images=3)
    assert len(build(tmp_path)) == 3
    assert len(build(tmp_path, filter_cfg=dict(filter_empty_gt=True))) == 1


@pytest.mark.parametrize('options, said', [
    (dict(ann_file='none.json'), r'annotation file /.*none\.json does not exist.*--data-root'),
    (dict(data_prefix=dict(img='pictures/')), r'folder of images /.*pictures/? does not exist.*--data-root'),
    (dict(classes=('thing', 'zebra')), r'1 of the 2 classes of the data set \(zebra\).*2 categories'),
    (dict(filter_cfg=dict(min_size=200)), 'There is no image .* filter_cfg'),
])
def test_mistakes(tmp_path, options, said):
    write(tmp_path, [annotation(1, GOOD)])
    with pytest.raises(SetupError, match=said):
        build(tmp_path, **options)


def test_no_image(tmp_path):
    write(tmp_path, [], images=0)
    with pytest.raises(SetupError, match='There is no image in .*boxes.json$'):
        build(tmp_path)


@pytest.mark.parametrize('classes', [CocoDataset.METAINFO['classes'], CocoDataset.METAINFO['classes'][::-1],
                                     ('zebra', 'person', 'car')], ids=['all', 'reversed', 'some'])
def test_real_annotations(tiny_coco, classes):
    """Every annotation of a class is loaded, with the label of its class name."""
    dataset = CocoDataset(data_root=tiny_coco, ann_file='annotations/instances_train2017.json', pipeline=[],
                          data_prefix=dict(img='train2017/'), metainfo=dict(classes=classes), serialize_data=False)
    with open(f'{tiny_coco}/annotations/instances_train2017.json') as file:
        content = json.load(file)
    names = {c['id']: c['name'] for c in content['categories']}
    assert len(dataset) == len(content['images']) == 50
    for i in range(len(dataset)):
        data = dataset[i]
        expected = [a for a in content['annotations']
                    if a['image_id'] == data['img_id'] and names[a['category_id']] in classes]
        assert len(data['instances']) == len(expected)
        for found, box in zip(data['instances'], expected):
            x, y, w, h = box['bbox']
            np.testing.assert_allclose(found['bbox'], [x, y, x + w, y + h])
            assert dataset.metainfo['classes'][found['bbox_label']] == names[box['category_id']]
