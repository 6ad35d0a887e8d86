"""tools/check_dataset.py finds, names, counts and judges each kind of problem, and reports none in a good set."""
import json
import runpy
import sys
from unittest import mock

import pytest
from data_sets import SIZE, build, content, encode, write_set
from tool_runs import ROOT, parse, run

from gfl_plugin import engine
from gfl_plugin.datasets import check
from gfl_plugin.datasets.check import Limits
from gfl_plugin.errors import SetupError

NAN = float('nan')
KINDS = {  # the change to annotation 105, in an image of 48 x 32 pixels; the entry named; a part of the message
    'boxes not finite': (dict(bbox=[NAN, 1, 2, 3]), 'annotations[5] (id 105)', 'the bbox [nan, 1, 2, 3] in an image'),
    'boxes without area': (dict(bbox=[5, 5, 0, 9]), 'annotations[5] (id 105)', 'the bbox [5, 5, 0, 9]'),
    'boxes outside the image': (dict(bbox=[48, 5, 9, 9]), 'annotations[5] (id 105)', 'in an image of 48 x 32'),
    'boxes thinner than a pixel': (dict(bbox=[5, 5, 0.5, 9]), 'annotations[5] (id 105)', 'the bbox [5, 5, 0.5, 9]'),
    'area entries not positive': (dict(area=0), 'annotations[5] (id 105)', 'and the area 0 in'),
    'unknown categories': (dict(category_id=5), 'annotations[5] (id 105)', 'is of the category 5, which is not in'),
    'annotations without image': (dict(image_id=99), 'annotations[5] (id 105)', 'is of the image 99, which is not in'),
    'duplicate ids': (dict(id=101), 'annotations[5] (id 101)', 'has the same id as annotations[1]'),
    'malformed entries': (dict(bbox='none'), 'annotations[5] (id 105)', "has the bbox 'none', not a list of four"),
}


def check_set(root, limits=Limits()):
    return check.check(str(root / 'boxes.json'), str(root / 'images'), limits, threads=1)


def only(report):
    """The only fault of a report."""
    assert len(report.faults) == 1 and len(next(iter(report.faults.values()))) == 1, report.table()
    return next(iter(report.faults.values()))[0]


def changed(root, **entries):
    whole = content()
    whole['annotations'][5].update(entries)
    return write_set(root, changes=whole)


def test_a_whole_set_has_no_problem(tmp_path):
    report = check_set(write_set(tmp_path))
    assert not report.faults and not report.suffers, 'a good set should have no fault'
    assert report.table() == (
        '4 images, 8 annotations, 2 categories: no problem found\n'
        'classes in the order of the file, each with the number of its annotations:\n'
        '    other (0), thing (8)'), report.table()


def test_classes_are_listed_in_the_order_of_the_file(tmp_path):
    """Users copy the names into a config, so the list must be complete and in the order of the file."""
    names = ['zebra', 'ant', 'cow', 'bee', 'dog', 'ape', 'a name of many words', *(f'no {i}' for i in range(10))]
    whole = dict(content(), categories=[dict(id=20 - i, name=name) for i, name in enumerate(names)])
    for box in whole['annotations'][:3]:
        box['category_id'] = 20
    for box in whole['annotations'][3:]:
        box['category_id'] = 18
    report = check_set(write_set(tmp_path, changes=whole))
    assert report.table().splitlines()[2:] == [
        '    zebra (3), ant (0), cow (5), bee (0), dog (0), ape (0), a name of many words (0), no 0 (0), no 1 (0), '
        'no 2 (0),', '    no 3 (0), no 4 (0), no 5 (0), no 6 (0), no 7 (0), no 8 (0), no 9 (0)'], report.table()
    assert report.as_dict()['classes'][:2] == [dict(id=20, name='zebra', annotations=3),
                                               dict(id=19, name='ant', annotations=0)], \
        'the JSON report should have the same order'


def test_a_class_of_two_categories(tmp_path):
    whole = dict(content(), categories=[*content()['categories'], dict(id=9, name='thing')])
    report = check_set(write_set(tmp_path, changes=whole))
    fault = only(report)
    assert (fault.kind, fault.entry) == ('repeated class names', 'categories[2] (id 9)'), \
        'the fault should name the second category'
    assert fault.what == "has the name 'thing' of categories[1] (id 7)", 'the fault should also name the first category'
    assert report.suffers, 'training on this class would not start'


