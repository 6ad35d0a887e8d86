"""Small COCO-format sets on disk, for tests to use or to break."""
import json
from pathlib import Path
from typing import Callable, Dict

import cv2
import numpy as np

from gfl_plugin.datasets import CocoDataset

SIZE = (48, 32)  # width and height of every image, pixels
LOAD = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]
TRAIN = LOAD + [dict(type='mmdet.Resize', scale=(64, 64), keep_ratio=True), dict(type='mmdet.PackDetInputs')]


def encode(kind: str = 'jpg', seed: int = 0, options=()) -> bytes:
    """Encode a picture of noise, which is long enough that a truncated file loses pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return cv2.imencode(f'.{kind}', pixels, list(options))[1].tobytes()


def with_thumbnail(jpeg: bytes) -> bytes:
    """Put a whole JPEG, with its end marker, into the header of a JPEG."""
    return jpeg[:2] + b'\xff\xe1' + (len(jpeg) + 2).to_bytes(2, 'big') + jpeg + jpeg[2:]


DAMAGE: Dict[str, Callable[[bytes], bytes]] = {
    'empty': lambda content: b'',
    'half': lambda content: content[:len(content) // 2],
    'nearly_whole': lambda content: content[:-40],
    'half_with_thumbnail': lambda content: with_thumbnail(content)[:-len(content) // 2],
    'half_of_it_zeros': lambda content: content[:len(content) // 2] + bytes(len(content) // 2),
    'all_zeros': lambda content: bytes(len(content)),
    'a_web_page': lambda content: b'<html><title>404 Not Found</title></html>',
    'half_a_png': lambda content: encode('png')[:2000],
    'no_header': lambda content: content[100:],
}


def content(images: int = 4) -> dict:
    """Annotations without a fault: two boxes in each image."""
    boxes = [[2, 3, 20, 15], [10.5, 8.25, 30, 20]]
    return dict(
        images=[dict(id=10 + i, file_name=f'{i}.jpg', width=SIZE[0], height=SIZE[1]) for i in range(images)],
        categories=[dict(id=3, name='other'), dict(id=7, name='thing')],
        annotations=[dict(id=100 + i, image_id=10 + i // 2, category_id=7, bbox=boxes[i % 2], area=60.0, iscrowd=0)
                     for i in range(2 * images)])


def write_set(root: Path, images: int = 4, damaged: Dict[int, str] = {}, changes: dict = {}) -> Path:
    """Write images, some of them damaged, and annotations; ``changes`` replaces sections of the annotations."""
    (root / 'images').mkdir(parents=True, exist_ok=True)
    for index in range(images):
        file = root / 'images' / f'{index}.jpg'
        file.write_bytes(DAMAGE.get(damaged.get(index), bytes)(encode(seed=index)))
        if damaged.get(index) == 'missing':
            file.unlink()
    (root / 'boxes.json').write_text(json.dumps({**content(images), **changes}))
    return root


def write_coco(root: Path, images: int = 2) -> Path:
    """Write training and minival sets with COCO's folders and 80 classes, so that configs/ work unchanged."""
    categories = [dict(id=3 + i, name=name) for i, name in enumerate(CocoDataset.METAINFO['classes'])]
    (root / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        write_set(root, images, changes=dict(categories=categories))
        (root / 'images').rename(root / split)
        (root / 'boxes.json').rename(root / f'annotations/instances_{split}.json')
    return root


def build(root: Path, classes=('thing', ), **options) -> CocoDataset:
    # Not serialized, because MMEngine runs a full garbage collection after it serializes, which takes a second.
    options = {**dict(ann_file='boxes.json', data_prefix=dict(img='images/'), pipeline=TRAIN, serialize_data=False),
               **options}
    return CocoDataset(data_root=str(root), metainfo=dict(classes=classes), **options)
