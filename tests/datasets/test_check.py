"""tools/check_dataset.py: one of each problem is found, named, counted and judged; a whole set has none."""
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
KINDS = {  # what is changed of the annotation 105, in an image of 48 x 32 pixels, and what is said of it
    'boxes not finite': (dict(bbox=[NAN, 1, 2, 3]), 'annotations[5] (id 105)', 'the bbox [nan, 1, 2, 3] in an image'),
    'boxes without area': (dict(bbox=[5, 5, 0, 9]), 'annotations[5] (id 105)', 'the bbox [5, 5, 0, 9]'),
    'boxes outside the image': (dict(bbox=[48, 5, 9, 9]), 'annotations[5] (id 105)', 'in an image of 48 x 32'),
    'boxes thinner than a pixel': (dict(bbox=[5, 5, 0.5, 9]), 'annotations[5] (id 105)', 'the bbox [5, 5, 0.5, 9]'),
    'area entries not positive': (dict(area=0), 'annotations[5] (id 105)', 'and the area 0 in'),
    'unknown categories': (dict(category_id=5), 'annotations[5] (id 105)', 'is of the category 5, which is not in'),
    'annotations without image': (dict(image_id=99), 'annotations[5] (id 105)', 'is of the image 99, which is not in'),
    'duplicate ids': (dict(id=101), 'annotations[5] (id 101)', 'has the id of annotations[1]'),
    'malformed entries': (dict(bbox='none'), 'annotations[5] (id 105)', "has the bbox 'none', not a list of four"),
}


def check_set(root, limits=Limits()):
    return check.check(str(root / 'boxes.json'), str(root / 'images'), limits, threads=1)


def only(report):
    """The kind, entry and text of the one problem of a report."""
    assert len(report.faults) == 1 and len(next(iter(report.faults.values()))) == 1, report.table()
    return next(iter(report.faults.values()))[0]


def changed(root, **entries):
    whole = content()
    whole['annotations'][5].update(entries)
    return write_set(root, changes=whole)


def test_a_whole_set_has_no_problem(tmp_path):
    report = check_set(write_set(tmp_path))
    assert not report.faults and not report.suffers, 'nothing should be made up'
    assert report.table() == (
        '4 images, 8 annotations, 2 categories: no problem found\n'
        'classes in the order of the file, each with the number of its annotations:\n'
        '    other (0), thing (8)'), report.table()


def test_classes_are_listed_in_the_order_of_the_file(tmp_path):
    """A user copies the names into a config, so that they must be complete, and not be sorted."""
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
                                               dict(id=19, name='ant', annotations=0)], 'and so for a program'


def test_a_class_of_two_categories(tmp_path):
    whole = dict(content(), categories=[*content()['categories'], dict(id=9, name='thing')])
    report = check_set(write_set(tmp_path, changes=whole))
    fault = only(report)
    assert (fault.kind, fault.entry) == ('repeated class names', 'categories[2] (id 9)'), 'the second should be named'
    assert fault.what == "has the name 'thing' of categories[1] (id 7)", 'and the first'
    assert report.suffers, 'a training on the class does not start'


def test_what_is_completed_is_told(tmp_path):
    whole = content()
    for number, box in enumerate(whole['annotations']):
        box['id'] = number
    del whole['annotations'][1]['iscrowd']
    for box in whole['annotations'][:3]:
        del box['area']
    report = check_set(write_set(tmp_path, changes=whole))
    assert report.completed == report.as_dict()['completed'] == dict(area=3, iscrowd=1, id=8), report.completed
    assert not report.faults and not report.suffers, 'a file that can be completed is no problem'
    assert report.table().endswith('\ntraining and evaluation fill in: area (3 annotations), iscrowd (1 annotations), '
                                   'ids from 1 (8 annotations)'), report.table()


@pytest.mark.parametrize('kind', KINDS)
def test_one_of_each_kind(tmp_path, kind):
    change, entry, what = KINDS[kind]
    report = check_set(changed(tmp_path, **change))
    fault = only(report)
    assert (fault.kind, fault.entry) == (kind, entry) and what in fault.what, 'it should be found once and named'
    assert kind in report.table() and entry in report.table(), 'and a reader told of it'
    assert report.suffers, 'one annotation in eight is more than one percent'


@pytest.mark.parametrize('kind', KINDS)
def test_check_and_training_agree(tmp_path, kind):
    """What the check calls refused is refused, and what it calls lost is lost, by the data set itself."""
    root = changed(tmp_path, **KINDS[kind][0])
    if check.EFFECTS[kind] == check.REFUSED:
        with pytest.raises(SetupError, match=KINDS[kind][1].replace('[', r'\[').replace('(', r'\(')[:-1]):
            build(root)
    else:
        dataset = build(root)
        left = [len(dataset.get_data_info(index)['instances']) for index in range(4)]
        assert left == [2, 2, 1, 2], 'exactly the box that the check names should be lost'


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
    assert fault.kind == 'images of another size' and fault.entry == 'images[2] (id 12)', 'turned sizes should be found'
    assert '32 x 48 pixels' in fault.what and 'has 48 x 32' in fault.what, 'with both sizes'
    assert report.suffers, 'boxes in the wrong place are silent harm, however few'


