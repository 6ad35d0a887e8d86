"""Find every problem of a COCO-format data set before training meets it."""
import os
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..errors import SetupError
from . import annotations as rules
from .annotations import Fault
from .images import open_image

UNUSABLE, NO_IMAGES = 'unusable file', 'no images'
MISSING, UNREADABLE, WRONG_SIZE = 'missing images', 'unreadable images', 'images of another size'
FAR_SIDES = 'boxes beyond reg_max'
REPEATED = 'repeated class names'
# What training does about each kind of problem. The table lists the kinds in the order of EFFECTS.
REFUSED, MISPLACED, LOST, CUT = 'does not start', 'learns wrong boxes', 'drops them', 'learns them cut off'
REFUSED_IF_USED = 'does not start with them'
STOPS = (REFUSED, REFUSED_IF_USED)
EFFECTS = {
    **dict.fromkeys((UNUSABLE, NO_IMAGES, rules.MALFORMED, rules.DUPLICATE), REFUSED),
    REPEATED: REFUSED_IF_USED,
    WRONG_SIZE: MISPLACED,
    **dict.fromkeys((MISSING, UNREADABLE, rules.STRAY, rules.UNKNOWN_CATEGORY, rules.NOT_FINITE, rules.NO_AREA,
                     rules.OUTSIDE, rules.THIN, rules.NO_AREA_ENTRY), LOST),
    FAR_SIDES: CUT}
OF_IMAGES = (MISSING, UNREADABLE, WRONG_SIZE)
NO_BREAK = '\xa0'
Namer = Callable[[str, int, dict], str]
Indexed = Tuple[int, dict]  # the place of a well-formed entry in its section, and the entry


class Limits(NamedTuple):
    """The training settings that the boxes are checked against."""
    reg_max: int = 16  # n
    strides: Sequence[int] = (8, 16, 32, 64, 128)  # pixels
    scale: Tuple[int, int] = (1333, 800)  # longest long and short side of a resized image, pixels
    prior: float = 8  # side of a prior, in strides
    tolerance: float = 0.01  # share of images, or of annotations, that training may lose


class ClassCount(NamedTuple):
    """A category of the file."""
    id: int
    name: str
    annotations: int


class Report(NamedTuple):
    """What is in a data set, and what is wrong with it."""
    counts: Dict[str, int]  # number of entries by section
    classes: List[ClassCount]  # in the order of the file
    completed: Dict[str, int]  # how many annotations lack a key that training and evaluation fill in, by key
    faults: Dict[str, List[Fault]]  # by kind of problem; only kinds that were found
    tolerance: float

    @property
    def suffers(self) -> bool:
        """Whether training does not start, learns misplaced boxes, or loses more than is tolerated."""
        return any(EFFECTS[kind] in (*STOPS, MISPLACED) or self.share(kind) > self.tolerance for kind in self.faults)

    def share(self, kind: str) -> float:
        """The share of images, or of annotations, with this kind of problem."""
        return len(self.faults[kind]) / max(self.counts['images' if kind in OF_IMAGES else 'annotations'], 1)

    def table(self, with_classes: bool = True) -> str:
        """Describe the data set for a reader: its contents, and each kind of problem with its first entries."""
        head = ', '.join(f'{count} {section}' for section, count in self.counts.items())
        contents = [*(self._describe_classes() if with_classes else ()), *self._describe_completed()]
        if not self.faults:
            return '\n'.join([f'{head}: no problem found', *contents])
        rows = [('problem', 'count', 'share', 'training')] + [
            (kind, str(len(faults)), '' if EFFECTS[kind] in STOPS else f'{self.share(kind):.2%}', EFFECTS[kind])
            for kind, faults in self.faults.items()]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        for position, faults in enumerate(self.faults.values(), 1):
            lines[position] += _first(faults)
        end = 'Training would suffer' if self.suffers else f'Training would not suffer (up to {self.tolerance:.2%})'
        return '\n'.join([head, *contents, *lines, end])

    def _describe_classes(self) -> List[str]:
        if not self.classes:
            return []
        # textwrap does not break lines at a no-break space, and a printable name has none.
        listed = [f'{rules.printable(known.name)} ({known.annotations})' for known in self.classes]
        lines = textwrap.wrap(', '.join(text.replace(' ', NO_BREAK) for text in listed), 116, break_long_words=False,
                              break_on_hyphens=False)
        return ['classes in the order of the file, each with the number of its annotations:',
                *(f'    {line.replace(NO_BREAK, " ")}' for line in lines)]

    def _describe_completed(self) -> List[str]:
        names = dict(self.completed)
        if 'id' in names:
            names['ids from 1'] = names.pop('id')
        filled = ', '.join(f'{name} ({count} annotations)' for name, count in names.items())
        return [f'training and evaluation fill in: {filled}'] if filled else []

    def as_dict(self) -> Dict[str, Any]:
        """Describe the data set for a program, with every faulty entry."""
        problems = [dict(problem=kind, training=EFFECTS[kind], count=len(faults), share=self.share(kind),
                         entries=[dict(entry=fault.entry, what=fault.what) for fault in faults])
                    for kind, faults in self.faults.items()]
        return dict(counts=self.counts, classes=[known._asdict() for known in self.classes], completed=self.completed,
                    tolerance=self.tolerance, suffers=self.suffers, problems=problems)


