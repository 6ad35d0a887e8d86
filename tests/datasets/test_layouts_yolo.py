"""How YOLO folders are read, and what is said of bad labels."""
import shutil
from pathlib import Path

import pytest
from data_sets import DAMAGE, SIZE, encode
from layouts import CLASSES, first_objects, make_splits, write_lines, write_yolo

from gfl_plugin.datasets.layouts import describe, find_layout
from gfl_plugin.datasets.layouts import yolo as kinds
from gfl_plugin.datasets.layouts.common import CUT, NO_AREA, NO_IMAGE, NO_LABELS, NOT_THERE, UNREADABLE
from gfl_plugin.errors import SetupError

NAMES = f'names: [{", ".join(CLASSES)}]\n'
LINE = '1 0.5 0.5 0.25 0.5'  # a good one; in pixels: 18, 8, 12, 16
GOOD = {  # label files, with the boxes and classes that they hold
    'box': (LINE, [('other', [18, 8, 12, 16])]),
    'class_as_a_float': ('1.0 0.5 0.5 0.25 0.5', [('other', [18, 8, 12, 16])]),
    'blank_lines_and_spaces': (f'\n  {LINE}\t \r\n\n', [('other', [18, 8, 12, 16])]),
    'byte_order_mark': (f'\ufeff{LINE}', [('other', [18, 8, 12, 16])]),
    'polygon': ('1 0.25 0.25 0.5 0.75 0.75 0.5', [('other', [12, 8, 24, 16])]),
    'rotated_box': ('0 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75', [('thing', [12, 8, 24, 16])]),
    'rounded_beyond_the_border': ('1 0.5 0.5 1.005 1.005', [('other', [0, 0, 48, 32])]),
    'empty': ('', []),
}
BAD = {  # label lines that are left out, and what is said of them
    'class_beyond_names': ('3 0.5 0.5 0.25 0.5', kinds.UNKNOWN_CLASS),
    'negative_class': ('-1 0.5 0.5 0.25 0.5', kinds.UNKNOWN_CLASS),
    'class_between_two': ('0.5 0.5 0.5 0.25 0.5', kinds.MALFORMED),
    'too_short': ('1 0.5 0.5 0.25', kinds.MALFORMED),
    'confidence': ('1 0.5 0.5 0.25 0.5 0.9', kinds.MALFORMED),
    'words': ('cat 0.5 0.5 0.25 0.5', kinds.MALFORMED),
    'commas': ('1,0.5,0.5,0.25,0.5', kinds.MALFORMED),
    'not_a_number': ('1 nan 0.5 0.25 0.5', kinds.MALFORMED),
    'class_not_a_number': ('nan 0.5 0.5 0.25 0.5', kinds.MALFORMED),
    'infinite_class': ('inf 0.5 0.5 0.25 0.5', kinds.MALFORMED),
    'binary': ('\udcff\udcd8', kinds.MALFORMED),
    'pixels': ('1 24 16 12 16', kinds.OUTSIDE),
    'negative': ('1 -0.1 0.5 0.25 0.5', kinds.OUTSIDE),
    'polygon_outside': ('1 0.25 0.25 0.5 1.75 0.75 0.5', kinds.OUTSIDE),
    'no_area': ('1 0.5 0.5 0 0.5', NO_AREA),
    'flat_polygon': ('1 0.25 0.25 0.5 0.25 0.75 0.25', NO_AREA),
}


def write(root: Path, text: str = LINE, settings: str = 'train: images/train\nval: images/val\n' + NAMES) -> Path:
    """A set of two images, of which the first one in training has the label file."""
    for split in ('train', 'val'):
        for index in range(2):
            file = root / f'images/{split}/{index}.jpg'
            write_lines(root / f'labels/{split}/{index}.txt', [f'{label} 0.5 0.5 0.5 0.5' for label in range(3)])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(seed=index + 2 * (split == 'val')))
    (root / 'labels/train/0.txt').write_bytes(text.encode(errors='surrogateescape'))
    (root / 'data.yaml').write_text(settings, encoding='utf-8')
    return root


def found(data):
    return {finding.what: (finding.count, finding.first[0]) for finding in data.findings}


def count_images(data):
    return {split: len(part.content['images']) for split, part in data.splits.items()}


# Labels.

@pytest.mark.parametrize('kind', GOOD)
def test_good_labels(tmp_path, kind):
    text, expected = GOOD[kind]
    data = find_layout(str(write(tmp_path, text)))
    assert first_objects(data) == expected and not data.findings, describe(data)