def test_the_report_says_what_is_completed(tmp_path):
    whole = content()
    for number, box in enumerate(whole['annotations']):
        box['id'] = number
    del whole['annotations'][1]['iscrowd']
    for box in whole['annotations'][:3]:
        del box['area']
    report = check_set(write_set(tmp_path, changes=whole))
    assert report.completed == report.as_dict()['completed'] == dict(area=3, iscrowd=1, id=8), report.completed
    assert not report.faults and not report.suffers, 'a file that can be completed should not count as faulty'
    assert report.table().endswith('\ntraining and evaluation fill in: area (3 annotations), iscrowd (1 annotations), '
                                   'ids from 1 (8 annotations)'), report.table()


@pytest.mark.parametrize('kind', KINDS)
def test_one_of_each_kind(tmp_path, kind):
    change, entry, what = KINDS[kind]
    report = check_set(changed(tmp_path, **change))
    fault = only(report)
    assert (fault.kind, fault.entry) == (kind, entry) and what in fault.what, \
        'the fault should be found once, with its kind and its entry'
    assert kind in report.table() and entry in report.table(), 'the table should show it'
    assert report.suffers, 'one annotation in eight is more than 1%'


@pytest.mark.parametrize('kind', KINDS)
def test_check_and_training_agree(tmp_path, kind):
    """The data set refuses what the check calls refused, and drops what the check calls dropped."""
    root = changed(tmp_path, **KINDS[kind][0])
    if check.EFFECTS[kind] == check.REFUSED:
        with pytest.raises(SetupError, match=KINDS[kind][1].replace('[', r'\[').replace('(', r'\(')[:-1]):
            build(root)
    else:
        dataset = build(root)
        left = [len(dataset.get_data_info(index)['instances']) for index in range(4)]
        assert left == [2, 2, 1, 2], 'exactly the box that the check names should be dropped'


@pytest.mark.parametrize('damage, kind, what', [
    ('missing', 'missing images', "has the file '1.jpg': missing"), ('empty', 'unreadable images', ': empty'),
    ('half', 'unreadable images', ': truncated'), ('a_web_page', 'unreadable images', ': not an image that OpenCV')])
def test_image_files(tmp_path, damage, kind, what):
    fault = only(check_set(write_set(tmp_path, damaged={1: damage})))
    assert (fault.kind, fault.entry) == (kind, 'images[1] (id 11)') and what in fault.what, 'the file should be named'


def test_wrong_size(tmp_path):
    whole = content()
    whole['images'][2].update(width=SIZE[1], height=SIZE[0])
    report = check_set(write_set(tmp_path, changes=whole), Limits(tolerance=1))
    fault = only(report)
    assert fault.kind == 'images of another size' and fault.entry == 'images[2] (id 12)', \
        'swapped width and height should be found'
    assert '32 x 48 pixels' in fault.what and 'has 48 x 32' in fault.what, 'the fault should give both sizes'
    assert report.suffers, 'even a few misplaced boxes are harmful, because nothing else reports them'


def test_far_sides(tmp_path):
    """The resized box has 480 x 10 pixels. Priors of 64 pixels overlap it most, and 480 / 2 is 30 strides of 8."""
    report = check_set(changed(tmp_path, bbox=[0, 5, 48, 1]), Limits(scale=(480, 480)))
    fault = only(report)
    assert fault.kind == 'boxes beyond reg_max' and 'needs 30.0 bins of stride 8' in fault.what, fault.what
    assert not check_set(tmp_path, Limits(reg_max=30, scale=(480, 480))).faults, \
        'a head with more bins should reach the sides'
    assert not check_set(tmp_path, Limits(scale=(96, 96))).faults, 'in smaller images this head should reach the sides'
    assert not check_set(changed(tmp_path, bbox=[0, 5, 48, 1], iscrowd=1), Limits(scale=(480, 480))).faults, \
        'training ignores crowds, so the check should too'


def test_tolerance(tmp_path):
    root = changed(tmp_path, bbox=[5, 5, 0, 9])
    assert check_set(root, Limits(tolerance=0.1)).suffers, '1 in 8 is more than 10%'
    report = check_set(root, Limits(tolerance=0.125))
    assert not report.suffers and report.faults, 'a tolerated fault should still be reported'
    assert 'would not suffer (up to 12.50%)' in report.table(), report.table()


