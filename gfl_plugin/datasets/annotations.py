"""Read, check and complete COCO-format annotation files, without importing the stack."""
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
LARGEST = 1e9  # pixels: the largest coordinate or size accepted, far beyond any image and far below overflow
GROWTH = 4  # json.load takes more bytes of memory than this per byte of file: 5.6 for boxes, 6.2 with polygons
Rule = Tuple[Callable[[Any], bool], str]  # a check of the value, and what the value should be


class Fault(NamedTuple):
    """One problem of one entry, or of a file."""
    kind: str  # the kind of problem, in the plural
    entry: str  # where it is: 'annotations[12] (id 34)'
    what: str  # what is wrong: the rest of a sentence that starts with the entry


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST  # no bool, no NaN


def _is_coordinate(value: Any) -> bool:
    return _is_number(value) or type(value) is float  # NaN and inf pass here: they cost one box later, not the file


def _is_id(value: Any) -> bool:
    return type(value) is int and -2**63 <= value < 2**63  # faster-coco-eval stores ids in 64 bits


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
# COCO's metric opens no image. MMDetection leaves the file names empty in the ground truth that it writes.
REQUIRED_BY_METRIC: Dict[str, Dict[str, Rule]] = {**REQUIRED, 'images': dict(id=ID)}
OPTIONAL: Dict[str, Dict[str, Rule]] = {'annotations': dict(area=NUMBER, iscrowd=FLAG)}


def load_annotations(path: str, name: str, needs_annotations: bool = True,
                     required: Dict[str, Dict[str, Rule]] = REQUIRED) -> dict:
    """Read, check and complete an annotation file.

    Args:
        path: Path of the file.
        name: What error messages call the file.
        needs_annotations: False to accept a file that only lists images.
        required: The keys that the entries of each section must have.

    Raises:
        SetupError: The file cannot be read, or an entry is malformed.
    """
    content = read_annotations(path, name)
    refuse(list(find_malformed(content, needs_annotations, required)), name)
    complete(content.get('annotations', []))
    return content


def read_annotations(path: str, name: Optional[str] = None) -> Any:
    """Read a JSON file.

    Args:
        path: Path of the file.
        name: What error messages call the file; its path by default.

    Raises:
        SetupError: The file cannot be read, is not JSON, or needs more memory than the machine or the container has.
    """
    name = name or path
    try:
        size, memory = os.path.getsize(path), usable_memory()
        if GROWTH * size > memory:  # reading on would slow the machine down until the system kills some process
            raise SetupError(f'The annotation file {name} has {size / 1e9:,.2f} GB. Reading it takes at least {GROWTH} '
                             f'times as much memory, and this process may use only {memory / 1e9:,.2f} GB')
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except OSError as error:
        raise SetupError(f'The annotation file {name} cannot be read: {error.strerror or error}') from error
    except UnicodeDecodeError as error:
        raise SetupError(f'The annotation file {name} is not JSON: byte {error.start} is not UTF-8') from error
    except (ValueError, RecursionError) as error:  # valid JSON fails too: 5,000 digits, deep nesting
        raise SetupError(f'The annotation file {name} is not usable JSON: {error}') from error


def find_malformed(content: Any, needs_annotations: bool = True,
                   required: Dict[str, Dict[str, Rule]] = REQUIRED) -> Iterator[Fault]:
    """Find each entry that lacks a key, has a value of the wrong type, or repeats an id, in the order of the file.

    Args:
        content: The content of an annotation file.
        needs_annotations: False to accept a file that only lists images.
        required: The keys that the entries of each section must have.
    """
    if type(content) is not dict:
        yield Fault(MALFORMED, 'the file', f'holds {show(content)} instead of an object with images, annotations '
                                           'and categories')
        return
    for section in required:
        if section not in content and section == 'annotations' and not needs_annotations:
            continue
        if type(content.get(section)) is not list:
            yield Fault(MALFORMED, section, f'should be a list, not {show(content[section])}' if section in content
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
                        f'has the same id as {section}[{first[entry["id"]]}]')


def find_wrong(section: str, entry: Any, required: Dict[str, Dict[str, Rule]] = REQUIRED) -> Optional[str]:
    """Describe the first rule that an entry breaks, in words that follow the entry's name; None if it breaks none."""
    if type(entry) is not dict:
        return f'is {show(entry)}, not an object'
    for key, (is_valid, expected) in required[section].items():
        if key not in entry:
            return f'has no {key}'
        if not is_valid(entry[key]):
            return f'has the {key} {show(entry[key])}, not {expected}'
    for key, (is_valid, expected) in OPTIONAL.get(section, {}).items():
        if entry.get(key) is not None and not is_valid(entry[key]):  # null means that the value is missing
            return f'has the {key} {show(entry[key])}, not {expected}'
    return None


