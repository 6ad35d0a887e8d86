"""The YOLO layout: a YAML file that names classes and splits, and a text file of labels for each image."""
import math
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import yaml

from ...errors import SetupError
from ..annotations import printable, show
from . import common
from .common import BadLabel, Box, Findings, LabelledImage, Split, cut_box, list_folder, overshoot, split_of, walk_files

LAYOUT = 'YOLO'
LOOKED_FOR = 'a *.yaml file with names and train, or classes.txt with images/ and labels/'
CLASS_FILES = ('classes.txt', 'labels/classes.txt', 'labels/train/classes.txt')
TOLERANCE = 0.01  # of an image's side: rounding puts a coordinate less far outside, a mistake mostly farther
UNKNOWN_CLASS = 'label lines with a class beyond names, left out'
MALFORMED = 'malformed label lines, left out'
OUTSIDE = 'label lines with coordinates outside 0 to 1, left out'
BAD_FILE = 'label files that cannot be read, left out with their images'
NO_TEST = 'test splits that the YAML file names and that are not there'
SAME_NAME = 'classes with the name of another, merged with it'


class Listing(NamedTuple):
    """What a YAML file, or a folder without one, says about a data set."""
    file: str
    names: Dict[int, str]  # class names by the number that stands in a label
    sources: Dict[str, List[str]]  # by split: folders of images, and text files that list images
    root: str  # folder that the entries of a text file are relative to
    has_keypoints: bool  # keypoints follow the box in a label, which looks like a polygon


def find(path: str, findings: Findings) -> Optional[Listing]:
    """What the data set says about itself, or None if the path has another layout."""
    if os.path.isfile(path):
        return _parse_yaml(path, _load_yaml(path), findings) if _is_yaml(path) else None
    contents = {file: _load_yaml(file) for file in list_folder(path) if _is_yaml(file)}
    files = [file for file, content in contents.items() if _describes_data(content)]
    if len(files) > 1:  # data.yaml is the usual name
        files = [file for file in files if os.path.splitext(os.path.basename(file))[0] == 'data'] or files
    if len(files) > 1:
        raise SetupError(f'Several YAML files describe a YOLO data set: {", ".join(map(printable, files))}. '
                         'Give the path of one of them')
    return _parse_yaml(files[0], contents[files[0]], findings) if files else _find_plain(path, findings)


def _is_yaml(path: str) -> bool:
    return path.lower().endswith(('.yaml', '.yml')) and os.path.isfile(path)


def _load_yaml(path: str) -> Any:
    try:
        with open(path, 'rb') as file:
            # BaseLoader builds only text, lists and dicts. SafeLoader would turn a class called `no` into False.
            return yaml.load(file, yaml.BaseLoader)
    except OSError as error:
        raise SetupError(f'{path} cannot be read: {error.strerror or error}') from error
    except (yaml.YAMLError, RecursionError) as error:
        raise SetupError(f'{path} is not YAML: {" ".join(str(error).split())}') from error


def _describes_data(content: Any) -> bool:
    return type(content) is dict and 'names' in content and 'train' in content


def _parse_yaml(path: str, content: Any, findings: Findings) -> Listing:
    if not _describes_data(content):
        raise SetupError(f'{path} does not describe a YOLO data set: it needs the entries names and train')
    parent = os.path.dirname(path)
    root = os.path.normpath(os.path.join(parent, *_entries(content, 'path', path)[:1]))
    roots = [root, parent] if os.path.isdir(root) else [parent]  # the folder may have moved since
    sources = {split: _find_sources(path, split, _entries(content, split, path), roots, findings)
               for split in ('train', 'val', 'test')}
    names = _parse_names(content['names'], path)
    _report_same_names(names, path, findings)
    return Listing(path, names, {split: found for split, found in sources.items() if found}, roots[0],
                   'kpt_shape' in content)


def _entries(content: dict, key: str, path: str) -> List[str]:
    value = content.get(key, '')
    values = value if type(value) is list else [value]
    if not all(type(entry) is str for entry in values):
        raise SetupError(f'{path} has {show(value)} in its entry {key}, where a path should be')
    return [entry for entry in values if entry not in ('', '~', 'null')]