@pytest.mark.parametrize('kind', BAD)
def test_bad_lines_are_counted_and_the_others_stay(tmp_path, kind):
    line, what = BAD[kind]
    data = find_layout(str(write(tmp_path, '\n'.join([line, LINE, line]))))
    assert found(data) == {what: (2, 'labels/train/0.txt:1')}, 'each should be counted, and the first named'
    assert first_objects(data) == [('other', [18, 8, 12, 16])], 'and the good one kept'


def test_a_box_beyond_the_border_is_cut(tmp_path):
    data = find_layout(str(write(tmp_path, '1 0.05 0.5 0.2 0.5')))
    (_, box), = first_objects(data)
    assert box == pytest.approx([0, 8, 7.2, 16]) and found(data) == {CUT: (1, 'labels/train/0.txt:1')}


def test_rounding_makes_no_box_thinner_than_a_pixel(tmp_path):
    data = find_layout(str(write(tmp_path, f'1 {1.3 / 48} 0.5 {1 / 48} 0.5')))
    assert first_objects(data)[0][1][2] >= 1, 'training would leave it out'


def test_keypoints_are_no_polygon(tmp_path):
    root = write(tmp_path, f'{LINE} 0.1 0.1 2 0.9 0.9 2')
    (root / 'data.yaml').write_text((root / 'data.yaml').read_text() + 'kpt_shape: [2, 3]\n')
    assert first_objects(find_layout(str(root))) == [('other', [18, 8, 12, 16])]


# Files.

def test_files_without_their_counterpart(tmp_path):
    root = write(tmp_path)
    (root / 'labels/train/0.txt').unlink()
    (root / 'images/val/1.jpg').unlink()
    write_lines(root / 'labels/val/deep/er.txt', [LINE])
    data = find_layout(str(root))
    assert found(data) == {NO_LABELS: (1, 'images/train/0.jpg'), NO_IMAGE: (2, 'labels/val/1.txt')}, describe(data)
    assert count_images(data) == {'train': 2, 'val': 1} and first_objects(data) == [], 'the image should be kept'


@pytest.mark.parametrize('damage', ['empty', 'a_web_page', 'no_header'])
def test_images_that_cannot_be_opened(tmp_path, damage):
    root = write(tmp_path)
    (root / 'images/train/0.jpg').write_bytes(DAMAGE[damage](encode()))
    data = find_layout(str(root))
    assert found(data) == {UNREADABLE: (1, 'images/train/0.jpg: not an image')}, describe(data)
    assert count_images(data) == {'train': 1, 'val': 2}, 'its boxes are fractions of an unknown size'


def test_a_label_file_that_cannot_be_read(tmp_path):
    root = write(tmp_path)
    (root / 'labels/train/0.txt').unlink()
    (root / 'labels/train/0.txt').mkdir()
    data = find_layout(str(root))
    assert found(data)[kinds.BAD_FILE][0] == 1 and count_images(data)['train'] == 1, \
        'its image should not be taken for one without objects'


def test_hidden_files_are_no_images(tmp_path):
    root = write(tmp_path)
    for name in ('images/train/._0.jpg', 'labels/train/._0.txt', 'images/train/.cache/3.jpg'):
        write_lines(root / name, ['Mac OS X'])
    assert not find_layout(str(root)).findings


def test_lists_are_no_labels(tmp_path):
    root = write(tmp_path, settings=f'train: images/train/list.txt\nval: images/val\n{NAMES}')
    for file in root.glob('labels/*/*.txt'):
        file.rename(root / 'images' / file.relative_to(root / 'labels'))
    shutil.rmtree(root / 'labels')
    write_lines(root / 'images/train/list.txt', ['./0.jpg', './1.jpg'])
    write_lines(root / 'images/val/classes.txt', CLASSES)
    assert not find_layout(str(root)).findings, 'only labels need an image'


def test_equal_names_in_several_folders(tmp_path):
    root = write(tmp_path)
    shutil.copytree(root / 'images/val', root / 'images/train/é')
    shutil.copytree(root / 'labels/val', root / 'labels/train/é')
    shutil.rmtree(root / 'images/val'), shutil.rmtree(root / 'labels/val')
    (root / 'data.yaml').write_text('train: images/train\n' + NAMES, encoding='utf-8')
    data = find_layout(str(root), val_share=0.5)
    names = [image['file_name'] for part in data.splits.values() for image in part.content['images']]
    assert sorted(names) == ['0.jpg', '1.jpg', 'é/0.jpg', 'é/1.jpg'] and len(data.findings) == 1, describe(data)


