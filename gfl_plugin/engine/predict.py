"""Detect objects in a user's images, and write down what is found."""
import contextlib
import csv
import json
import math
import os
import sys
from collections import Counter
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

import numpy as np
from tqdm import tqdm

from .. import files
from ..datasets.annotations import category_ids, load_annotations, printable, some
from ..errors import SetupError
from ..inference import Detector, ImageError, Result
from ..inference.images import Source, find_images
from ..visualization.files import name_pictures, write_picture
from ..visualization.gallery import lay_out
from .config import Options
from .run_folders import make_output_folder

FOLDER = os.path.join('work_dirs', 'predict')
PICTURES, SHEET, COCO, TABLE = 'pictures', 'sheet.jpg', 'detections.json', 'detections.csv'
ON_SHEET, SHEET_COLUMNS = 24, 6  # tiles
MOST_NAMES = 10  # of classes in the summary
SIDES = ('left', 'top', 'right', 'bottom')
COLUMNS = ('file', 'name', 'score', *SIDES)


class Predicted(NamedTuple):
    """What was found.

    Attributes:
        text: For a reader.
        content: For a program.
        failed: How many inputs could not be read.
    """
    text: str
    content: Dict[str, Any]
    failed: int


def predict(options: Options) -> Predicted:
    """Detect as ``tools/predict.py`` says. An input that cannot be read is named, and the others go on.

    Raises:
        SetupError: There is no such checkpoint, the output cannot be written, or ``--ids`` lacks an image or a class.
    """
    detector = Detector(options.checkpoint, options.device, options.config, options.score_thr, options.batch_size,
                        options.uncertainty, options.uncertainty and options.pictures,
                        trust=options.trust_checkpoint)
    # Once for each file: a pattern and a folder may name the same one.
    sources = list({os.path.abspath(source.name): source for source in find_images(options.inputs)}.values())
    coco = CocoFile(sources, detector.classes, options.ids)
    content = dict(checkpoint=options.checkpoint, score_thr=detector.score_thr, classes=list(detector.classes),
                   images=[], errors=[])
    with contextlib.ExitStack() as stack, _explaining_the_output(options.out or FOLDER):
        folder = make_output_folder(options.out, FOLDER) if options.out or not options.json else None
        drawn = sources if options.pictures else []
        write = stack.enter_context(_writing(folder, drawn, detector, options.uncertainty)) if folder else None
        bar = stack.enter_context(tqdm(total=len(sources), unit='image', disable=None, file=sys.stderr))

        def report(error: ImageError) -> None:
            tqdm.write(str(error), file=sys.stderr)
            content['errors'].append(dict(file=error.name, reason=error.reason))
            bar.update()

        try:
            for result in detector.stream(sources, on_error=report):
                coco.add(result)
                content['images'].append(describe(result))
                if write:
                    write(result)
                bar.update()
        finally:  # also after Ctrl-C: what was found so far
            if folder:
                files.write_text(os.path.join(folder, COCO), json.dumps(coco.content))
    return Predicted(summarize(content, folder), content, len(content['errors']))


def describe(result: Result) -> Dict[str, Any]:
    """The detections of one image as plain data, with the names of classes instead of their ids."""
    width, height = result.size
    found = [dict(name=name, score=float(score), box=box)
             for name, score, box in zip(result.names, result.scores, result.boxes.tolist())]
    for name, values in (('side_std', result.side_std), ('side_interval', result.side_interval)):
        for entry, value in zip(found, [] if values is None else values.tolist()):
            entry[name] = value
    about = dict(file=result.path, width=width, height=height)
    if result.side_std is not None:
        about['doubt'] = result.doubt
    return dict(about, detections=found)


def summarize(content: Dict[str, Any], folder: Optional[str]) -> str:
    """What was found, in a few lines."""
    counts = Counter(found['name'] for image in content['images'] for found in image['detections'])
    names = [f'{count} {printable(name, 40)}' for name, count in counts.most_common(MOST_NAMES)]
    listed = ', '.join([*names, *(['...'] if len(counts) > MOST_NAMES else [])])
    lines = [f'{len(content["images"])} images, {counts.total()} objects with a score of at least '
             f'{content["score_thr"]:.2f}{": " if listed else ""}{listed}']
    if content['errors']:
        lines.append(f'{len(content["errors"])} inputs could not be read')
    if folder:
        lines.append(f'Written: {folder}')
    return '\n'.join(lines)


# ---- what is written ----

