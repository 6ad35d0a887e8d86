"""Check a data set as ``tools/check_dataset.py`` says."""
import json
import os
from typing import Any, Dict, List, NamedTuple

from ..datasets.annotations import name_entry, printable
from ..datasets.check import Limits, Namer, Report, check, check_content
from ..datasets.folder import read_data, read_split
from ..datasets.layouts import Split, describe
from ..errors import SetupError
from ..visualization import save_truth
from .config import Options
from .recipe import VAL_SHARE


class Checked(NamedTuple):
    """What a check has found."""
    text: str  # for a reader
    content: Dict[str, Any]  # for a program
    suffers: bool  # whether a training would


def check_dataset(options: Options) -> Checked:
    """Check an annotation file and its images, or all splits of a data set. ``--json`` names a file for the report.

    Raises:
        SetupError: There are no such data, or the report or the pictures cannot be written.
    """
    limits = Limits(options.reg_max, options.strides, options.scale, options.prior, options.tolerance)
    if options.data:
        found = _check_splits(options, limits)
    else:
        report = check(options.annotations, options.images, limits, options.threads)
        found = Checked(report.table(), report.as_dict(), report.suffers)
    if options.json:
        try:
            with open(options.json, 'w') as file:
                json.dump(found.content, file, indent=1)
        except OSError as error:
            raise SetupError(f'The report cannot be written to {options.json}: {error.strerror}') from error
    return found


def _check_splits(options: Options, limits: Limits) -> Checked:
    share = VAL_SHARE if options.val_share is None else options.val_share
    data = read_data(options.data, share)
    parts = {split: read_split(options.data, split, share) for split in data.splits}
    reports: Dict[str, Report] = {}
    for split, part in parts.items():
        reports[split] = check_content(part.content, part.images, limits, options.threads, _name_by_file(part))
    text = [describe(data)]
    for split, report in reports.items():
        text += [f'\n{split}: {report.table(with_classes=False)}']
    if options.show:
        text += ['', *_draw(parts, options.show)]
    findings = [dict(what=finding.what, count=finding.count, first=finding.first) for finding in data.findings]
    content = dict(layout=data.layout, classes=data.classes, findings=findings,
                   splits={split: report.as_dict() for split, report in reports.items()})
    return Checked('\n'.join(text), content, any(report.suffers for report in reports.values()))


def _name_by_file(part: Split) -> Namer:
    """Name entries by the file of their image: a YOLO or VOC folder has no entries by number."""
    files = {image['id']: image['file_name'] for image in part.content['images']}
    names = {category['id']: category['name'] for category in part.content['categories']}

    def name(section: str, index: int, entry: dict) -> str:
        if section == 'annotations' and entry['image_id'] in files and entry['category_id'] in names:
            return f'{printable(files[entry["image_id"]])}: {printable(names[entry["category_id"]])}'
        return printable(entry['file_name']) if section == 'images' else name_entry(section, index, entry)

    return name


def _draw(parts: Dict[str, Split], folder: str) -> List[str]:
    lines = []
    for split, part in parts.items():
        path = os.path.join(folder, f'{split}.jpg')
        try:
            count = save_truth(part.content, part.images, path)
        except OSError as error:
            raise SetupError(f'The pictures cannot be written to {folder}: {error.strerror}') from error
        if count:
            lines.append(f'{count} images of {split} with their boxes: {path}')
    return lines
