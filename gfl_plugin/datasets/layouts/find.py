"""Find out the layout of a user's data set, and make its splits agree."""
import hashlib
import os
from collections import Counter, defaultdict
from typing import Callable, Dict, List, NamedTuple, Tuple

from ...errors import SetupError
from ..annotations import printable, why_dropped
from . import coco, voc, yolo
from .common import Finding, Findings, Split, list_folder, map_files

LAYOUTS = (coco, yolo, voc)
END = 4096  # bytes at the end of a file that mostly tell it from others of its size
MOST_CLASSES = 8  # rows of the table that describes a data set
DROPPED = 'classes without objects to train on, dropped'
SHARED = 'images that another split has too: scores on them say little'
HELD_OUT = 'training images held out, because there are no validation images'
HELD_OUT_FROM_TEST = HELD_OUT + ' (the test split is left alone)'


class Data(NamedTuple):
    """A data set as a user's folder holds it."""
    layout: str  # COCO, YOLO or Pascal VOC
    root: str  # the folder, or the file that describes it
    classes: Tuple[str, ...]
    splits: Dict[str, Split]  # train, val and maybe test, all with the same categories
    findings: List[Finding]


def find_layout(path: str, val_share: float = 0.2) -> Data:
    """Read a data set in any of the known layouts. Nothing is written.

    Args:
        path: Its folder, or the file that describes it: COCO's JSON or YOLO's YAML.
        val_share: The share of training images to hold out for validation if there is no validation split.

    Raises:
        SetupError: The path does not exist or has no known layout, one of its files is unusable, or there is nothing
            to train on.
    """
    if not 0 < val_share < 1:
        raise SetupError(f'The share of validation images should lie between 0 and 1, and is {val_share:g}')
    path, findings = os.path.abspath(os.path.expanduser(path)), Findings()
    layout, splits = _read(path, findings)
    if not splits.get('train') or not splits['train'].content['images']:
        raise SetupError(f'{path} is a data set in {layout} format that has no image to train on. Its splits: '
                         f'{", ".join(splits)}')
    for split in splits.values():  # in the same order in every layout, so that equal sets train equally
        split.content['images'].sort(key=lambda image: image['file_name'])
    if not splits.get('val') or not splits['val'].content['images']:
        splits['train'], splits['val'] = hold_out(splits['train'], val_share)
        for image in splits['val'].content['images']:
            findings.add(HELD_OUT_FROM_TEST if 'test' in splits else HELD_OUT, image['file_name'])
    splits = {split: splits[split] for split in ('train', 'val', 'test') if split in splits}
    classes = _unify_classes(splits, path, findings)
    _find_shared(splits, findings)
    return Data(layout, path, classes, splits, findings.counted())


def _read(path: str, findings: Findings) -> Tuple[str, Dict[str, Split]]:
    if not os.path.exists(path):
        raise SetupError(f'The data set {path} does not exist')
    root = path if os.path.isdir(path) else os.path.dirname(path)
    for layout in LAYOUTS:
        found = layout.find(path, findings)
        if found is not None:
            return layout.LAYOUT, layout.read(found, root, findings)
    looked_for = '; '.join(f'{layout.LAYOUT}: {layout.LOOKED_FOR}' for layout in LAYOUTS)
    held = [printable(os.path.basename(name)) for name in list_folder(path)]
    holds = f'It holds {", ".join(held[:8])}{", ..." if len(held) > 8 else ""}' if held else 'It is empty'
    raise SetupError(f'{path} is not a data set in a known layout. Looked there for: {looked_for}. '
                     + (holds if os.path.isdir(path) else 'It is a single file'))


# Splits.

def hold_out(train: Split, share: float) -> Tuple[Split, Split]:
    """Take a share of the images out of a training split, as a validation split.

    The images are those whose names have the lowest hashes: the choice depends on nothing else, and mostly stays when
    images are added. An image that has the last object of a class is not taken.

    Raises:
        SetupError: There is only one image.
    """
    images = train.content['images']
    if len(images) < 2:
        raise SetupError(f'{train.source} lists one image only: training and validation need one each, at least')
    classes = defaultdict(set)
    for annotation in train.content['annotations']:
        classes[annotation['image_id']].add(annotation['category_id'])
    left = Counter(category for found in classes.values() for category in found)
    wanted, held = max(round(share * len(images)), 1), set()
    for image in sorted(images, key=lambda image: _hash(image['file_name'].encode(errors='surrogatepass'))):
        if len(held) < wanted and all(left[category] > 1 for category in classes[image['id']]):
            left.subtract(classes[image['id']])
            held.add(image['id'])
    return _part(train, held, False), _part(train, held, True)


def _part(split: Split, images: set, inside: bool) -> Split:
    """The images of a split that are, or are not, in a set of ids."""
    content = split.content
    return split._replace(content={
        **content,
        'images': [image for image in content['images'] if (image['id'] in images) == inside],
        'annotations': [box for box in content['annotations'] if (box['image_id'] in images) == inside]})