class CocoFile:
    """The detections of all images in COCO's format.

    Args:
        sources: The images, in order.
        classes: Names of the C classes.
        ids: Path of a COCO annotation file. Images and classes take its ids, so that its evaluation can read the
            result. Without it, images count from 1 in the order of the inputs, and classes from 1.

    Raises:
        SetupError: The annotation file cannot be read, or lacks an image or a class.
    """

    def __init__(self, sources: Sequence[Source], classes: Sequence[str], ids: Optional[str]) -> None:
        self.names = _name_uniquely(sources)
        self.image_ids = {source.name: number for number, source in enumerate(sources, 1)}
        self.category_ids = list(range(1, len(classes) + 1))
        if ids is not None:
            truth = load_annotations(ids, ids, needs_annotations=False)
            self.category_ids = category_ids(truth['categories'], classes, ids)
            readable = [source for source in sources if os.path.isfile(source.name)]  # the others are reported later
            self.image_ids = _find_ids(readable, truth['images'], ids)
        self.content: Dict[str, List[dict]] = dict(images=[], annotations=[], categories=[
            dict(id=one, name=name) for one, name in zip(self.category_ids, classes)])

    def add(self, result: Result) -> None:
        """Add the detections of one image."""
        image_id, (width, height) = self.image_ids[result.source.name], result.size
        self.content['images'].append(dict(id=image_id, file_name=self.names[result.source.name], width=width,
                                           height=height))
        for entry in result.to_coco(image_id, self.category_ids):
            width, height = entry['bbox'][2:]
            self.content['annotations'].append(dict(entry, id=len(self.content['annotations']) + 1, iscrowd=0,
                                                    area=width * height))


def _name_uniquely(sources: Sequence[Source]) -> Dict[str, str]:
    """The path of each image relative to its input, or to the folder that all share if two are called the same."""
    names = {source.name: source.relative_name for source in sources}
    if len(set(names.values())) < len(names):
        shared = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])
        names = {name: os.path.relpath(name, shared) for name in names}
    return names


def _find_ids(sources: Sequence[Source], images: Sequence[dict], ids: str) -> Dict[str, int]:
    """The id of each image: by its path relative to the input, or else by its file name alone."""
    by_name = {image['file_name']: image['id'] for image in images}
    by_base: Dict[str, Set[int]] = {}
    for image in images:
        by_base.setdefault(os.path.basename(image['file_name']), set()).add(image['id'])
    found: Dict[str, int] = {}
    for source in sources:
        same_base = by_base.get(os.path.basename(source.name), set())
        if source.relative_name in by_name:
            found[source.name] = by_name[source.relative_name]
        elif len(same_base) == 1:
            found[source.name], = same_base
    missing = [source.relative_name for source in sources if source.name not in found]
    if missing:
        raise SetupError(f'{len(missing)} of the {len(sources)} images have no id in {ids} ({some(missing)})')
    return found


@contextlib.contextmanager
def _writing(folder: str, drawn: Sequence[Source], detector: Detector,
             uncertainty: bool) -> Iterator[Callable[[Result], None]]:
    """Give a function that writes a result to the table, and a picture if its source is in ``drawn``.

    A sheet shows some of the pictures, evenly spaced.
    """
    pictures = name_pictures([source.name for source in drawn])
    shown = {drawn[index * len(drawn) // ON_SHEET].name for index in range(ON_SHEET)} if drawn else ()
    tiles: List[np.ndarray] = []
    columns = [*COLUMNS, *(f'{side}_std' for side in SIDES if uncertainty)]
    if uncertainty and detector.calibration:
        columns += [f'{side}_{end}' for side in SIDES for end in ('from', 'to')]
    # A file name need not be text: what UTF-8 has no bytes for is escaped.
    with open(os.path.join(folder, TABLE), 'w', newline='', encoding='utf-8', errors='backslashreplace') as file:
        table = csv.writer(file)
        table.writerow(columns)

        def write(result: Result) -> None:
            numbers = [result.boxes, result.side_std, result.side_interval]
            rows = np.hstack([array.reshape(len(result), math.prod(array.shape[1:]))
                              for array in numbers if array is not None])
            for name, score, row in zip(result.names, result.scores, rows):
                table.writerow([result.source.name, name, f'{score:.4f}', *(f'{number:.2f}' for number in row)])
            if result.source.name in pictures:
                result.save(os.path.join(folder, PICTURES, pictures[result.source.name]))
            if result.source.name in shown:
                tiles.append(result.tile())

        yield write
    if len(tiles) > 1:
        write_picture(os.path.join(folder, SHEET), lay_out(tiles, SHEET_COLUMNS))


@contextlib.contextmanager
def _explaining_the_output(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, SetupError):
            raise
        raise SetupError(f'{error.filename or folder} cannot be written ({error.strerror}). Name another folder by '
                         '--out') from error
