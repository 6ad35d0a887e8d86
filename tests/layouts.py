"""Data sets on disk in each layout that users keep them in, rendered from COCO content."""
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Dict, List, Tuple
from xml.sax.saxutils import escape

from data_sets import SIZE, encode

from gfl_plugin.datasets.layouts import Split

CLASSES = ('thing', 'other', 'Straße 路')
BOXES: List[Tuple[int, List[float]]] = [  # class and box, of an image of 48 x 32 pixels
    (0, [2.0, 3.0, 20.0, 15.0]), (1, [10.5, 8.25, 30.0, 20.0]), (2, [0.0, 0.0, 48.0, 32.0]),
    (0, [40.125, 1.0, 7.5, 31.0])]
FILES = {'train': ('a.jpg', 'b c.jpg', 'é/a.jpg', '空.jpg'), 'val': ('v.jpg', 'é/w.jpg')}


def make_splits(root: Path, files: Dict[str, Tuple[str, ...]] = FILES) -> Dict[str, Split]:
    """A small set: images in a folder for each split, with 0 to 3 objects, and their content in COCO's format."""
    splits = {}
    for split, names in files.items():
        content: dict = dict(images=[], annotations=[],
                             categories=[dict(id=3 * i, name=name) for i, name in enumerate(CLASSES)])
        for index, name in enumerate(names):
            file = root / 'pictures' / split / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(seed=zlib.crc32((split + name).encode())))
            content['images'].append(dict(id=7 * index, file_name=name, width=SIZE[0], height=SIZE[1]))
            for label, box in BOXES[:3 - index % 4] + BOXES[3:][:index]:
                content['annotations'].append(
                    dict(id=len(content['annotations']), image_id=7 * index, category_id=3 * label, bbox=box))
        splits[split] = Split(content, str(root / 'pictures' / split), '')
    return splits


def write_coco(splits: Dict[str, Split], root: Path) -> Path:
    """COCO's own layout: ``annotations/instances_train2017.json`` and ``train2017/``."""
    for split, part in splits.items():
        shutil.copytree(part.images, root / f'{split}2017')
        write_json(root / f'annotations/instances_{split}2017.json', part.content)
    return root


def write_yolo(splits: Dict[str, Split], root: Path) -> Path:
    """``data.yaml``, ``images/train/`` and ``labels/train/``. YOLO has no crowds: their boxes are left out.

    Numbers are written with all their digits, so that equal seeds train equally.
    """
    names = _names(splits)
    for split, part in splits.items():
        for image, boxes in _by_image(part.content):
            target = _copy(part, image, root / 'images' / split)
            label = root / 'labels' / split / target.relative_to(root / 'images' / split).with_suffix('.txt')
            label.parent.mkdir(parents=True, exist_ok=True)
            sides = (image['width'], image['height']) * 2
            lines = []
            for name, (x, y, width, height), is_crowd in boxes:
                values = (value / side for value, side in zip((x + width / 2, y + height / 2, width, height), sides))
                lines += [] if is_crowd else [' '.join([str(names.index(name)), *map(str, values)])]
            label.write_text('\n'.join(lines))
    entries = [f'{split}: images/{split}' for split in splits]
    (root / 'data.yaml').write_text('\n'.join([*entries, f'names: {json.dumps(names)}']), encoding='utf-8')
    return root


def write_voc(splits: Dict[str, Split], root: Path) -> Path:
    """``Annotations/``, ``JPEGImages/`` and ``ImageSets/Main/``, and ``classes.txt`` for the order of the classes.

    Crowds become objects marked difficult. All splits share a folder, so their images need different names.
    """
    for split, part in splits.items():
        names = []
        for image, boxes in _by_image(part.content):
            _copy(part, image, root / 'JPEGImages')
            names.append(os.path.splitext(image['file_name'])[0])
            label = root / 'Annotations' / f'{names[-1]}.xml'
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(voc_text(image['width'], image['height'], boxes), encoding='utf-8')
        write_lines(root / f'ImageSets/Main/{split}.txt', names)
    write_lines(root / 'classes.txt', _names(splits))
    return root


def voc_text(width: int, height: int, boxes: list) -> str:
    objects = ''.join(
        f'<object><name>{escape(name)}</name><difficult>{is_crowd}</difficult><bndbox><xmin>{x + 1}</xmin>'
        f'<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>'
        for name, (x, y, w, h), is_crowd in boxes)
    return (f'<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}'
            '</annotation>')


def write_json(file: Path, content: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_lines(file: Path, lines: List[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n'.join(lines), encoding='utf-8')


def _names(splits: Dict[str, Split]) -> List[str]:
    return [category['name'] for category in splits['train'].content['categories']]


def _by_image(content: dict) -> list:
    """Each image, with the class name, box and crowd flag of each of its objects."""
    names = {category['id']: category['name'] for category in content['categories']}
    boxes: dict = {image['id']: [] for image in content['images']}
    for box in content['annotations']:
        boxes[box['image_id']].append((names[box['category_id']], box['bbox'], box.get('iscrowd', 0)))
    return [(image, boxes[image['id']]) for image in content['images']]


def _copy(part: Split, image: dict, folder: Path) -> Path:
    target = folder / image['file_name']
    if target.exists():
        raise ValueError(f'two splits have an image called {image["file_name"]}')
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(part.images, image['file_name']), target)
    return target


def first_objects(data):
    """List the name and the box of each object in the first training image."""
    content = data.splits['train'].content
    names = {category['id']: category['name'] for category in content['categories']}
    return [(names[box['category_id']], box['bbox']) for box in content['annotations']
            if box['image_id'] == content['images'][0]['id']]