def _hash(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _find_shared(splits: Dict[str, Split], findings: Findings) -> None:
    """Report images of which another split has the same file, or a copy. Few files are read: most differ in size."""
    groups = [[(name, os.path.join(split.images, image['file_name']))
               for name, split in splits.items() for image in split.content['images']]]
    for key in (os.path.getsize, _hash_end, _hash_all):
        groups = [part for group in groups for part in _divide(group, key)]
    for group in groups:
        first_split, first = group[0]
        for split, path in group[1:]:
            if split != first_split:
                findings.add(SHARED, f'{os.path.relpath(path, splits[split].images)} of {split} is '
                                     f'{os.path.relpath(first, splits[first_split].images)} of {first_split}')


def _divide(group: List[Tuple[str, str]], key: Callable) -> List[List[Tuple[str, str]]]:
    """Divide files (split, path) by a key, and keep the parts that are of several splits."""
    parts = defaultdict(list)
    for file, value in zip(group, map_files(_or_none, [key] * len(group), [path for _, path in group])):
        if value is not None:
            parts[value].append(file)
    return [part for part in parts.values() if len({split for split, _ in part}) > 1]


def _or_none(key: Callable, path: str) -> object:
    try:
        return key(path)
    except (OSError, ValueError):  # missing images are found, and counted, where they are read
        return None


def _hash_end(path: str) -> str:
    with open(path, 'rb') as file:
        file.seek(max(os.path.getsize(path) - END, 0))
        return _hash(file.read())


def _hash_all(path: str) -> str:
    with open(path, 'rb') as file:
        return _hash(file.read())


# Classes.

def count_objects(content: dict) -> Counter:
    """How many objects of each category, by its name, training can learn from."""
    images = {image['id']: (image['width'], image['height']) for image in content['images']}
    names = {category['id']: category['name'] for category in content['categories']}
    return Counter(names[box['category_id']] for box in content['annotations']
                   if not box['iscrowd'] and not box.get('ignore')
                   and why_dropped(box, *images[box['image_id']]) is None)


def _unify_classes(splits: Dict[str, Split], root: str, findings: Findings) -> Tuple[str, ...]:
    """Give all splits the categories, by name, that have objects in training.

    Returns:
        Their names, in the order of the training split.

    Raises:
        SetupError: There are none.
    """
    counts = {split: count_objects(part.content) for split, part in splits.items()}
    every = dict.fromkeys(category['name'] for part in splits.values() for category in part.content['categories'])
    dropped = [name for name in every if not counts['train'][name]]
    for name in dropped:
        elsewhere = sum(count[name] for count in counts.values())
        findings.add(DROPPED, f'{name} with {elsewhere} in other splits' if elsewhere else name)
    kept: Dict[str, dict] = {}
    for category in splits['train'].content['categories']:
        if category['name'] not in dropped:
            kept.setdefault(category['name'], category)
    if not kept:
        raise SetupError(f'{root} has no object to train on in its {len(splits["train"].content["images"])} training '
                         f'images, and {len(every)} classes.{_list_findings(findings.counted())}')
    for part in splits.values():
        _set_categories(part.content, kept)
    return tuple(kept)


def _set_categories(content: dict, kept: Dict[str, dict]) -> None:
    ids = {category['id']: kept[category['name']]['id'] for category in content['categories']
           if category['name'] in kept}
    content['annotations'] = [box for box in content['annotations'] if box['category_id'] in ids]
    for box in content['annotations']:
        box['category_id'] = ids[box['category_id']]
    content['categories'] = list(kept.values())


# What a user reads.

def describe(data: Data) -> str:
    """A data set's splits, with the images and the objects of each class, as a table; then what was found wrong."""
    rows = [[f'{data.layout} format', *data.splits]]
    counts = [count_objects(split.content) for split in data.splits.values()]
    rows.append(['images', *(f'{len(split.content["images"]):,}' for split in data.splits.values())])
    rows.append(['  without objects', *(f'{_count_empty(split.content):,}' for split in data.splits.values())])
    rows.append(['objects', *(f'{sum(count.values()):,}' for count in counts)])
    shown = data.classes[:MOST_CLASSES] if len(data.classes) > MOST_CLASSES + 1 else data.classes
    rows += [[f'  {printable(name, 40)}', *(f'{count[name]:,}' for count in counts)] for name in shown]
    rest = data.classes[len(shown):]
    if rest:
        rows.append([f'  {len(rest)} more classes', *(f'{sum(count[name] for name in rest):,}' for count in counts)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [row[0].ljust(widths[0]) + ''.join(f'  {cell:>{width}}' for cell, width in zip(row[1:], widths[1:]))
             for row in rows]
    return '\n'.join([printable(data.root), *lines]) + _list_findings(data.findings)


def _count_empty(content: dict) -> int:
    return len({image['id'] for image in content['images']} - {box['image_id'] for box in content['annotations']})


def _list_findings(findings: List[Finding]) -> str:
    return ''.join(f'\n- {finding}' for finding in findings)
