"""The places where COCO files and their images are found, and what is said of bad ones."""
import json
import shutil
from pathlib import Path

import pytest
from layouts import FILES, make_splits, write_coco, write_json

from gfl_plugin.datasets import ShapesDataset
from gfl_plugin.datasets.layouts import describe, find_layout
from gfl_plugin.errors import SetupError

PLACES = {  # of the annotation file and the images, for the splits train and val
    'coco': ('annotations/instances_{}2017.json', '{}2017'),
    'coco_in_images': ('annotations/instances_{}2017.json', 'images/{}2017'),
    'plain': ('{}.json', '{}'),
    'plain_in_images': ('{}.json', 'images/{}'),
    'plain_in_one_folder': ('{}.json', 'images'),
    'plain_beside': ('{}.json', ''),
    'annotations_named_otherwise': ('annotations/cards_{}_v2.json', 'images'),
    'roboflow': ('{}/_annotations.coco.json', '{}'),
    'a_folder_each': ('{}/annotations.json', '{}/images'),
}


def place(splits, root: Path, annotations: str, images: str, names=('train', 'val')) -> Path:
    for name, part in zip(names, splits.values()):
        write_json(root / annotations.format(name), part.content)
        shutil.copytree(part.images, root / images.format(name), dirs_exist_ok=True)
    return root


def count_images(data):
    return {split: len(part.content['images']) for split, part in data.splits.items()}


@pytest.mark.parametrize('where', PLACES)
@pytest.mark.parametrize('names', [('train', 'val'), ('train', 'valid'), ('Train', 'Validation')])
def test_places(tmp_path, where, names):
    root = place(make_splits(tmp_path), tmp_path / 'set', *PLACES[where], names)
    data = find_layout(str(root))
    assert data.layout == 'COCO' and count_images(data) == {'train': 4, 'val': 2} and not data.findings, describe(data)
    for part in data.splits.values():
        assert all(Path(part.images, image['file_name']).is_file() for image in part.content['images'])


@pytest.mark.parametrize('file, images', [('boxes.json', 'images'), ('result.json', ''),
                                          ('annotations/instances_default.json', 'images/default')])
def test_a_single_file(tmp_path, file, images):
    root = place({'train': make_splits(tmp_path)['train']}, tmp_path / 'set', file, images)
    for path in (root, root / file):
        data = find_layout(str(path))
        assert count_images(data) == {'train': 3, 'val': 1}, 'it should be split for validation'


def test_a_file_is_taken_for_itself(tmp_path):
    root = write_coco(make_splits(tmp_path), tmp_path / 'set')
    data = find_layout(str(root / 'annotations/instances_val2017.json'))
    assert count_images(data) == {'train': 1, 'val': 1}, 'the file that the user names is all there is'


def test_captions_and_keypoints_beside_the_boxes(tmp_path):
    root = write_coco(make_splits(tmp_path), tmp_path / 'set')
    for name in ('captions', 'person_keypoints'):
        shutil.copy(root / 'annotations/instances_val2017.json', root / f'annotations/{name}_train2017.json')
    assert count_images(find_layout(str(root))) == {'train': 4, 'val': 2}


def test_the_shapes(tmp_path):
    for split in ('train', 'val'):
        ShapesDataset(split, num_images=3, image_size=32, data_root=str(tmp_path), pipeline=[])
    data = find_layout(str(tmp_path))
    assert count_images(data) == {'train': 3, 'val': 3} and data.layout == 'COCO', 'our own folders should be known'


def test_real_annotations(tiny_coco):
    data = find_layout(tiny_coco)
    with open(f'{tiny_coco}/annotations/instances_train2017.json') as file:
        content = json.load(file)
    part = data.splits['train'].content
    assert part['annotations'] == content['annotations'], 'every entry should stay as it is, and in its order'
    used = {box['category_id'] for box in content['annotations'] if not box['iscrowd']}
    assert part['categories'] == [category for category in content['categories'] if category['id'] in used]


# Entries.

def test_ids_and_missing_entries(tmp_path):
    """Ids from 0 and with gaps stay; area and iscrowd are completed."""
    root = write_coco(make_splits(tmp_path), tmp_path / 'set')
    content = find_layout(str(root)).splits['train'].content
    assert [category['id'] for category in content['categories']] == [0, 3, 6]
    assert [image['id'] for image in content['images']] == [0, 7, 14, 21]
    assert content['annotations'][0] == dict(id=0, image_id=0, category_id=0, bbox=[2, 3, 20, 15], area=300, iscrowd=0)


def test_null_counts_as_missing(tmp_path):
    splits = make_splits(tmp_path)
    splits['train'].content['annotations'][0].update(area=None, iscrowd=None)
    content = find_layout(str(write_coco(splits, tmp_path / 'set'))).splits['train'].content
    assert content['annotations'][0]['area'] == 300 and content['annotations'][0]['iscrowd'] == 0