def _find_sources(path: str, split: str, entries: List[str], roots: Sequence[str], findings: Findings) -> List[str]:
    found = []
    for entry in entries:
        source = _resolve(entry, roots)
        if source is not None:
            found.append(source)
        elif split == 'test':  # tools name a test split that they have not written
            findings.add(NO_TEST, entry)
        else:
            places = [printable(os.path.normpath(os.path.join(root, entry))) for root in roots]
            raise SetupError(f'{path} names {printable(entry)} for its {split} split, and there is no '
                             f'{" and no ".join(places)}')
    return found


def _resolve(entry: str, roots: Sequence[str]) -> Optional[str]:
    # Roboflow writes ../train/images and means train/images.
    for name in (entry, entry[3:]) if entry.startswith('../') else (entry, ):
        for root in roots:
            path = os.path.normpath(os.path.join(root, name))
            if os.path.exists(path):
                return path
    return None


def _parse_names(names: Any, path: str) -> Dict[int, str]:
    items = names.items() if type(names) is dict else enumerate(names if type(names) is list else ())
    try:
        numbered = {int(number): name for number, name in items}
    except ValueError:
        numbered = {}
    if not numbered or not all(type(name) is str and name for name in numbered.values()):
        raise SetupError(f'{path} has the names {show(names)}, which should be a list of class names, or class names '
                         'by number')
    return numbered


def _report_same_names(names: Dict[int, str], path: str, findings: Findings) -> None:
    seen: Set[str] = set()
    for number, name in names.items():
        if name in seen:
            findings.add(SAME_NAME, f'{os.path.basename(path)}: {number}: {name}')
        seen.add(name)


def _find_plain(root: str, findings: Findings) -> Optional[Listing]:
    """A folder without a YAML file: classes.txt, and images with labels, with or without a folder for each split."""
    file = next((path for path in (os.path.join(root, name) for name in CLASS_FILES) if os.path.isfile(path)), None)
    if file is None:
        return None
    names = {number: name for number, name in enumerate(common.read_lines(file)) if name}
    _report_same_names(names, file, findings)
    images = os.path.join(root, 'images')
    sources: Dict[str, List[str]] = {}
    for folder in list_folder(images) + list_folder(root):
        split = split_of(os.path.basename(folder))
        if split and os.path.isdir(folder) and split not in sources:
            sources[split] = [folder]
    sources = sources or {'train': [images if os.path.isdir(images) else root]}
    label_folders: Dict[str, str] = {}
    has_labels = any(os.path.isfile(_label_path(image, label_folders))
                     for found in sources.values() for image in _list_images(found, root))
    return Listing(file, names, sources, root, False) if has_labels else None


def read(listing: Listing, root: str, findings: Findings) -> Dict[str, Split]:
    """Read the images and labels of each split."""
    splits, folders = {}, set()
    for split, sources in listing.sources.items():
        images = _list_images(sources, listing.root)
        tops = {source for source in sources if os.path.isdir(source)}
        if len(tops) < len(sources):  # the others list images, which may be anywhere
            tops |= {os.path.dirname(image) for image in images}
        folder = os.path.commonpath(tops or {root})
        labelled = _read_images(images, folder, root, listing, findings)
        splits[split] = Split(common.to_coco(labelled, listing.names.values()), folder,
                              sources[0] if len(sources) == 1 else listing.file)
        folders |= tops
    lists = {listing.file, *(source for sources in listing.sources.values() for source in sources)}
    for label in _find_strays(folders, lists):
        findings.add(common.NO_IMAGE, os.path.relpath(label, root))
    return splits


def _list_images(sources: Sequence[str], root: str) -> List[str]:
    images: Dict[str, None] = {}
    for source in sources:
        images.update(dict.fromkeys(walk_files(source) if os.path.isdir(source) else _read_list(source, root)))
    return list(images)


def _read_list(path: str, root: str) -> List[str]:
    """The images that a text file lists, relative to the root or, with a leading ./, to the file."""
    return [os.path.normpath(os.path.join(os.path.dirname(path) if line.startswith('./') else root, line))
            for line in common.read_lines(path) if line]


