"""Broken annotation files: the error names the entry that breaks a rule, and it is always a SetupError."""
import json

import pytest
from data_sets import build, content, write_set

from gfl_plugin.datasets import annotations
from gfl_plugin.datasets.annotations import boxes_to_learn, complete, find_malformed, read_annotations, show
from gfl_plugin.datasets.check import check
from gfl_plugin.errors import SetupError

NAN = float('nan')
NO_JSON = {
    'empty': (b'', 'not usable JSON: .*line 1 column 1'),
    'cut_off': (b'{"images": [{"id": 1,', 'not usable JSON: .*line 1 column'),
    'binary': (b'{"images": \xff}', 'not JSON: byte 11 is not UTF-8'),
    'deep': (b'[' * 100000, 'not usable JSON: '),
    'a_number_without_end': (b'{"images": ' + b'9' * 10000 + b'}', 'not usable JSON: '),
}
MALFORMED = {  # section, index, key and value (None: the key is removed), and the message
    'no_image_id': ('images', 1, 'id', None, r'images\[1\] has no id'),
    'no_file_name': ('images', 1, 'file_name', None, r'images\[1\] \(id 11\) has no file_name'),
    'empty_file_name': ('images', 1, 'file_name', '', r"images\[1\] \(id 11\) has the file_name '', not a name"),
    'file_number': ('images', 0, 'file_name', 7, r'images\[0\] \(id 10\) has the file_name 7, not a name'),
    'width_as_text': ('images', 2, 'width', '640', r"images\[2\] \(id 12\) has the width '640', not a number of"),
    'no_width': ('images', 2, 'width', 0, r'images\[2\] \(id 12\) has the width 0, not'),
    'nan_height': ('images', 2, 'height', NAN, r'images\[2\] \(id 12\) has the height nan, not'),
    'wild_height': ('images', 2, 'height', 10**400, r'images\[2\] \(id 12\) has the height an integer beyond 1e60'),
    'id_as_text': ('images', 0, 'id', '10', r"images\[0\] \(id '10'\) has the id '10', not an integer"),
    'nan_id': ('annotations', 3, 'id', NAN, r'annotations\[3\] \(id nan\) has the id nan, not an integer'),
    'id_of_65_bits': ('annotations', 3, 'id', 2**64, r'annotations\[3\] .* not an integer'),
    'no_bbox': ('annotations', 5, 'bbox', None, r'annotations\[5\] \(id 105\) has no bbox'),
    'three_numbers': ('annotations', 5, 'bbox', [1, 2, 3], r'annotations\[5\] .* has the bbox \[1, 2, 3\], not'),
    'text_in_box': ('annotations', 5, 'bbox', [1, 2, 3, '4'], r"annotations\[5\] .* the bbox \[1, 2, 3, '4'\], not"),
    'wild_box': ('annotations', 5, 'bbox', [1, 2, 3, 10**400], r'annotations\[5\] .* the bbox \[1, 2, 3, 10.*\.\.\.'),
    'truth_in_box': ('annotations', 5, 'bbox', [1, 2, 3, True], r'annotations\[5\] .* not a list of four numbers'),
    'list_of_images': ('annotations', 5, 'image_id', [11], r'annotations\[5\] .* the image_id \[11\], not an integer'),
    'no_category': ('annotations', 5, 'category_id', None, r'annotations\[5\] \(id 105\) has no category_id'),
    'nan_area': ('annotations', 5, 'area', NAN, r'annotations\[5\] .* has the area nan, not a finite number'),
    'crowd_as_text': ('annotations', 5, 'iscrowd', 'no', r"annotations\[5\] .* has the iscrowd 'no', not 0 or 1"),
    'category_name': ('categories', 0, 'name', ['a'], r"categories\[0\] \(id 3\) has the name \['a'\], not a name"),
    'image_twice': ('images', 3, 'id', 11, r'images\[3\] \(id 11\) has the same id as images\[1\]'),
    'box_twice': ('annotations', 4, 'id', 101, r'annotations\[4\] \(id 101\) has the same id as annotations\[1\]'),
    'category_twice': ('categories', 1, 'id', 3, r'categories\[1\] \(id 3\) has the same id as categories\[0\]'),
}
MISSHAPEN = {
    'a_list': ([], r'the file holds \[\] instead of an object'),
    'a_number': (3, 'the file holds 3 instead of an object'),
    'no_images': (dict(annotations=[], categories=[]), 'images is missing from the file'),
    'no_annotations': (dict(images=[], categories=[]), 'annotations is missing from the file'),
    'no_categories': (dict(images=[], annotations=[]), 'categories is missing from the file'),
    'images_by_name': (dict(content(), images={'a': 1}), r"images should be a list, not \{'a': 1\}"),
    'null_among_boxes': (dict(content(), annotations=[None]), r'annotations\[0\] is None, not an object'),
}


def refuse(root, said, **options):
    with pytest.raises(SetupError, match=said) as raised:
        build(root, **options)
    message = str(raised.value)
    assert 'boxes.json' in message and '\n' not in message, 'the error should name the file, in one paragraph'
    return message


@pytest.mark.parametrize('kind', NO_JSON)
def test_what_is_not_json(tmp_path, kind):
    (write_set(tmp_path) / 'boxes.json').write_bytes(NO_JSON[kind][0])
    refuse(tmp_path, NO_JSON[kind][1])