def _first(faults: List[Fault], most: int = 3) -> str:
    lines = [f'\n    {fault.entry} {fault.what}' for fault in faults[:most]]
    return ''.join(lines) + ('\n    ...' if len(faults) > most else '')


def check(annotation_file: str, images: str, limits: Limits = Limits(), threads: Optional[int] = None) -> Report:
    """Look at every entry of an annotation file and open every image.

    Args:
        annotation_file: Path of a file in COCO's format.
        images: The folder that the file names of the images are relative to.
        limits: The settings of the training.
        threads: How many files to open at a time; by default, the number of processors.

    Raises:
        SetupError: The file or the folder does not exist.
    """
    if not os.path.isfile(annotation_file):
        raise SetupError(f'The annotation file {os.path.abspath(annotation_file)} does not exist')
    if not os.path.isdir(images):
        raise SetupError(f'The folder of images {os.path.abspath(images)} does not exist')
    try:
        content = rules.read_annotations(annotation_file)
    except SetupError as error:
        return _report({}, _well_formed({}), [Fault(UNUSABLE, 'the file', str(error))], limits)
    return check_content(content, images, limits, threads)


def check_content(content: Any, images: str, limits: Limits = Limits(), threads: Optional[int] = None,
                  name: Namer = rules.name_entry) -> Report:
    """Look at every entry of the content of an annotation file and open every image. Missing keys are filled in.

    Args:
        content: In COCO's format.
        images, limits, threads: As of ``check``.
        name: Names an entry by its section, its place there, and itself.
    """
    entries = _well_formed(content)
    faults = [*rules.find_malformed(content), *_check_boxes(entries, limits, name)]
    faults += _check_names(entries['categories'])
    faults += _check_files(entries['images'], images, threads, name)
    if not entries['images']:
        faults.append(Fault(NO_IMAGES, 'images', 'has no usable entry'))
    return _report(content, entries, faults, limits)


def _report(content: Any, entries: Dict[str, List[Indexed]], faults: List[Fault], limits: Limits) -> Report:
    by_kind: Dict[str, List[Fault]] = {kind: [] for kind in EFFECTS}
    for fault in faults:
        by_kind[fault.kind].append(fault)
    counts = {section: len(_section(content, section)) for section in entries}
    # This may renumber the annotations, so it comes after the faults, which name the ids of the file.
    completed = rules.complete([box for _, box in entries['annotations']])
    return Report(counts, _count_classes(entries), completed,
                  {kind: found for kind, found in by_kind.items() if found}, limits.tolerance)


def _section(content: Any, section: str) -> list:
    entries = content.get(section) if type(content) is dict else None
    return entries if type(entries) is list else []


def _well_formed(content: Any) -> Dict[str, List[Indexed]]:
    return {section: [(index, entry) for index, entry in enumerate(_section(content, section))
                      if rules.find_wrong(section, entry) is None]
            for section in ('images', 'annotations', 'categories')}


# Classes.

def _count_classes(entries: Dict[str, List[Indexed]]) -> List[ClassCount]:
    counts = Counter(box['category_id'] for _, box in entries['annotations'])
    return [ClassCount(category['id'], category['name'], counts[category['id']])
            for _, category in entries['categories']]