# Labels.

def _label_path(image: str, folders: Dict[str, str]) -> str:
    """The label file of an image. ``folders`` remembers the label folder of each image folder."""
    folder, name = os.path.split(image)
    if folder not in folders:
        folders[folder] = _label_folder(folder)
    return os.path.join(folders[folder], os.path.splitext(name)[0] + '.txt')


def _label_folder(folder: str) -> str:
    """The folder with the last `images` of its path replaced by `labels`, or itself if there is none."""
    head, images, tail = f'{folder}/'.rpartition('/images/')
    other = os.path.normpath(f'{head}/labels/{tail}')
    return other if images and os.path.isdir(other) else folder


def _find_strays(folders: Set[str], lists: Set[str]) -> List[str]:
    """Label files for which there is no image, other than files that list images or classes."""
    label_folders: Dict[str, str] = {}
    expected = {_label_path(image, label_folders) for folder in folders for image in walk_files(folder)}
    labels = {label for folder in folders for label in walk_files(_label_folder(folder), ('.txt', ))}
    return sorted(label for label in labels - expected - lists if os.path.basename(label) != 'classes.txt')


def _read_images(images: Sequence[str], folder: str, root: str, listing: Listing,
                 findings: Findings) -> Iterator[LabelledImage]:
    label_folders: Dict[str, str] = {}
    labels = [_label_path(image, label_folders) for image in images]
    for image, label, ((damage, size), text) in zip(images, labels, common.map_files(_read_both, images, labels)):
        name, label = os.path.relpath(image, root), os.path.relpath(label, root)
        if size is None:
            findings.add(common.NOT_THERE if damage == 'missing' else common.UNREADABLE, f'{name}: {damage}')
        elif isinstance(text, OSError):
            findings.add(BAD_FILE, f'{label}: {text.strerror}')
        else:
            if text is None:
                findings.add(common.NO_LABELS, name)
            objects = list(_parse_labels(text or '', size, label, listing, findings))
            yield LabelledImage(os.path.relpath(image, folder), size, objects)


def _read_both(image: str, label: str) -> Tuple[tuple, Any]:
    """The size of an image; and the text of its label file, None if there is none, or the error that reading raised."""
    try:
        with open(label, encoding='utf-8-sig', errors='replace') as file:
            text: Any = file.read()
    except (FileNotFoundError, ValueError):  # ValueError: a list names what no file can be called
        text = None
    except OSError as error:
        text = error
    return common.read_size(image), text


def _parse_labels(text: str, size: Tuple[int, int], label: str, listing: Listing,
                  findings: Findings) -> Iterator[Tuple[str, Box, int]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            name, corners = _parse_line(line, listing)
            box = cut_box([value * side for value, side in zip(corners, size * 2)], size)
        except BadLabel as error:
            findings.add(str(error), f'{label}:{number}')
            continue
        if overshoot(corners, (1, 1)) > TOLERANCE:
            findings.add(common.CUT, f'{label}:{number}')
        yield name, box, 0


def _parse_line(line: str, listing: Listing) -> Tuple[str, List[float]]:
    """The class name and the corners (x1, y1, x2, y2), as fractions of the image's sides, of one label.

    Raises:
        BadLabel: The line is malformed, its class is not among the names, or a coordinate lies outside the image.
    """
    try:
        label, *values = map(float, line.split())
    except ValueError:
        raise BadLabel(MALFORMED) from None
    values = values[:4] if listing.has_keypoints else values
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if not (len(values) == 4 or is_polygon) or not all(map(math.isfinite, values)) or label % 1:
        raise BadLabel(MALFORMED)
    if label not in listing.names:
        raise BadLabel(UNKNOWN_CLASS)
    if min(values) < -TOLERANCE or max(values) > 1 + TOLERANCE:
        raise BadLabel(OUTSIDE)
    if is_polygon:
        xs, ys = values[::2], values[1::2]
        return listing.names[int(label)], [min(xs), min(ys), max(xs), max(ys)]
    x, y, width, height = values
    return listing.names[int(label)], [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
