"""Equal sets come out equal from every layout, and their splits and classes agree."""
import os
import shutil
from io import BytesIO
from pathlib import Path

import mmcv
import numpy as np
import pytest
from data_sets import SIZE, encode
from layouts import BOXES, CLASSES, FILES, make_splits, write_coco, write_json, write_voc, write_yolo
from PIL import Image

from gfl_plugin.datasets.layouts import Finding, describe, find_layout
from gfl_plugin.datasets.layouts.common import ORIENTATION, read_size, split_of
from gfl_plugin.errors import SetupError

WRITERS = {'COCO': write_coco, 'YOLO': write_yolo, 'Pascal VOC': write_voc}
TRAIN = {'train': FILES['train']}
MANY = {'train': tuple(f'{i}.jpg' for i in range(20))}


def by_image(split):
    """File name, size, and class names and boxes of each image."""
    names = {category['id']: category['name'] for category in split.content['categories']}
    return [(image['file_name'], (image['width'], image['height']),
             [(names[box['category_id']], box['bbox']) for box in split.content['annotations']
              if box['image_id'] == image['id']]) for image in split.content['images']]


def found(data):
    """The counts of the findings by what they say."""
    return {finding.what: finding.count for finding in data.findings}


@pytest.fixture(params=WRITERS)
def layout(request):
    return request.param


def test_equal_sets_are_equal(tmp_path, layout):
    splits = make_splits(tmp_path)
    root = WRITERS[layout](splits, tmp_path / 'my set é')
    data = find_layout(str(root))
    assert (data.layout, data.classes, list(data.splits)) == (layout, CLASSES, ['train', 'val']), describe(data)
    assert not data.findings, 'nothing should be made up'
    for split, expected in splits.items():
        part = data.splits[split]
        images, expected = by_image(part), sorted(by_image(expected))
        assert [image[:2] for image in images] == [image[:2] for image in expected], 'images should be the same'
        for (name, _, objects), (_, _, wanted) in zip(images, expected):
            assert [label for label, _ in objects] == [label for label, _ in wanted], f'classes in {name}'
            boxes = np.reshape([box for _, box in objects], (-1, 4))
            np.testing.assert_allclose(boxes, np.reshape([box for _, box in wanted], (-1, 4)), atol=1e-3)
            assert os.path.isfile(os.path.join(part.images, name)), 'the image should be where the split says'
        assert all(box['area'] > 0 and box['iscrowd'] == 0 for box in part.content['annotations']), 'complete entries'


def test_nothing_is_written(tmp_path, layout):
    root = WRITERS[layout](make_splits(tmp_path), tmp_path / 'set')

    def state():
        return sorted((str(path), path.stat().st_mtime_ns) for path in root.rglob('*'))
    before = state()
    find_layout(str(root))
    assert state() == before, 'the folder is the user\'s'


def test_validation_images_are_held_out(tmp_path, layout):
    root = WRITERS[layout](make_splits(tmp_path, MANY), tmp_path / 'set')
    data = find_layout(str(root), val_share=0.25)
    held = [image[0] for image in by_image(data.splits['val'])]
    left = [image[0] for image in by_image(data.splits['train'])]
    assert len(held) == 5 and sorted(held + left) == sorted(MANY['train']), 'a quarter, and each image once'
    assert max(held) > min(left), 'not the first ones: neighbours are often of one scene'
    assert list(found(data).values()) == [5] and 'held out' in str(data.findings[0]), 'and it should be said'
    other = WRITERS['COCO'](make_splits(tmp_path / 'again', MANY), tmp_path / 'other')
    content = find_layout(str(other), val_share=0.25).splits['val'].content
    assert [image['file_name'] for image in content['images']] == held, 'the choice should depend on names alone'


def test_held_out_images_stay_when_images_are_added(tmp_path):
    data = find_layout(str(write_coco(make_splits(tmp_path, MANY), tmp_path / 'set')))
    more = {'train': (*MANY['train'], *(f'x{i}.jpg' for i in range(20)))}
    larger = find_layout(str(write_coco(make_splits(tmp_path / 'more', more), tmp_path / 'larger')))
    before, after = ({image[0] for image in by_image(part.splits['val'])} for part in (data, larger))
    stayed = after & {*MANY['train']}
    assert len(after) == 8 and (stayed <= before or before <= stayed), 'no two images should change places'


