"""The Pascal VOC layout: an XML file for each image, and text files that list the images of each split."""
import math
import os
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..images import describe
from . import common
from .common import BadLabel, Box, Findings, LabelledImage, Split, cut_box, list_folder, overshoot, read_lines, split_of

LAYOUT = 'Pascal VOC'
LOOKED_FOR = 'Annotations/*.xml with JPEGImages/ or images/, or XML files beside the images'
IMAGE_FOLDERS = ('jpegimages', 'images')
CLASS_FILE = 'classes.txt'
BROKEN = 'broken XML files, left out with their images'
EMPTY = 'XML files without objects, kept as images without objects'
MALFORMED = 'objects without a name or a box of four numbers, left out'
DIFFICULT = 'objects marked difficult, ignored in training and evaluation'
OTHER_SIZE = 'XML files that give another size than the image has'


class Folders(NamedTuple):
    """Where the XML files and images of a split are."""
    labels: str
    images: str
    names: Optional[List[str]] = None  # of the split's images, without suffix; None for all images in the folder


def find(path: str, findings: Findings) -> Optional[Dict[str, Folders]]:
    """The folders of each split, or None if the path has another layout."""
    inside = {os.path.basename(folder).lower(): folder for folder in list_folder(path) if os.path.isdir(folder)}
    labels = inside.get('annotations')
    if labels and common.walk_files(labels, ('.xml', )):
        images = next((inside[name] for name in IMAGE_FOLDERS if name in inside), path)
        return {split: Folders(labels, images, names) for split, names in _find_lists(path).items()}
    beside = {split_of(name): folder for name, folder in inside.items() if split_of(name) and _holds_xml(folder)}
    beside = beside or ({'train': path} if _holds_xml(path) else {})
    return {split: Folders(folder, folder) for split, folder in beside.items()} or None


def _holds_xml(folder: str) -> bool:
    return any(file.lower().endswith('.xml') for file in list_folder(folder))


def _find_lists(root: str) -> Dict[str, Optional[List[str]]]:
    """The names that ImageSets lists for each split. A missing train or val is what trainval holds beyond the other."""
    lists: Dict[str, Optional[List[str]]] = {}
    for split in ('train', 'val', 'trainval', 'test'):
        file = os.path.join(root, 'ImageSets', 'Main', f'{split}.txt')
        if os.path.isfile(file):
            lists[split] = [name for name in read_lines(file) if name]
    trainval = lists.pop('trainval', None) or []
    for split, other in (('train', 'val'), ('val', 'train')):
        listed = set(lists.get(other) or ())
        rest = [name for name in trainval if name not in listed]
        if split not in lists and rest:
            lists[split] = rest
    return lists or {'train': None}


def read(folders: Dict[str, Folders], root: str, findings: Findings) -> Dict[str, Split]:
    """Read the images and XML files of each split. Classes are in the order of classes.txt, then of their names."""
    labelled, strays = {}, set()
    for split, place in folders.items():
        images, labels = _by_stem(place.images, common.IMAGE_SUFFIXES), _by_stem(place.labels, ('.xml', ))
        strays |= {label for key, label in labels.items() if key not in images}
        pairs = [(images[key], labels.get(key)) for key in _choose(place, images, labels, findings)]
        labelled[split] = list(_read_images(pairs, place.images, root, findings))
    for label in sorted(strays):
        findings.add(common.NO_IMAGE, os.path.relpath(label, root))
    file = os.path.join(root, CLASS_FILE)
    first = [name for name in read_lines(file) if name] if os.path.isfile(file) else []
    names = {name for images in labelled.values() for image in images for name, _, _ in image.objects}
    order = [*first, *sorted(names - {*first})]
    return {split: Split(common.to_coco(images, order), folders[split].images, folders[split].labels)
            for split, images in labelled.items()}


def _by_stem(folder: str, suffixes: Iterable[str]) -> Dict[str, str]:
    """Paths of the files below a folder by their path within it, without the suffix."""
    return {os.path.splitext(os.path.relpath(path, folder))[0]: path for path in common.walk_files(folder, suffixes)}