def _check_names(categories: List[Indexed]) -> Iterator[Fault]:
    first: Dict[str, Indexed] = {}
    for index, category in categories:
        other, known = first.setdefault(category['name'], (index, category))
        if known['id'] != category['id']:  # equal ids are another kind of problem
            namesake = rules.name_entry('categories', other, known)
            yield Fault(REPEATED, rules.name_entry('categories', index, category),
                        f'has the name {rules.show(category["name"])} of {namesake}')


# Boxes.

def _check_boxes(entries: Dict[str, List[Indexed]], limits: Limits, name_entry: Namer) -> Iterator[Fault]:
    images = {image['id']: image for _, image in entries['images']}
    categories = {category['id'] for _, category in entries['categories']}
    usable = []
    for index, box in entries['annotations']:
        name, image = name_entry('annotations', index, box), images.get(box['image_id'])
        if image is None:
            yield Fault(rules.STRAY, name, f'is of the image {box["image_id"]}, which is not in the file')
            continue
        if box['category_id'] not in categories:
            yield Fault(rules.UNKNOWN_CATEGORY, name,
                        f'is of the category {box["category_id"]}, which is not in the file')
            continue
        kind = rules.why_dropped(box, image['width'], image['height'])
        if kind:
            area = f' and the area {box["area"]}' if kind == rules.NO_AREA_ENTRY else ''
            yield Fault(kind, name, f'has the bbox {rules.show(box["bbox"])}{area} in an image of '
                                    f'{image["width"]} x {image["height"]}')
        elif not box.get('iscrowd'):  # training ignores crowds, so no side of one is learnt
            usable.append((name, *box['bbox'][2:], image['width'], image['height']))
    yield from _check_reach(usable, limits)


def _check_reach(boxes: List[Tuple[str, float, float, float, float]], limits: Limits) -> Iterator[Fault]:
    """Find boxes that are too large for reg_max: their sides lie more than n strides from their own centre.

    Each box is measured at the level whose prior overlaps it most, where ATSS finds most of its positives. Priors off
    the centre have an even longer way to one side. This check names boxes; ``tools/analyze.py targets`` counts the
    targets of the priors that ATSS really makes positive.

    Args:
        boxes: For each box its name, its width and height, and the width and height of its image, pixels.
        limits: The settings of the training.
    """
    if not boxes:
        return
    sides, image = np.split(np.array([box[1:] for box in boxes], np.float64), 2, axis=1)  # (G, 2) each
    longest, shortest = limits.scale
    scale_factor = np.minimum(longest / image.max(axis=1), shortest / image.min(axis=1))
    sides = sides * scale_factor[:, None]
    strides = np.array(limits.strides, np.float64)
    prior = strides * limits.prior
    overlap = np.minimum(sides[:, :1], prior) * np.minimum(sides[:, 1:], prior)  # (G, L)
    iou = overlap / (sides.prod(axis=1, keepdims=True) + prior**2 - overlap)
    needed = sides.max(axis=1) / 2 / strides[iou.argmax(axis=1)]
    for position in np.flatnonzero(needed > limits.reg_max):
        stride = int(strides[iou[position].argmax()])
        yield Fault(FAR_SIDES, boxes[position][0],
                    f'needs {needed[position]:.1f} bins of stride {stride} a side, but reg_max is {limits.reg_max}')


# Files.

def _check_files(images: List[Indexed], folder: str, threads: Optional[int], name_entry: Namer) -> Iterator[Fault]:
    paths = [os.path.join(folder, image['file_name']) for _, image in images]
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:  # threads help: OpenCV decodes without the GIL
        for (index, image), (damage, shape) in zip(images, pool.map(open_image, paths)):
            name = name_entry('images', index, image)
            if damage:
                yield Fault(MISSING if damage == 'missing' else UNREADABLE, name,
                            f'has the file {rules.show(image["file_name"])}: {damage}')
            elif shape != (image['height'], image['width']):
                yield Fault(WRONG_SIZE, name, f'says {image["width"]} x {image["height"]} pixels, but its file '
                                              f'{rules.show(image["file_name"])} has {shape[1]} x {shape[0]}')