def test_splits_that_number_categories_differently(tmp_path):
    splits = make_splits(tmp_path)
    before = [box['category_id'] for box in splits['val'].content['annotations']]
    categories = [dict(id=3, name='thing'), dict(id=0, name='Straße 路'), dict(id=1, name='other')]
    splits['val'].content['categories'] = categories
    for box in splits['val'].content['annotations']:
        box['category_id'] = {0: 3, 3: 1, 6: 0}[box['category_id']]
    data = find_layout(str(write_coco(splits, tmp_path / 'set')))
    content = data.splits['val'].content
    assert [box['category_id'] for box in content['annotations']] == before, 'classes are told by their names'
    assert content['categories'] == data.splits['train'].content['categories']


def test_a_name_that_two_categories_have(tmp_path):
    splits = make_splits(tmp_path)
    splits['train'].content['categories'][1]['name'] = 'thing'
    splits['val'].content['categories'][1]['name'] = 'thing'
    data = find_layout(str(write_coco(splits, tmp_path / 'set')))
    assert data.classes == ('thing', 'Straße 路') and [f.count for f in data.findings] == [2], describe(data)
    assert {box['category_id'] for box in data.splits['train'].content['annotations']} == {0, 6}, 'they should be one'


def test_annotations_that_belong_to_nothing(tmp_path):
    splits = make_splits(tmp_path)
    splits['train'].content['annotations'][1]['category_id'] = 99
    splits['val'].content['annotations'][0]['image_id'] = 99
    data = find_layout(str(write_coco(splits, tmp_path / 'set')))
    assert [(f.count, f.first) for f in data.findings] == [
        (1, ('annotations/instances_train2017.json: annotations[1] (id 1)', )),
        (1, ('annotations/instances_val2017.json: annotations[0] (id 0)', ))], describe(data)
    assert [len(part.content['annotations']) for part in data.splits.values()] == [8, 5], 'they should be left out'


# Files.

def test_images_that_are_nowhere(tmp_path):
    root = write_coco(make_splits(tmp_path), tmp_path / 'set')
    (root / 'train2017').rename(root / 'pictures')
    with pytest.raises(SetupError, match=r'instances_train2017.json lists was found \(a.jpg, b c.jpg, .*Looked in '
                                         r'.*set/train2017, .*set/images/train2017'):
        find_layout(str(root))


def test_a_malformed_file(tmp_path):
    splits = make_splits(tmp_path)
    del splits['train'].content['annotations'][2]['bbox']
    with pytest.raises(SetupError, match=r'instances_train2017.json: annotations\[2\] \(id 2\) has no bbox'):
        find_layout(str(write_coco(splits, tmp_path / 'set')))


def test_half_a_file(tmp_path):
    root = write_coco(make_splits(tmp_path), tmp_path / 'set')
    file = root / 'annotations/instances_train2017.json'
    file.write_text(file.read_text()[:500])
    with pytest.raises(SetupError, match='instances_train2017.json is not usable JSON'):
        find_layout(str(root))


@pytest.mark.parametrize('names', [('instances_train2014', 'instances_train2017'), ('apples', 'pears')])
def test_several_files_for_training(tmp_path, names):
    root = place(make_splits(tmp_path), tmp_path / 'set', 'annotations/{}.json', 'images', names)
    with pytest.raises(SetupError, match=f'Several .* could be the train split: .*{names[0]}.*{names[1]}'):
        find_layout(str(root))


def test_a_file_of_no_split_is_not_used(tmp_path):
    root = place(make_splits(tmp_path), tmp_path / 'set', '{}.json', 'images')
    shutil.copy(root / 'train.json', root / 'all.json')
    data = find_layout(str(root))
    assert count_images(data) == {'train': 4, 'val': 2} and [f.first for f in data.findings] == [('all.json', )]


def test_a_test_file_that_only_lists_images(tmp_path):
    splits = make_splits(tmp_path, {**FILES, 'test': ('t.jpg', )})
    del splits['test'].content['annotations']
    data = find_layout(str(write_coco(splits, tmp_path / 'set')))
    assert count_images(data)['test'] == 1 and data.splits['test'].content['annotations'] == [], 'as of COCO itself'


def test_no_training_split(tmp_path):
    root = write_coco(make_splits(tmp_path, {'train': FILES['train']}), tmp_path / 'set')
    file = root / 'annotations/instances_train2017.json'
    file.rename(root / 'annotations/instances_test2017.json')
    (root / 'train2017').rename(root / 'test2017')
    with pytest.raises(SetupError, match='no image to train on. Its splits: test'):
        find_layout(str(root))