def test_an_image_with_the_last_object_of_a_class_is_not_held_out(tmp_path):
    splits = make_splits(tmp_path, MANY)
    content = splits['train'].content
    for box in content['annotations']:
        box['category_id'] = 0
    for index, image in enumerate(content['images'][:10]):  # a class for each of ten images
        content['categories'].append(dict(id=100 + index, name=f'rare {index}'))
        content['annotations'].append(dict(id=1000 + index, image_id=image['id'], category_id=100 + index,
                                           bbox=BOXES[0][1]))
    data = find_layout(str(write_coco(splits, tmp_path / 'set')), val_share=0.4)
    assert len(data.splits['val'].content['images']) == 8, 'there are others to hold out'
    assert {f'rare {index}' for index in range(10)} < set(data.classes), 'no class should be lost by holding out'


def test_a_test_split_is_left_alone(tmp_path, layout):
    splits = make_splits(tmp_path, {**MANY, 'test': ('t.jpg', )})
    data = find_layout(str(WRITERS[layout](splits, tmp_path / 'set')))
    assert {split: len(part.content['images']) for split, part in data.splits.items()} \
        == {'train': 16, 'val': 4, 'test': 1}, 'validation images should come from the training images'
    assert any('the test split is left alone' in str(finding) for finding in data.findings), 'and that should be said'


@pytest.mark.parametrize('share', [0, 1, -0.1, 2])
def test_a_share_that_is_none(tmp_path, share):
    with pytest.raises(SetupError, match=f'between 0 and 1, and is {share}'):
        find_layout(str(tmp_path), val_share=share)


def test_one_image_is_too_few(tmp_path, layout):
    root = WRITERS[layout](make_splits(tmp_path, {'train': ('a.jpg', )}), tmp_path / 'set')
    with pytest.raises(SetupError, match='one image only'):
        find_layout(str(root))


# Classes.

def test_classes_without_objects_in_training_are_dropped(tmp_path, layout):
    splits = make_splits(tmp_path)
    for box in splits['train'].content['annotations']:
        box['category_id'] = 3  # 'other'
    data = find_layout(str(WRITERS[layout](splits, tmp_path / 'set')))
    assert data.classes == ('other', ), 'only what can be learnt should be a class'
    for part in data.splits.values():
        assert [category['name'] for category in part.content['categories']] == ['other'], 'in each split'
        assert {box['category_id'] for box in part.content['annotations']} == {part.content['categories'][0]['id']}
    dropped = [finding for finding in data.findings if 'dropped' in finding.what]
    assert [finding.count for finding in dropped] == [2], 'with one line'
    assert 'thing with 3 in other splits' in str(dropped[0]), 'that says what evaluation will lack'


def test_crowds_and_boxes_without_use_are_no_objects_to_train_on(tmp_path):
    splits = make_splits(tmp_path)
    for box in splits['train'].content['annotations']:
        box.update({3: dict(iscrowd=1), 6: dict(bbox=[60, 5, 9, 9])}.get(box['category_id'], {}))
    splits['train'].content['categories'].append(dict(id=9, name='ignored'))
    splits['train'].content['annotations'].append(dict(id=99, image_id=0, category_id=9, bbox=BOXES[0][1], ignore=1))
    assert find_layout(str(write_coco(splits, tmp_path / 'set'))).classes == ('thing', )


def test_nothing_to_train_on(tmp_path, layout):
    splits = make_splits(tmp_path)
    splits['train'].content['annotations'] = []
    root = WRITERS[layout](splits, tmp_path / 'set')
    with pytest.raises(SetupError, match='no object to train on in its 4 training images, and 3 classes'):
        find_layout(str(root))


# Images.

def test_splits_that_share_images(tmp_path, layout):
    splits = make_splits(tmp_path)
    for file in ('v.jpg', 'é/w.jpg'):
        shutil.copyfile(Path(splits['train'].images, 'a.jpg'), Path(splits['val'].images, file))
    data = find_layout(str(WRITERS[layout](splits, tmp_path / 'set')))
    assert list(found(data).values()) == [2], describe(data)
    assert 'v.jpg of val is a.jpg of train' in str(data.findings[0]), 'and the first pair should be named'


def test_images_of_equal_size_are_not_taken_for_copies(tmp_path):
    splits = make_splits(tmp_path)
    for seed, (split, file) in enumerate((('train', 'a.jpg'), ('val', 'v.jpg'))):  # alike in size and at the end
        Path(splits[split].images, file).write_bytes(encode('bmp', seed=seed) + bytes(5000))
    assert not find_layout(str(write_coco(splits, tmp_path / 'set'))).findings


def write_turned(file, orientation, kind='JPEG'):
    entries = Image.Exif()
    entries[ORIENTATION] = orientation
    Image.open(BytesIO(encode('png'))).save(file, kind, exif=entries)