def test_a_file_beyond_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    root = write_set(tmp_path)
    memory = 4 * (root / 'boxes.json').stat().st_size
    monkeypatch.setattr(annotations, 'usable_memory', lambda: memory)
    build(root)
    with open(root / 'boxes.json', 'r+b') as file:
        file.truncate(10 * 10**6)
    refuse(root, r'has 0\.01 GB\. Reading it takes at least 4 times as much memory')
    assert check(str(root / 'boxes.json'), str(root / 'images')).suffers, 'the check should report it too'


@pytest.mark.parametrize('kind', MALFORMED)
def test_a_malformed_entry_is_named(tmp_path, kind):
    section, place, key, value, said = MALFORMED[kind]
    whole = content()
    if value is None:
        del whole[section][place][key]
    else:
        whole[section][place][key] = value
    assert 'gfl check' in refuse(write_set(tmp_path, changes=whole), said), \
        'the error should name the tool that lists all problems'
    assert len(list(find_malformed(whole))) == 1, 'the fault should be found once, and nothing else should be reported'


@pytest.mark.parametrize('kind', MISSHAPEN)
def test_a_misshapen_file_is_named(tmp_path, kind):
    (write_set(tmp_path) / 'boxes.json').write_text(json.dumps(MISSHAPEN[kind][0]))
    refuse(tmp_path, MISSHAPEN[kind][1])


def test_other_malformed_entries_are_counted(tmp_path):
    boxes = content()['annotations']
    for box in boxes[2:6]:
        del box['bbox']
    refuse(write_set(tmp_path, changes=dict(annotations=boxes)),
           r'annotations\[2\] \(id 102\) has no bbox, and 3 more such entries\.')


def test_a_class_under_two_ids_is_refused(tmp_path):
    """MMDetection would give the class two labels, and shift the label of every class after it by one."""
    twice = content()['categories'] + [dict(id=9, name='thing')]
    refuse(write_set(tmp_path, changes=dict(categories=twice)), 'several categories named thing')
    assert len(build(tmp_path, classes=('other', ))) == 4, 'a class that is not used may have any number of ids'


def test_a_class_listed_twice_is_refused(tmp_path):
    """Otherwise all its boxes would get one of its two labels, and the other label would have none."""
    with pytest.raises(SetupError, match='lists thing more than once'):
        build(write_set(tmp_path), classes=('thing', 'other', 'thing'))


def test_a_list_of_images_is_enough_for_inference(tmp_path):
    """COCO's image_info_test-dev2017.json is such a list."""
    listing = content()
    del listing['annotations']
    (write_set(tmp_path) / 'boxes.json').write_text(json.dumps(listing))
    assert len(build(tmp_path, test_mode=True)) == 4, 'a detector should be able to run on images without annotations'


def test_entries_that_training_does_not_read_may_hold_anything(tmp_path):
    whole = content()
    whole['annotations'][0].update(segmentation='none', attributes=[None])
    whole['images'][0].update(license='any', coco_url=5)
    write_set(tmp_path, changes=dict(whole, licenses='none', info=None))
    assert len(build(tmp_path)[0]['data_samples'].gt_instances) == 2, 'an entry that is not read should not be checked'


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(SetupError, match='cannot be read: Is a directory'):
        read_annotations(str(tmp_path))


def test_values_are_shown_short_and_on_one_line():
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in ('a\nb', 'x' * 10**6, list(range(10**5)), 10**3000, deep, '\ud800', {'a': 'x' * 10**6}):
        assert len(show(value)) < 100 and show(value).isprintable(), 'a message should be readable for any value'


def test_annotations_are_completed():
    boxes = [dict(id=-3, bbox=[1, 2, 3, 4]), dict(id=7, bbox=[1, 2, 3, 4], area=5, iscrowd=1)]
    assert complete(boxes) == dict(area=1, iscrowd=1, id=2), 'each new value should be counted'
    assert boxes == [dict(id=1, bbox=[1, 2, 3, 4], area=12, iscrowd=0),
                     dict(id=2, bbox=[1, 2, 3, 4], area=5, iscrowd=1)], 'values in the file should stay, except ids'
    whole = content()['annotations']
    assert complete(whole) == {} and whole == content()['annotations'], 'a complete file should not change'


@pytest.mark.parametrize('key', ['area', 'iscrowd'])
def test_null_counts_as_missing(key):
    entries = content()
    box = entries['annotations'][0]
    expected = boxes_to_learn(entries)
    box[key] = None
    assert not list(find_malformed(entries)) and boxes_to_learn(entries) == expected
    assert complete(entries['annotations']) == {key: 1}
    assert box[key] == dict(area=box['bbox'][2] * box['bbox'][3], iscrowd=0)[key]


def test_boxes_to_learn():
    """Boxes that training drops are left out, and the others stay as the file has them."""
    entries = content(images=3)
    boxes = entries['annotations']
    expected = {10: [boxes[0]['bbox'], boxes[1]['bbox']], 11: [boxes[3]['bbox']], 12: []}
    boxes[2]['iscrowd'], boxes[4]['category_id'] = 1, 99
    boxes[5]['bbox'] = [100, 100, 5, 5]  # outside its image
    boxes += [dict(boxes[0], id=200, image_id=77), dict(boxes[0], id=201, ignore=1)]
    assert boxes_to_learn(entries) == expected