# The YAML file.

SETTINGS = {
    'names_by_number': 'train: images/train\nval: images/val\nnames:\n  0: thing\n  2: Straße 路\n  1: other\n',
    'a_list_of_folders': f'train: [images/train]\nval:\n- images/val\n{NAMES}',
    'roboflow': f'train: ../images/train\nval: ../images/val\n{NAMES}nc: 3\n',
    'a_root': f'path: images\ntrain: train\nval: val\n{NAMES}',
    'a_root_that_has_moved': f'path: /home/nobody/set\ntrain: images/train\nval: images/val\n{NAMES}',
    'lists_and_a_root_that_has_moved': f'path: /home/nobody/set\ntrain: train.txt\nval: lists/val.txt\n{NAMES}',
    'the_folder_above': f'path: .\ntrain: ./images/train/\nval: images/val\n{NAMES}',
    'lists_of_images': f'train: train.txt\nval: lists/val.txt\n{NAMES}',
    'empty_entries': f'path:\ntrain: images/train\nval: images/val\ntest: # none\n{NAMES}',
}


@pytest.mark.parametrize('kind', SETTINGS)
def test_settings(tmp_path, kind):
    root = write(tmp_path, settings=SETTINGS[kind])
    if kind.startswith('lists'):
        write_lines(root / 'train.txt', ['./images/train/0.jpg', 'images/train/1.jpg', '', 'images/train/1.jpg'])
        write_lines(root / 'lists/val.txt', ['images/val/0.jpg', str(root / 'images/val/1.jpg')])
    data = find_layout(str(root))
    assert data.layout == 'YOLO' and set(data.classes) == {*CLASSES} and not data.findings, describe(data)
    assert count_images(data) == {'train': 2, 'val': 2} and first_objects(data) == [('other', [18, 8, 12, 16])]
    assert find_layout(str(root / 'data.yaml'))[2:] == data[2:], 'the file itself should do as well'


def test_several_folders_in_a_split(tmp_path):
    root = write(tmp_path, settings=f'train: [images/train, images/val]\n{NAMES}')
    data = find_layout(str(root), val_share=0.5)
    assert sorted(image['file_name'] for part in data.splits.values() for image in part.content['images']) \
        == ['train/0.jpg', 'train/1.jpg', 'val/0.jpg', 'val/1.jpg'], 'names should be relative to the folder of both'


def test_images_that_a_list_names(tmp_path):
    root = write(tmp_path, settings=f'train: train.txt\nval: images/val\n{NAMES}')
    write_lines(root / 'train.txt', ['images/train/0.jpg', 'images/train/7.jpg', 'nul\0.jpg'])
    data = find_layout(str(root))
    assert found(data)[NOT_THERE] == (2, 'images/train/7.jpg: missing') and count_images(data)['train'] == 1
    assert NO_IMAGE not in found(data), 'an image that the list leaves out is there for its label file'


def test_class_names_that_yaml_reads_as_other_things(tmp_path):
    root = write(tmp_path, settings='train: images/train\nval: images/val\nnames: [no, 1e3, 2024-01-01]\n')
    assert find_layout(str(root)).classes == ('no', '1e3', '2024-01-01')


def test_a_name_that_two_classes_have(tmp_path):
    root = write(tmp_path, settings='train: images/train\nval: images/val\nnames: [thing, other, thing]\n')
    data = find_layout(str(root))
    assert data.classes == ('thing', 'other') and found(data) == {kinds.SAME_NAME: (1, 'data.yaml: 2: thing')}


def test_a_test_split_that_is_not_there(tmp_path):
    settings = f'train: images/train\nval: images/val\ntest: ../test/images\n{NAMES}'
    data = find_layout(str(write(tmp_path, settings=settings)))
    assert found(data) == {kinds.NO_TEST: (1, '../test/images')}


@pytest.mark.parametrize('settings, said', [
    (f'train: images/train\nval: images/vla\n{NAMES}', 'names images/vla for its val split, and there is no .*/vla'),
    (f'path: images\ntrain: trian\n{NAMES}', 'names trian for its train split, and there is no .*images/trian and no'),
    ('train: images/train\nnames: thing\n', "the names 'thing', which should be a list"),
    ('train: images/train\nnames: [[thing]]\n', 'which should be a list'),
    ('train: images/train\nnames: {one: thing}\n', 'which should be a list'),
    ('train: images/train\nnames: []\n', 'which should be a list'),
    (f'train: {{a: b}}\n{NAMES}', "data.yaml has {'a': 'b'} in its entry train, where a path should be"),
    ('train: [images/train\n', 'data.yaml is not YAML: .*line 2'),
])
def test_bad_settings(tmp_path, settings, said):
    root = write(tmp_path, settings=settings)
    with pytest.raises(SetupError, match=said):
        find_layout(str(root))