def test_an_image_that_the_user_sees_turned(tmp_path, layout):
    """Sizes are those of the image as training loads it, which EXIF turns."""
    splits = make_splits(tmp_path)
    content, file = splits['train'].content, Path(splits['train'].images, 'a.jpg')
    write_turned(file, 6)
    content['images'][0].update(width=SIZE[1], height=SIZE[0])
    content['annotations'] = [dict(box, bbox=[1, 2, 24, 30]) for box in content['annotations']]
    data = find_layout(str(WRITERS[layout](splits, tmp_path / 'set')))
    name, size, objects = by_image(data.splits['train'])[0]
    assert (name, size) == ('a.jpg', SIZE[::-1]) and not data.findings, describe(data)
    np.testing.assert_allclose(objects[0][1], [1, 2, 24, 30])


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('orientation', [1, 3, 5, 6, 8])
def test_sizes_are_those_of_the_loaded_image(tmp_path, kind, orientation):
    write_turned(tmp_path / 'image', orientation, kind)
    loaded = mmcv.imfrombytes((tmp_path / 'image').read_bytes())
    assert read_size(str(tmp_path / 'image')) == (None, loaded.shape[1::-1]), 'labels are of the image as it loads'


def test_what_is_no_image_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    assert read_size(str(tmp_path / 'pipe.jpg')) == ('not a file', None), 'reading a pipe would not return'
    assert read_size(str(tmp_path / 'none.jpg')) == ('missing', None)


def test_a_wild_size_is_refused(tmp_path):
    (tmp_path / 'wild.png').write_bytes(encode('png')[:16] + b'\0\1\0\0' * 2 + encode('png')[24:])
    damage, size = read_size(str(tmp_path / 'wild.png'))
    assert size is None and damage, 'nobody can load 4 gigapixels'


# The path.

def test_an_unknown_layout(tmp_path):
    (tmp_path / 'notes.txt').touch()
    (tmp_path / 'pictures').mkdir()
    with pytest.raises(SetupError, match='known layout.*COCO: annotations/instances_train.*YOLO: .*yaml.*Pascal VOC: '
                                         'Annotations/.*It holds notes.txt, pictures'):
        find_layout(str(tmp_path))
    with pytest.raises(SetupError, match='It is empty'):
        find_layout(str(tmp_path / 'pictures'))
    with pytest.raises(SetupError, match='It is a single file'):
        find_layout(str(tmp_path / 'notes.txt'))
    with pytest.raises(SetupError, match='does not exist'):
        find_layout(str(tmp_path / 'none'))


def test_a_relative_path(tmp_path, layout, monkeypatch):
    WRITERS[layout](make_splits(tmp_path), tmp_path / 'set')
    monkeypatch.chdir(tmp_path)
    data = find_layout('set')
    monkeypatch.chdir('/')
    assert all(os.path.isfile(os.path.join(part.images, image['file_name']))
               for part in data.splits.values() for image in part.content['images']), 'a later chdir should not matter'


@pytest.mark.parametrize('name, split', [
    ('train', 'train'), ('instances_train2017.json', 'train'), ('Training', 'train'), ('my-val_set', 'val'),
    ('valid', 'val'), ('validation2', 'val'), ('test', 'test'), ('testing', 'test'), ('trainval', None),
    ('minival', None), ('trains', None), ('latest', None)])
def test_names_of_splits(name, split):
    assert split_of(name) == split


# What a user reads.

def test_description(tmp_path):
    data = find_layout(str(write_coco(make_splits(tmp_path), tmp_path / 'set')))
    assert describe(data).splitlines() == [
        f'{tmp_path}/set',
        'COCO format        train  val',
        'images                 4    2',
        '  without objects      0    0',
        'objects                9    6',
        '  thing                6    3',
        '  other                2    2',
        '  Straße 路             1    1']


def test_description_of_many_classes(tmp_path):
    splits = make_splits(tmp_path)
    for index in range(80):
        splits['train'].content['categories'].append(dict(id=100 + index, name=f'class {index}'))
        splits['train'].content['annotations'].append(dict(id=100 + index, image_id=0, category_id=100 + index,
                                                           bbox=BOXES[0][1]))
    lines = describe(find_layout(str(write_coco(splits, tmp_path / 'set')))).splitlines()
    assert len(lines) < 20 and lines[-1].split() == ['75', 'more', 'classes', '75', '0'], 'the rest should be summed up'


def test_a_finding_is_a_line():
    assert str(Finding('broken files', 1234, ('a', 'b\nc'))) == "broken files: 1,234 (a, 'b\\nc', ...)"
    assert str(Finding('broken files', 1, ('a', ))) == 'broken files: 1 (a)'


def test_other_json_files_are_not_taken_for_coco(tmp_path):
    root = write_yolo(make_splits(tmp_path), tmp_path / 'set')
    write_json(root / 'notes.json', dict(categories=[], info={}))
    (root / 'empty.json').touch()
    assert find_layout(str(root)).layout == 'YOLO'