def category_ids(categories: List[dict], classes: Sequence[str], name: str) -> List[int]:
    """Find the category id of each class by the name of the class.

    Args:
        categories: Well-formed entries, in any order.
        classes: The classes of the config, each listed once.
        name: What error messages call the file that the categories come from.

    Returns:
        The category id of each label.

    Raises:
        SetupError: A class has no category or several, or is listed twice.
    """
    twice = [known for known, times in Counter(classes).items() if times > 1]
    if twice:
        raise SetupError(f'metainfo=dict(classes=...) lists {some(twice)} more than once: list each class once')
    count = Counter(category['name'] for category in categories)
    missing = [known for known in classes if known not in count]
    if missing:
        raise SetupError(f'{len(missing)} of the {len(classes)} classes of the data set ({some(missing)}) are not '
                         f'among the {len(count)} categories of {name} ({some(list(count))}). Name the '
                         "file's classes in the config, metainfo=dict(classes=...), and set the head's num_classes to "
                         'their number')
    repeated = [known for known in classes if count[known] > 1]
    if repeated:
        raise SetupError(f'{name} has several categories named {some(repeated)}: merge them under one id, or '
                         'rename them')
    ids = {category['name']: category['id'] for category in categories}
    return [ids[known] for known in classes]


def complete(annotations: List[dict]) -> Dict[str, int]:
    """Fill in, in place, what COCO's metric needs and a file may lack: the area, ``iscrowd``, and ids above 0.

    Without the area and ``iscrowd``, pycocotools raises KeyError and faster-coco-eval counts every object as small.
    Both read the annotation id 0 as "not matched".

    Args:
        annotations: Well-formed entries. If one of them has an id below 1, all of them are renumbered from 1.

    Returns:
        How many annotations got a new value, by key. Keys that no annotation lacked are left out. A value of null
        counts as missing.
    """
    filled: Counter = Counter()
    renumber = any(annotation['id'] < 1 for annotation in annotations)
    for number, annotation in enumerate(annotations, 1):
        if annotation.get('area') is None:
            annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
            filled['area'] += 1
        if annotation.get('iscrowd') is None:
            annotation['iscrowd'] = 0
            filled['iscrowd'] += 1
        if renumber:
            annotation['id'] = number
            filled['id'] += 1
    return dict(filled)


def why_dropped(annotation: dict, width: float, height: float) -> Optional[str]:
    """Say why training drops an annotation, as the kind of its problem; None if training keeps it.

    Args:
        annotation: A well-formed entry. Its ``ignore`` mark is no problem: whoever set it wants the entry left out.
        width: Width of its image, pixels.
        height: Height of its image, pixels.
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
    area = annotation.get('area')
    if area is not None and area <= 0:
        return NO_AREA_ENTRY
    return None


def boxes_to_learn(content: dict) -> Dict[int, List[List[float]]]:
    """Collect the boxes (x, y, width, height), pixels, that training learns from, by the id of their image.

    Args:
        content: The content of a well-formed annotation file.
    """
    images = {image['id']: image for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    boxes: Dict[int, List[List[float]]] = {image: [] for image in images}
    for annotation in content['annotations']:
        image = images.get(annotation['image_id'])
        if image is None or annotation['category_id'] not in categories or annotation.get('ignore'):
            continue
        # COCO's rules say to ignore crowds.
        if not annotation.get('iscrowd') and why_dropped(annotation, image['width'], image['height']) is None:
            boxes[image['id']].append(annotation['bbox'])
    return boxes


def refuse(faults: List[Fault], name: str) -> None:
    """Raise an error if there are faults that keep training from starting.

    Raises:
        SetupError: There is a fault. The message describes the first one and counts the others.
    """
    if faults:
        fault, more = faults[0], len(faults) - 1
        others = f', and {more} more such {"entry" if more == 1 else "entries"}' if more else ''
        raise SetupError(f'{name}: {fault.entry} {fault.what}{others}. `gfl check` lists every problem of '
                         'a data set')


def name_entry(section: str, index: int, entry: Any) -> str:
    """Name an entry by its section, its index and, for a text search, its id."""
    known = f' (id {show(entry["id"])})' if type(entry) is dict and 'id' in entry else ''
    return f'{section}[{index}]{known}'


def show(value: Any, longest: int = 60) -> str:
    """Show any value of a file in a few words on one line."""
    if type(value) in (dict, list) and len(value) > 8:
        return f'{"an object" if type(value) is dict else "a list"} of {len(value)}'
    if type(value) is int and abs(value) >= 10**longest:
        return f'an integer beyond 1e{longest}'  # Python refuses to print integers of more than 4,300 digits
    try:
        text = repr(value[:longest] if type(value) is str else value)
    except RecursionError:
        return 'deeply nested brackets'
    return text if len(text) <= longest else text[:longest] + '...'


def some(names: List[str]) -> str:
    """List the first five names for a message."""
    return ', '.join(map(printable, names[:5])) + (', ...' if len(names) > 5 else '')


def printable(text: str, longest: int = 300) -> str:
    """Return a name from a file as it is, or escaped and cut if it does not fit on a line of the log."""
    return text if text.isprintable() and len(text) <= longest else show(text, longest)