def test_settings_run_no_code(tmp_path):
    tag = f'x: !!python/object/apply:os.mkdir ["{tmp_path}/made"]\n'
    find_layout(str(write(tmp_path / 'set', settings=f'{tag}train: images/train\nval: images/val\n{NAMES}')))
    assert not (tmp_path / 'made').exists()


def test_yaml_files_that_describe_no_data(tmp_path):
    root = write(tmp_path)
    write_lines(root / 'environment.yml', ['name: x'])
    write_lines(root / 'other.yaml', ['train: images/val', NAMES])
    assert count_images(find_layout(str(root)))['val'] == 2, 'data.yaml should be chosen'
    with pytest.raises(SetupError, match='environment.yml does not describe a YOLO data set: it needs'):
        find_layout(str(root / 'environment.yml'))
    (root / 'data.yaml').rename(root / 'mine.yaml')
    with pytest.raises(SetupError, match='Several YAML files .*mine.yaml.*other.yaml. Give the path of one'):
        find_layout(str(root))


# Without a YAML file.

@pytest.mark.parametrize('classes', kinds.CLASS_FILES)
def test_a_plain_folder(tmp_path, classes):
    root = write(tmp_path)
    (root / 'data.yaml').unlink()
    write_lines(root / classes, CLASSES)
    data = find_layout(str(root))
    assert data.layout == 'YOLO' and data.classes == CLASSES and not data.findings, describe(data)
    assert count_images(data) == {'train': 2, 'val': 2}


def test_a_blank_line_among_the_classes(tmp_path):
    root = write(tmp_path)
    (root / 'data.yaml').unlink()
    write_lines(root / 'classes.txt', ['thing', '', 'other', ''])
    data = find_layout(str(root))
    assert data.classes == ('thing', 'other') and found(data)[kinds.UNKNOWN_CLASS][0] == 4, 'a class keeps its number'


@pytest.mark.parametrize('images, labels', [('images', 'labels'), ('', '')])
def test_a_plain_folder_without_splits(tmp_path, images, labels):
    made = write(tmp_path / 'made')
    for source, target in (('images', images), ('labels', labels)):
        shutil.copytree(made / source / 'val', tmp_path / 'set' / target, dirs_exist_ok=True)
    write_lines(tmp_path / 'set/classes.txt', CLASSES)
    data = find_layout(str(tmp_path / 'set'))
    assert count_images(data) == {'train': 1, 'val': 1} and len(data.findings) == 1, describe(data)


def test_folders_of_splits_with_images_inside(tmp_path):
    made = write(tmp_path / 'made')
    for split, name in (('train', 'train'), ('val', 'valid')):
        for kind in ('images', 'labels'):
            shutil.copytree(made / kind / split, tmp_path / 'set' / name / kind)
    write_lines(tmp_path / 'set/classes.txt', CLASSES)
    data = find_layout(str(tmp_path / 'set'))
    assert count_images(data) == {'train': 2, 'val': 2} and not data.findings, describe(data)


def test_labels_beside_the_images_below_another_folder_called_images(tmp_path):
    root = write(tmp_path / 'images' / 'set')
    assert first_objects(find_layout(str(root))) == [('other', [18, 8, 12, 16])], 'the last one should be replaced'
    for split in ('train', 'val'):  # labels beside the images
        shutil.copytree(root / 'images' / split, root / split)
        shutil.copytree(root / 'labels' / split, root / split, dirs_exist_ok=True)
    shutil.rmtree(root / 'images'), shutil.rmtree(root / 'labels')
    (root / 'data.yaml').write_text(f'train: train\nval: val\n{NAMES}', encoding='utf-8')
    data = find_layout(str(root))
    assert first_objects(data) == [('other', [18, 8, 12, 16])] and not data.findings, describe(data)


def test_sizes_are_those_of_the_images(tmp_path):
    root = write_yolo(make_splits(tmp_path), tmp_path / 'set')
    sizes = {(image['width'], image['height']) for part in find_layout(str(root)).splits.values()
             for image in part.content['images']}
    assert sizes == {SIZE}
