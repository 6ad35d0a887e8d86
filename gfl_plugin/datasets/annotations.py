"""COCO-format annotation files: reading, checking and completing them. Needs no stack."""
import json
import math
import os
from collections import Counter
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import SetupError
from ..limits import usable_memory

MALFORMED, DUPLICATE = 'malformed entries', 'duplicate ids'
STRAY, UNKNOWN_CATEGORY = 'annotations without image', 'unknown categories'
NOT_FINITE, NO_AREA, OUTSIDE = 'boxes not finite', 'boxes without area', 'boxes outside the image'
THIN, NO_AREA_ENTRY = 'boxes thinner than a pixel', 'area entries not positive'
LARGEST = 1e9  # pixels, of any number of a box or size: far beyond any image, far below an overflow
GROWTH = 4  # bytes of memory that a byte of JSON takes, at least: boxes alone take 5.6, boxes and polygons 6.2
Rule = Tuple[Callable[[Any], bool], str]  # whether a value will do, and what it should be


class Fault(NamedTuple):
    """One entry, or file, with one problem."""
    kind: str  # of problem, in the plural
    entry: str  # where: 'annotations[12] (id 34)'
    what: str  # a clause that goes on after the entry


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST  # a bool is an int, NaN in no range


def _is_coordinate(value: Any) -> bool:
    return _is_number(value) or type(value) is float  # what is not finite drops one box, not the file


def _is_id(value: Any) -> bool:
    return type(value) is int and -2**63 <= value < 2**63  # the C++ of the metric counts in 64 bits


ID: Rule = (_is_id, 'an integer')
NAME: Rule = (lambda value: type(value) is str and value != '', 'a name')
SIZE: Rule = (lambda value: _is_number(value) and value > 0, 'a number of pixels')
BOX: Rule = (lambda value: type(value) is list and len(value) == 4 and all(map(_is_coordinate, value)),
             'a list of four numbers')
NUMBER: Rule = (_is_number, 'a finite number')
FLAG: Rule = (lambda value: value in (0, 1), '0 or 1')

REQUIRED: Dict[str, Dict[str, Rule]] = {
    'images': dict(id=ID, file_name=NAME, width=SIZE, height=SIZE),
    'categories': dict(id=ID, name=NAME),
    'annotations': dict(id=ID, image_id=ID, category_id=ID, bbox=BOX),
}
# COCO's metric opens no image. MMDetection's own ground truth files leave the file names empty.
REQUIRED_BY_METRIC: Dict[str, Dict[str, Rule]] = {**REQUIRED, 'images': dict(id=ID)}
OPTIONAL: Dict[str, Dict[str, Rule]] = {'annotations': dict(area=NUMBER, iscrowd=FLAG)}


def load_annotations(path: str, name: str, needs_annotations: bool = True,
                     required: Dict[str, Dict[str, Rule]] = REQUIRED) -> dict:
    """Read, check and complete an annotation file.

    Args:
        path: Where the file is.
        name: What an error calls the file.
        needs_annotations: False if a file that only lists images will do.
        required: The keys that the entries of each section must have.

    Raises:
        SetupError: The file cannot be read, or an entry is malformed.
    """
    content = read_annotations(path, name)
    refuse(list(find_malformed(content, needs_annotations, required)), name)
    complete(content.get('annotations', []))
    return content


def read_annotations(path: str, name: Optional[str] = None) -> Any:
    """The content of a JSON file.

    Args:
        path: Where it is.
        name: What to call it in an error, if not by its path.

    Raises:
        SetupError: It cannot be read, is not JSON, or is larger than the memory of the machine or the container has
            room for.
    """
    name = name or path
    try:
        size, memory = os.path.getsize(path), usable_memory()
        if GROWTH * size > memory:  # before all else slows down, and the system ends this process or another
            raise SetupError(f'The annotation file {name} has {size / 1e9:,.2f} GB, takes at least {GROWTH} times as '
                             f'much memory to be read, and this process may use {memory / 1e9:,.2f} GB')
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except OSError as error:
        raise SetupError(f'The annotation file {name} cannot be read: {error.strerror or error}') from error
    except UnicodeDecodeError as error:
        raise SetupError(f'The annotation file {name} is not JSON: byte {error.start} is not UTF-8') from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, and brackets within brackets, are JSON
        raise SetupError(f'The annotation file {name} is not usable JSON: {error}') from error