def _choose(place: Folders, images: Dict[str, str], labels: Dict[str, str], findings: Findings) -> List[str]:
    """The images of a split, by their names without suffix."""
    if place.names is None:
        return list(images)
    chosen: Dict[str, None] = {}
    for name in place.names:
        key = name if name in images else os.path.splitext(name)[0]  # some lists have the suffix
        if key in images:
            chosen[key] = None
        elif name not in labels:  # else the XML file is reported as one without an image
            findings.add(common.NOT_THERE, name)
    return list(chosen)


def _read_images(pairs: List[Tuple[str, Optional[str]]], folder: str, root: str,
                 findings: Findings) -> Iterator[LabelledImage]:
    for (image, label), ((damage, size), content) in zip(pairs, common.map_files(_read_both, pairs)):
        name = os.path.relpath(image, root)
        where = os.path.relpath(label, root) if label else name
        if size is None:
            findings.add(common.UNREADABLE, f'{name}: {damage}')
        elif isinstance(content, str):
            findings.add(BROKEN, f'{where}: {content}')
        else:
            if content is None:
                findings.add(common.NO_LABELS, name)
            objects = [] if content is None else list(_parse_objects(content, size, where, findings))
            yield LabelledImage(os.path.relpath(image, folder), size, objects)


def _read_both(pair: Tuple[str, Optional[str]]) -> Tuple[tuple, Any]:
    """The size of an image; and its parsed XML file, None if there is none, or the reason why it cannot be parsed."""
    image, label = pair
    return common.read_size(image), _parse_xml(label) if label else None


def _parse_xml(path: str) -> Any:
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse_entity  # a few lines of them expand to gigabytes, or name other files
    try:
        with open(path, 'rb') as file:
            parser.ParseFile(file)
        return builder.close()
    except (expat.ExpatError, BadLabel, OSError, ValueError, LookupError) as error:
        return describe(error)


def _refuse_entity(*declaration: Any) -> None:
    raise BadLabel('it declares entities')


def _parse_objects(content: Element, size: Tuple[int, int], where: str,
                   findings: Findings) -> Iterator[Tuple[str, Box, int]]:
    objects = content.findall('object')
    if not objects:
        findings.add(EMPTY, where)
    said = [_number(content, f'size/{side}') for side in ('width', 'height')]
    if all(said) and said != list(size):
        findings.add(OTHER_SIZE, f'{where}: {said[0]:g} x {said[1]:g}, not {size[0]} x {size[1]}')
    for number, entry in enumerate(objects, 1):
        try:
            name, corners = _parse_object(entry)
            box = cut_box(corners, size)
        except BadLabel as error:
            findings.add(str(error), f'{where}: object {number}')
            continue
        if overshoot(corners, size) > 1:  # some tools count from 0
            findings.add(common.CUT, f'{where}: object {number}')
        is_difficult = (entry.findtext('difficult') or '').strip() == '1'
        if is_difficult:
            findings.add(DIFFICULT, f'{where}: object {number}')
        yield name, box, int(is_difficult)


def _parse_object(entry: Element) -> Tuple[str, List[float]]:
    """The class name and the corners (x1, y1, x2, y2) of an object. VOC's pixels count from 1, and xmax is inside."""
    name = ' '.join((entry.findtext('name') or '').split())
    xmin, ymin, xmax, ymax = (_number(entry, f'bndbox/{key}') for key in ('xmin', 'ymin', 'xmax', 'ymax'))
    if not name or None in (xmin, ymin, xmax, ymax):
        raise BadLabel(MALFORMED)
    return name, [xmin - 1, ymin - 1, xmax, ymax]


def _number(entry: Element, path: str) -> Optional[float]:
    try:
        value = float(entry.findtext(path) or '')
    except ValueError:
        return None
    return value if math.isfinite(value) else None
