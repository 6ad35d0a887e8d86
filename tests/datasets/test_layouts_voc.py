"""How Pascal VOC folders are read, and what is said of bad XML files."""
import shutil
from pathlib import Path

import pytest
from data_sets import encode
from layouts import CLASSES, first_objects, make_splits, voc_text, write_lines, write_voc

from gfl_plugin.datasets.layouts import describe, find_layout
from gfl_plugin.datasets.layouts import voc as kinds
from gfl_plugin.datasets.layouts.common import CUT, NO_AREA, NO_IMAGE, NO_LABELS, NOT_THERE, UNREADABLE
from gfl_plugin.datasets.layouts.find import HELD_OUT

BOMB = ('<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        '<annotation><object><name>&b;</name></object></annotation>')
OUTSIDE_FILE = '<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation>&x;</annotation>'
BROKEN = {
    'empty': (b'', 'no element found'),
    'half': (voc_text(48, 32, [('thing', [2, 3, 20, 15], 0)])[:90].encode(), 'no element found|unclosed token'),
    'no_xml': (b'{"a": 1}', 'not well-formed'),
    'entities': (BOMB.encode(), 'it declares entities'),
    'entities_in_utf16': (BOMB.encode('utf-16'), 'it declares entities'),
    'a_file_outside': (OUTSIDE_FILE.encode(), 'it declares entities'),
    'unknown_encoding': (b'<?xml version="1.0" encoding="klingon"?><annotation/>', 'unknown encoding'),
}
OBJECT = '<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
GOOD = OBJECT.format('other', 1, 1, 10, 20)
BAD = {
    'no_name': (OBJECT.format(' ', 1, 1, 10, 20), kinds.MALFORMED),
    'no_box': ('<object><name>other</name></object>', kinds.MALFORMED),
    'half_a_box': (GOOD.replace('ymax', 'yend'), kinds.MALFORMED),
    'words': (OBJECT.format('other', 'left', 1, 10, 20), kinds.MALFORMED),
    'not_a_number': (OBJECT.format('other', 'nan', 1, 10, 20), kinds.MALFORMED),
    'turned_over': (OBJECT.format('other', 20, 1, 10, 20), NO_AREA),
    'outside': (OBJECT.format('other', 60, 1, 70, 20), NO_AREA),
}


def write(root: Path, content: bytes = b'', splits=('train', 'val')) -> Path:
    """Two images for each split, of which the first one in training has the XML file."""
    for split in splits:
        names = [f'{split}{index}' for index in range(2)]
        for seed, name in enumerate(names):
            (root / 'JPEGImages').mkdir(parents=True, exist_ok=True)
            (root / f'JPEGImages/{name}.jpg').write_bytes(encode(seed=seed + 10 * len(split)))
            write_lines(root / f'Annotations/{name}.xml',
                        [voc_text(48, 32, [(label, [2, 3, 20, 15], 0) for label in ('thing', 'other')])])
        write_lines(root / f'ImageSets/Main/{split}.txt', names)
    if content:
        (root / 'Annotations/train0.xml').write_bytes(content)
    return root


def found(data):
    return {finding.what: (finding.count, finding.first[0]) for finding in data.findings}


def list_images(data):
    return {split: [image['file_name'][:-4] for image in part.content['images']]
            for split, part in data.splits.items()}


# XML files.

def test_pixels_count_from_one(tmp_path):
    data = find_layout(str(write(tmp_path, f'<annotation>{GOOD}</annotation>'.encode())))
    assert first_objects(data) == [('other', [0, 0, 10, 20])] and not data.findings, 'xmax and ymax belong to the box'


@pytest.mark.parametrize('kind', BROKEN)
def test_broken_files_are_counted(tmp_path, kind):
    content, reason = BROKEN[kind]
    data = find_layout(str(write(tmp_path, content or b' ')))
    (what, (count, first)), = found(data).items()
    assert (what, count) == (kinds.BROKEN, 1) and first.startswith('Annotations/train0.xml: '), describe(data)
    assert any(part in first for part in reason.split('|')), first
    assert list_images(data)['train'] == ['train1'], 'nobody knows what its image shows'


@pytest.mark.parametrize('kind', BAD)
def test_bad_objects_are_counted_and_the_others_stay(tmp_path, kind):
    entry, what = BAD[kind]
    data = find_layout(str(write(tmp_path, f'<annotation>{GOOD}{entry}{entry}</annotation>'.encode())))
    assert found(data) == {what: (2, 'Annotations/train0.xml: object 2')}, describe(data)
    assert first_objects(data) == [('other', [0, 0, 10, 20])]


def test_a_file_without_objects(tmp_path):
    data = find_layout(str(write(tmp_path, voc_text(48, 32, []).encode())))
    assert found(data) == {kinds.EMPTY: (1, 'Annotations/train0.xml')}
    assert list_images(data)['train'] == ['train0', 'train1'], 'its image should be kept'


@pytest.mark.parametrize('xmin, findings', [(0, {}), (-5, {CUT: (1, 'Annotations/train0.xml: object 1')})])
def test_boxes_beyond_the_image_are_cut(tmp_path, xmin, findings):
    """A box that starts at 0 is one of a tool that counts from 0."""
    content = f'<annotation>{OBJECT.format("other", xmin, 1, 10, 20)}</annotation>'
    data = find_layout(str(write(tmp_path, content.encode())))
    assert first_objects(data) == [('other', [0, 0, 10, 20])] and found(data) == findings


def test_difficult_objects_are_ignored(tmp_path):
    root = write(tmp_path, voc_text(48, 32, [('thing', [2, 3, 20, 15], 1), ('other', [2, 3, 20, 15], 0)]).encode())
    data = find_layout(str(root))
    assert [box['iscrowd'] for box in data.splits['train'].content['annotations']] == [1, 0, 0, 0]
    assert found(data) == {kinds.DIFFICULT: (1, 'Annotations/train0.xml: object 1')}


def test_parts_are_no_objects(tmp_path):
    part = '<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>'
    content = f'<annotation>{GOOD.replace("</object>", part + "</object>")}</annotation>'
    data = find_layout(str(write(tmp_path, content.encode())))
    assert first_objects(data) == [('other', [0, 0, 10, 20])] and data.classes == ('other', 'thing')


def test_a_size_that_is_not_the_image_s(tmp_path):
    data = find_layout(str(write(tmp_path, voc_text(32, 48, [('thing', [2, 3, 20, 15], 0)]).encode())))
    assert found(data) == {kinds.OTHER_SIZE: (1, 'Annotations/train0.xml: 32 x 48, not 48 x 32')}


# Files.

def test_files_without_their_counterpart(tmp_path):
    root = write(tmp_path)
    (root / 'Annotations/train0.xml').unlink()
    (root / 'JPEGImages/val1.jpg').unlink()
    write_lines(root / 'Annotations/unlisted.xml', ['<annotation/>'])
    write_lines(root / 'ImageSets/Main/train.txt', ['train0', 'train1', 'train7'])
    (root / 'JPEGImages/val0.jpg').write_bytes(b'none')
    data = find_layout(str(root))
    assert found(data) == {
        NOT_THERE: (1, 'train7'), NO_LABELS: (1, 'JPEGImages/train0.jpg'),
        UNREADABLE: (1, 'JPEGImages/val0.jpg: not an image'), NO_IMAGE: (2, 'Annotations/unlisted.xml'),
        HELD_OUT: (1, found(data)[HELD_OUT][1])}, 'val has no image left, and each problem should be counted'


@pytest.mark.parametrize('lists, expected', [
    (('train', 'val', 'trainval', 'test'), {'train': ['a'], 'val': ['b'], 'test': ['c']}),
    (('train', 'trainval'), {'train': ['a'], 'val': ['b']}),
    (('val', 'trainval'), {'train': ['a'], 'val': ['b']}),
    (('train', 'val'), {'train': ['a'], 'val': ['b']}),
])
def test_lists_of_images(tmp_path, lists, expected):
    splits = make_splits(tmp_path, {'train': ('a.jpg', 'b.jpg', 'c.jpg', 'd.jpg')})
    root = write_voc(splits, tmp_path / 'set')
    shutil.rmtree(root / 'ImageSets')
    for name in lists:
        write_lines(root / f'ImageSets/Main/{name}.txt',
                    {'train': ['a'], 'val': ['b'], 'trainval': ['a', 'b'], 'test': ['c.jpg', 'c']}[name])
    write_lines(root / 'ImageSets/Main/thing_train.txt', ['a 1', 'd -1'])
    data = find_layout(str(root))
    assert list_images(data) == expected, 'images should be where the lists put them'


def test_trainval_alone_is_split(tmp_path):
    splits = make_splits(tmp_path, {'train': ('a.jpg', 'b.jpg', 'c.jpg', 'd.jpg', 'e.jpg'), 'test': ('t.jpg', )})
    root = write_voc(splits, tmp_path / 'set')
    (root / 'ImageSets/Main/train.txt').rename(root / 'ImageSets/Main/trainval.txt')
    data = find_layout(str(root))
    assert {split: len(names) for split, names in list_images(data).items()} == {'train': 4, 'val': 1, 'test': 1}


def test_without_lists(tmp_path):
    root = write(tmp_path)
    shutil.rmtree(root / 'ImageSets')
    (root / 'JPEGImages').rename(root / 'images')
    (root / 'Annotations').rename(root / 'annotations')
    data = find_layout(str(root))
    assert data.layout == 'Pascal VOC' and sorted(sum(list_images(data).values(), [])) == \
        ['train0', 'train1', 'val0', 'val1'], describe(data)


@pytest.mark.parametrize('folders', [('train', 'valid'), ('', '')])
def test_xml_files_beside_the_images(tmp_path, folders):
    made = write(tmp_path / 'made')
    for split, folder in zip(('train', 'val'), folders):
        (tmp_path / 'set' / folder).mkdir(parents=True, exist_ok=True)
        for file in [*made.glob(f'JPEGImages/{split}*'), *made.glob(f'Annotations/{split}*')]:
            shutil.copy(file, tmp_path / 'set' / folder)
    images = list_images(find_layout(str(tmp_path / 'set')))
    assert sorted(sum(images.values(), [])) == ['train0', 'train1', 'val0', 'val1'], images
    assert folders == ('', '') or images == {'train': ['train0', 'train1'], 'val': ['val0', 'val1']}


def test_classes_are_sorted_unless_a_file_gives_their_order(tmp_path):
    root = write_voc(make_splits(tmp_path), tmp_path / 'set')
    assert find_layout(str(root)).classes == CLASSES
    (root / 'classes.txt').unlink()
    assert find_layout(str(root)).classes == tuple(sorted(CLASSES))