def find_malformed(content: Any, needs_annotations: bool = True,
                   required: Dict[str, Dict[str, Rule]] = REQUIRED) -> Iterator[Fault]:
    """Find each entry that lacks a key, has a value of the wrong type, or repeats an id, in the order of the file.

    Args:
        content: The content of an annotation file.
        needs_annotations: False if a file that only lists images will do.
        required: The keys that the entries of each section must have.
    """
    if type(content) is not dict:
        yield Fault(MALFORMED, 'the file', f'holds {show(content)} where an object with images, annotations and '
                                           'categories should be')
        return
    for section in required:
        if section not in content and section == 'annotations' and not needs_annotations:
            continue
        if type(content.get(section)) is not list:
            yield Fault(MALFORMED, section, f'should be a list and is {show(content[section])}' if section in content
                        else 'is missing from the file')
            continue
        yield from _check_section(section, content[section], required)


def _check_section(section: str, entries: list, required: Dict[str, Dict[str, Rule]]) -> Iterator[Fault]:
    first: Dict[int, int] = {}
    for index, entry in enumerate(entries):
        wrong = find_wrong(section, entry, required)
        if wrong:
            yield Fault(MALFORMED, name_entry(section, index, entry), wrong)
        if type(entry) is dict and _is_id(entry.get('id')) and first.setdefault(entry['id'], index) != index:
            yield Fault(DUPLICATE, name_entry(section, index, entry),
                        f'has the id of {section}[{first[entry["id"]]}]')


def find_wrong(section: str, entry: Any, required: Dict[str, Dict[str, Rule]] = REQUIRED) -> Optional[str]:
    """Say which rule of its section an entry breaks first, as a clause that follows its name; None if none."""
    if type(entry) is not dict:
        return f'is {show(entry)}, not an object'
    for key, (will_do, expected) in required[section].items():
        if key not in entry:
            return f'has no {key}'
        if not will_do(entry[key]):
            return f'has the {key} {show(entry[key])}, not {expected}'
    for key, (will_do, expected) in OPTIONAL.get(section, {}).items():
        if key in entry and not will_do(entry[key]):
            return f'has the {key} {show(entry[key])}, not {expected}'
    return None


def category_ids(categories: List[dict], classes: Sequence[str], name: str) -> List[int]:
    """Find the category of each class by its name.

    Args:
        categories: Well-formed entries, in any order.
        classes: The classes of the config; a class may not be listed twice.
        name: What an error calls the file of the categories.

    Returns:
        The id of the category of each label.

    Raises:
        SetupError: A class has no category, or more than one, or is listed twice.
    """
    twice = [known for known, times in Counter(classes).items() if times > 1]
    if twice:
        raise SetupError(f'metainfo=dict(classes=...) lists {some(twice)} more than once: list each class once')
    count = Counter(category['name'] for category in categories)
    missing = [known for known in classes if known not in count]
    if missing:
        raise SetupError(f'{len(missing)} of the {len(classes)} classes of the data set ({some(missing)}) are not '
                         f'among the {len(count)} categories of {name} ({some(list(count))}). Name its classes in the '
                         'config: metainfo=dict(classes=...), and give the head as many num_classes')
    repeated = [known for known in classes if count[known] > 1]
    if repeated:
        raise SetupError(f'{name} has several categories of the name {some(repeated)}: merge them under one id, or '
                         'rename them')
    ids = {category['name']: category['id'] for category in categories}
    return [ids[known] for known in classes]