def test_all_at_once_each_is_found(tmp_path):
    whole = content(images=10)
    for box, (change, _, _) in zip(whole['annotations'][5:], KINDS.values()):
        box.update(change)
    root = write_set(tmp_path, images=10, changes=whole, damaged={8: 'missing', 9: 'half'})
    found = check_set(root)
    assert set(found.faults) == {*KINDS, 'missing images', 'unreadable images'}, \
        'no kind of problem should hide another'
    assert all(len(faults) == 1 for faults in found.faults.values()), 'no fault should be counted twice'


@pytest.mark.parametrize('text, said', [(b'{"images": [', 'not usable JSON'), (b'[]', 'holds [] instead of an object'),
                                        (b'{}', 'images is missing'), (b'\xff', 'not UTF-8')])
def test_files_that_hold_no_annotations(tmp_path, text, said):
    (write_set(tmp_path) / 'boxes.json').write_bytes(text)
    report = check_set(tmp_path)
    assert report.suffers and said in report.table(), \
        'an unusable file should be reported as a fault, not raised as an error'


def test_an_empty_set(tmp_path):
    report = check_set(write_set(tmp_path, images=0))
    assert only(report).kind == 'no images' and report.suffers, 'training on a set without images would not start'


def test_the_report_as_json(tmp_path):
    root = changed(tmp_path, bbox=[5, 5, 0, 9], image_id=11)
    options = parse('check_dataset', str(root / 'boxes.json'), '--images', str(root / 'images'), '--json',
                    str(tmp_path / 'report.json'))
    engine.check_dataset(options)
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['counts'] == dict(images=4, annotations=8, categories=2) and report['suffers'] is True, \
        'the JSON should have the verdict'
    problem = report['problems'][0]
    assert (problem['problem'], problem['count'], problem['share']) == ('boxes without area', 1, 0.125), \
        'the JSON should have the counts'
    assert problem['entries'][0]['entry'] == 'annotations[5] (id 105)', 'the JSON should list every entry'
    options.json = str(tmp_path / 'none' / 'report.json')
    with pytest.raises(SetupError, match='cannot be written .* No such file'):
        engine.check_dataset(options)


def test_real_sets_have_no_problem(tiny_coco):
    for split in ('train', 'val'):
        report = check.check(f'{tiny_coco}/annotations/instances_{split}2017.json', f'{tiny_coco}/{split}2017')
        assert not report.suffers and set(report.faults) <= {'boxes beyond reg_max'}, report.table()


def call(*arguments):
    """Run the tool in this process, because a new one takes seconds to import the stack; return its exit status."""
    tool = str(ROOT / 'tools' / 'check_dataset.py')
    with mock.patch.object(sys, 'argv', [tool, *map(str, arguments)]), pytest.raises(SystemExit) as raised, \
            mock.patch.object(sys, 'path', [str(ROOT / 'tools'), *sys.path]):
        runpy.run_path(tool, run_name='__main__')
    return raised.value.code


def test_the_command_line(tmp_path, capsys):
    """Scripts read the exit status: 0; 1 if training would suffer; 2 for a mistake in the command."""
    root = write_set(tmp_path)
    assert call(root / 'boxes.json', '--images', root / 'images') == 0, 'the exit status of a good set should be 0'
    assert 'no problem found' in capsys.readouterr().out, 'the report should say that nothing is wrong'
    (root / 'images' / '0.jpg').write_bytes(encode()[:300])
    assert call(root / 'boxes.json', '--images', root / 'images') == 1, \
        'one image in four is broken, so the exit status should be 1'
    assert 'images[0] (id 10)' in capsys.readouterr().out, 'the report should name the broken image'
    assert call(root / 'boxes.json', '--images', root / 'pictures') == 2, 'a missing folder is a mistake in the command'
    assert capsys.readouterr().err.startswith('error: The folder of images'), 'the mistake should be one line on stderr'


def test_help_needs_no_stack():
    answer = run('-S', 'tools/check_dataset.py', '--help')  # without site-packages
    assert answer.returncode == 0 and '--reg-max' in answer.stdout, answer.stderr


@pytest.mark.parametrize('arguments', [(), ('ann.json', ), ('ann.json', '--images', 'x', '--reg-max', '0'),
                                       ('ann.json', '--images', 'x', '--strides', 'eight')])
def test_usage_mistakes(arguments):
    with pytest.raises(SystemExit) as raised:
        parse('check_dataset', *arguments)
    assert raised.value.code == 2, 'a mistake in the command line should exit with status 2'