def test_far_sides(tmp_path):
    """480 x 10 pixels after the resize: priors of 64 overlap most, and half of 480 is 30 of their strides of 8."""
    report = check_set(changed(tmp_path, bbox=[0, 5, 48, 1]), Limits(scale=(480, 480)))
    fault = only(report)
    assert fault.kind == 'boxes beyond reg_max' and 'needs 30.0 bins of stride 8' in fault.what, fault.what
    assert not check_set(tmp_path, Limits(reg_max=30, scale=(480, 480))).faults, 'a head with more bins can say it'
    assert not check_set(tmp_path, Limits(scale=(96, 96))).faults, 'and so can this head of smaller images'
    assert not check_set(changed(tmp_path, bbox=[0, 5, 48, 1], iscrowd=1), Limits(scale=(480, 480))).faults, \
        'a crowd is not learnt'


def test_what_is_tolerated(tmp_path):
    root = changed(tmp_path, bbox=[5, 5, 0, 9])
    assert check_set(root, Limits(tolerance=0.1)).suffers, 'one in eight is more than a tenth'
    report = check_set(root, Limits(tolerance=0.125))
    assert not report.suffers and report.faults, 'what is tolerated should still be told'
    assert 'would not suffer (up to 12.50%)' in report.table(), report.table()


def test_all_at_once_each_is_found(tmp_path):
    whole = content(images=10)
    for box, (change, _, _) in zip(whole['annotations'][5:], KINDS.values()):
        box.update(change)
    root = write_set(tmp_path, images=10, changes=whole, damaged={8: 'missing', 9: 'half'})
    found = check_set(root)
    assert set(found.faults) == {*KINDS, 'missing images', 'unreadable images'}, 'no problem should hide another'
    assert all(len(faults) == 1 for faults in found.faults.values()), 'and none be counted twice'


@pytest.mark.parametrize('text, said', [(b'{"images": [', 'not usable JSON'), (b'[]', 'holds [] where an object'),
                                        (b'{}', 'images is missing'), (b'\xff', 'not UTF-8')])
def test_files_that_hold_no_annotations(tmp_path, text, said):
    (write_set(tmp_path) / 'boxes.json').write_bytes(text)
    report = check_set(tmp_path)
    assert report.suffers and said in report.table(), 'a file that training refuses is a finding, not an error'


def test_an_empty_set(tmp_path):
    report = check_set(write_set(tmp_path, images=0))
    assert only(report).kind == 'no images' and report.suffers, 'a set without images cannot be trained on'


def test_the_report_as_json(tmp_path):
    root = changed(tmp_path, bbox=[5, 5, 0, 9], image_id=11)
    options = parse('check_dataset', str(root / 'boxes.json'), '--images', str(root / 'images'), '--json',
                    str(tmp_path / 'report.json'))
    engine.check_dataset(options)
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['counts'] == dict(images=4, annotations=8, categories=2) and report['suffers'] is True, 'the verdict'
    problem = report['problems'][0]
    assert (problem['problem'], problem['count'], problem['share']) == ('boxes without area', 1, 0.125), 'the counts'
    assert problem['entries'][0]['entry'] == 'annotations[5] (id 105)', 'and every entry'
    options.json = str(tmp_path / 'none' / 'report.json')
    with pytest.raises(SetupError, match='cannot be written .* No such file'):
        engine.check_dataset(options)


def test_real_sets_have_no_problem(tiny_coco):
    for split in ('train', 'val'):
        report = check.check(f'{tiny_coco}/annotations/instances_{split}2017.json', f'{tiny_coco}/{split}2017')
        assert not report.suffers and set(report.faults) <= {'boxes beyond reg_max'}, report.table()


def call(*arguments):
    """The exit status of the tool, in this process: another one takes seconds to import the stack."""
    tool = str(ROOT / 'tools' / 'check_dataset.py')
    with mock.patch.object(sys, 'argv', [tool, *map(str, arguments)]), pytest.raises(SystemExit) as raised, \
            mock.patch.object(sys, 'path', [str(ROOT / 'tools'), *sys.path]):
        runpy.run_path(tool, run_name='__main__')
    return raised.value.code


def test_the_command_line(tmp_path, capsys):
    """The exit status is for scripts: 0, 1 when training would suffer, 2 for a mistake in the command."""
    root = write_set(tmp_path)
    assert call(root / 'boxes.json', '--images', root / 'images') == 0, 'nothing is wrong with the set'
    assert 'no problem found' in capsys.readouterr().out, 'and so it should say'
    (root / 'images' / '0.jpg').write_bytes(encode()[:300])
    assert call(root / 'boxes.json', '--images', root / 'images') == 1, 'one image in four is broken'
    assert 'images[0] (id 10)' in capsys.readouterr().out, 'and should be named'
    assert call(root / 'boxes.json', '--images', root / 'pictures') == 2, 'a folder that is not there is a mistake'
    assert capsys.readouterr().err.startswith('error: The folder of images'), 'in one paragraph'


def test_help_needs_no_stack():
    answer = run('-S', 'tools/check_dataset.py', '--help')  # without site-packages
    assert answer.returncode == 0 and '--reg-max' in answer.stdout, answer.stderr


@pytest.mark.parametrize('arguments', [(), ('ann.json', ), ('ann.json', '--images', 'x', '--reg-max', '0'),
                                       ('ann.json', '--images', 'x', '--strides', 'eight')])
def test_usage_mistakes(arguments):
    with pytest.raises(SystemExit) as raised:
        parse('check_dataset', *arguments)
    assert raised.value.code == 2, 'a mistake in the command line should exit with 2, before anything is imported'