def complete(annotations: List[dict]) -> Dict[str, int]:
    """Fill in, in place, what COCO's metric needs and files leave out: the area, ``iscrowd``, and ids above 0.

    Without them pycocotools raises KeyError, and faster-coco-eval takes every object for a small one. Both read the
    annotation id 0 as "not matched".

    Args:
        annotations: Well-formed entries. If one has an id below 1, all of them get new ids, which count from 1.

    Returns:
        How many annotations got a new value, by key; only keys that were completed.
    """
    filled: Counter = Counter()
    renumber = any(annotation['id'] < 1 for annotation in annotations)
    for number, annotation in enumerate(annotations, 1):
        if 'area' not in annotation:
            annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
            filled['area'] += 1
        if 'iscrowd' not in annotation:
            annotation['iscrowd'] = 0
            filled['iscrowd'] += 1
        if renumber:
            annotation['id'] = number
            filled['id'] += 1
    return dict(filled)


def why_dropped(annotation: dict, width: float, height: float) -> Optional[str]:
    """Why an annotation cannot be trained on, as the kind of its problem; None if it can.

    Args:
        annotation: A well-formed entry; one marked ``ignore`` is left out on purpose.
        width: Of its image, in pixels.
        height: Likewise.
    """
    x, y, w, h = annotation['bbox']
    if not math.isfinite(x + y + w + h):
        return NOT_FINITE
    if w <= 0 or h <= 0:
        return NO_AREA
    if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        return OUTSIDE
    if w < 1 or h < 1:
        return THIN
    if annotation.get('area', 1) <= 0:
        return NO_AREA_ENTRY
    return None


def boxes_to_learn(content: dict) -> Dict[int, List[List[float]]]:
    """The boxes (x, y, width, height), pixels, that a training learns from, by the id of their image.

    Args:
        content: Of a well-formed annotation file.
    """
    images = {image['id']: image for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    boxes: Dict[int, List[List[float]]] = {image: [] for image in images}
    for annotation in content['annotations']:
        image = images.get(annotation['image_id'])
        if image is None or annotation['category_id'] not in categories or annotation.get('ignore'):
            continue
        # A crowd is to be ignored, as COCO says.
        if not annotation.get('iscrowd') and why_dropped(annotation, image['width'], image['height']) is None:
            boxes[image['id']].append(annotation['bbox'])
    return boxes


def refuse(faults: List[Fault], name: str) -> None:
    """Raise for faults with which no training can start.

    Raises:
        SetupError: There is one; the first is in the message.
    """
    if faults:
        fault, more = faults[0], len(faults) - 1
        others = f', and {more} more such {"entry" if more == 1 else "entries"}' if more else ''
        raise SetupError(f'{name}: {fault.entry} {fault.what}{others}. tools/check_dataset.py lists all that is wrong '
                         'with a data set')


def name_entry(section: str, index: int, entry: Any) -> str:
    """Where to look for an entry: its place in the file and, for a search, its id."""
    known = f' (id {show(entry["id"])})' if type(entry) is dict and 'id' in entry else ''
    return f'{section}[{index}]{known}'


def show(value: Any, longest: int = 60) -> str:
    """A value of a file, short and on one line whatever it is."""
    if type(value) in (dict, list) and len(value) > 8:
        return f'{"an object" if type(value) is dict else "a list"} of {len(value)}'
    if type(value) is int and abs(value) >= 10**longest:
        return f'an integer beyond 1e{longest}'  # Python refuses to write out the longest ones
    try:
        text = repr(value[:longest] if type(value) is str else value)
    except RecursionError:
        return 'brackets within brackets'
    return text if len(text) <= longest else text[:longest] + '...'


def some(names: List[str]) -> str:
    """List the first names, for a message."""
    return ', '.join(map(printable, names[:5])) + (', ...' if len(names) > 5 else '')


def printable(text: str, longest: int = 300) -> str:
    """A name of a file's as it is, unless a line of the log cannot hold it."""
    return text if text.isprintable() and len(text) <= longest else show(text, longest)
