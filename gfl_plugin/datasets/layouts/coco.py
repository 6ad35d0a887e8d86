"""The COCO layout: JSON files, with the images in folders beside them."""
import mmap
import os
from typing import Dict, List, Optional

from ...errors import SetupError
from ..annotations import find_malformed, name_entry, printable, read_annotations, refuse
from .common import Findings, Split, list_folder, split_of

LAYOUT = 'COCO'
LOOKED_FOR = ('annotations/instances_train*.json, train.json, train/_annotations.coco.json, or a single JSON file '
              'with images and categories')
SAMPLED = 100  # images by which the image folder is recognised
NO_IMAGE = 'annotations of an image that is not in the file, left out'
NO_CATEGORY = 'annotations of a category that is not in the file, left out'
SAME_NAME = 'categories with the name of another, merged with it'
NOT_USED = 'annotation files that name no split, not used'


def find(path: str, findings: Findings) -> Optional[Dict[str, str]]:
    """The annotation file of each split, or None if the path has another layout."""
    if os.path.isfile(path):
        return {'train': path} if path.lower().endswith('.json') else None
    for folder in (os.path.join(path, 'annotations'), path):
        files = _list_annotations(folder)
        if files:
            return _assign(files, path, findings)
    by_split: Dict[str, List[str]] = {}
    for folder in list_folder(path):
        split = split_of(os.path.basename(folder))
        if split:
            by_split.setdefault(split, []).extend(_list_annotations(folder))
    return {split: _only(split, files) for split, files in by_split.items() if files} or None


def _list_annotations(folder: str) -> List[str]:
    files = [path for path in list_folder(folder) if path.lower().endswith('.json')]
    # COCO's own folder also holds captions and keypoints of the same images.
    instances = [path for path in files if os.path.basename(path).startswith('instances_')]
    return instances or [path for path in files if _lists_images(path)]


def _lists_images(path: str) -> bool:
    """Whether a file has the sections of a COCO file. It is searched, not parsed: such files reach 500 MB."""
    try:
        with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return text.find(b'"images"') >= 0 and text.find(b'"categories"') >= 0
    except (OSError, ValueError):  # ValueError: the file is empty
        return False


def _assign(files: List[str], root: str, findings: Findings) -> Dict[str, str]:
    """Tell the split of each file by its name. A file that names none is the training split if no file does."""
    by_split: Dict[Optional[str], List[str]] = {}
    for file in files:
        by_split.setdefault(split_of(os.path.basename(file)), []).append(file)
    unnamed = by_split.pop(None, [])
    if not by_split:
        return {'train': _only('train', unnamed)}
    for file in unnamed:
        findings.add(NOT_USED, os.path.relpath(file, root))
    return {split: _only(split, found) for split, found in by_split.items()}


def _only(split: str, files: List[str]) -> str:
    if len(files) > 1:
        raise SetupError(f'Several annotation files could be the {split} split: {", ".join(map(printable, files))}. '
                         'Give the path of one of them, or move the others away')
    return files[0]


def read(files: Dict[str, str], root: str, findings: Findings) -> Dict[str, Split]:
    """Read the file of each split. Its entries stay as they are, except for annotations that belong to nothing."""
    splits = {}
    for split, file in files.items():
        name = os.path.relpath(file, root)
        content = read_annotations(file, name)
        refuse(list(find_malformed(content, needs_annotations=split != 'test')), name)
        _clean(content, name, findings)
        splits[split] = Split(content, _find_images(content, file, split), file)
    return splits


def _clean(content: dict, name: str, findings: Findings) -> None:
    """Leave out annotations without an image or category, and complete the others."""
    images = {image['id'] for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    kept = []
    for index, annotation in enumerate(content.get('annotations', ())):
        if annotation['image_id'] not in images:
            findings.add(NO_IMAGE, f'{name}: {name_entry("annotations", index, annotation)}')
        elif annotation['category_id'] not in categories:
            findings.add(NO_CATEGORY, f'{name}: {name_entry("annotations", index, annotation)}')
        else:
            if annotation.get('area') is None:
                annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
            if annotation.get('iscrowd') is None:
                annotation['iscrowd'] = 0
            kept.append(annotation)
    content['annotations'] = kept
    seen = set()
    for category in content['categories']:
        if category['name'] in seen:
            findings.add(SAME_NAME, f'{name}: {category["name"]}')
        seen.add(category['name'])


def _find_images(content: dict, file: str, split: str) -> str:
    """The folder that holds the images of a file, or most of them.

    Raises:
        SetupError: No folder holds any of them.
    """
    parent, base = os.path.split(file)
    around = os.path.dirname(parent) if os.path.basename(parent) == 'annotations' else parent
    key = os.path.splitext(base)[0].replace('instances_', '')  # train2017
    candidates = (key, f'images/{key}', split, f'images/{split}', 'images', 'JPEGImages', parent, '')
    folders = list(dict.fromkeys(os.path.normpath(os.path.join(around, name)) for name in candidates))
    names = [image['file_name'] for image in content['images']]
    names = names[::max(len(names) // SAMPLED, 1)]
    found = [sum(_is_file(os.path.join(folder, name)) for name in names) for folder in folders]
    if names and not any(found):
        raise SetupError(f'None of the images that {file} lists was found ({", ".join(map(printable, names[:3]))}, '
                         f'...). Looked in {", ".join(map(printable, folders))}')
    return folders[found.index(max(found))]


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a name that no file can have, such as one with a NUL
        return False
