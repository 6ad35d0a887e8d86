"""Seeded mutators of annotation files and images, and checks of what must hold for each mutant."""
import contextlib
import copy
import faulthandler
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Sequence, Tuple

import cv2
import numpy as np
from data_sets import build, content, encode, with_thumbnail, write_set

from gfl_plugin.datasets import check
from gfl_plugin.datasets.images import find_damage, open_image
from gfl_plugin.errors import SetupError

HOSTILE = [None, True, False, 0, -1, 1, 2**63, -2**70, 10**400, 0.5, -0.0, 1e308, float('nan'), float('inf'),
           -float('inf'), '', '7', 'x' * 5000, 'a\nb', '\0', '\ud800', '../../x.jpg', '/dev/zero', '/dev/stdin', [], {},
           [[]], [None], {'id': 1}, [1, 2, 3, 4], [float('nan')] * 4, [1e308] * 4, list(range(1000))]
NUMBERS = [float('nan'), float('inf'), -float('inf'), 1e308, 0, 0.3, -5, 1, 7, 10, 11, 31.999, 32, 47, 100, 102, 10**6]
FILES = ['none.jpg', '1.jpg', '.', '/', '/dev/zero', '/dev/full', '../boxes.json', '../images/2.jpg', 'x' * 300,
         'a/b/c.jpg', '2.jpg\n', '\u202e2.jpg', '~', '$HOME', 's3://bucket/2.jpg', 'http://127.0.0.1:9/2.jpg']
PLACE = re.compile(r'(images|annotations|categories)(\[\d+\]| should be a list| is missing)|the file holds|byte \d+|'
                   r'not usable JSON|There is no image in|classes of the data set|several categories named|'
                   r'image files of|images of .* cannot be read')


# Annotations.

def mutate_annotations(rng: random.Random) -> bytes:
    """Make the content of a small annotation file after one to three changes to its entries or its bytes."""
    data: Any = content(images=3)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice((_set_value, _set_value, _set_number, _set_number, _set_number, _set_file, _drop, _repeat,
                           _rename, _nest, _swap))(rng, data)
    text = json.dumps(data).encode()
    return _scramble(rng, text) if rng.random() < 0.15 else text


def _pick(rng: random.Random, data: Any, depth: int = 0) -> Tuple[Any, Any]:
    """Pick a random container within the data, shallow or deep, and one of its keys."""
    keys = list(data) if isinstance(data, dict) else list(range(len(data)))
    key = rng.choice(keys)
    child = data[key]
    if isinstance(child, (dict, list)) and child and rng.random() > 0.15:
        return _pick(rng, child, depth + 1)
    return data, key


def _at(act):
    def mutate(rng: random.Random, data: Any) -> Any:
        if not isinstance(data, (dict, list)) or not data:
            return data
        act(rng, *_pick(rng, data))
        return data
    return mutate


@_at
def _set_value(rng, container, key):
    container[key] = copy.deepcopy(rng.choice(HOSTILE))


@_at
def _drop(rng, container, key):
    del container[key]


@_at
def _repeat(rng, container, key):
    if isinstance(container, list):
        container.insert(rng.randint(0, len(container)), copy.deepcopy(container[key]))


@_at
def _rename(rng, container, key):
    if isinstance(container, dict):
        container[rng.choice(('', 'ID', 'id', 'bbox', 'name', key + ' '))] = container.pop(key)


@_at
def _swap(rng, container, key):
    other = rng.choice(list(container) if isinstance(container, dict) else range(len(container)))
    container[key], container[other] = container[other], container[key]


def _set_number(rng: random.Random, data: Any) -> Any:
    """Replace a number by another one: the file stays well-formed and is still wrong."""
    with contextlib.suppress(LookupError, TypeError):  # an earlier change has removed this entry
        if rng.random() < 0.7:
            rng.choice(data['annotations'])['bbox'][rng.randrange(4)] = rng.choice(NUMBERS)
        else:
            entry = rng.choice(data[rng.choice(('images', 'annotations', 'categories'))])
            entry[rng.choice([key for key in entry if type(entry[key]) is int])] = rng.choice(NUMBERS)
    return data


def _set_file(rng: random.Random, data: Any) -> Any:
    with contextlib.suppress(LookupError, TypeError):
        rng.choice(data['images'])['file_name'] = rng.choice(FILES)
    return data


def _nest(rng: random.Random, data: Any) -> Any:
    if rng.random() < 0.1:
        return rng.choice((data, [data], {'data': data}))
    return _at(lambda rng, container, key: container.__setitem__(key, [container[key]]))(rng, data)


def _scramble(rng: random.Random, text: bytes) -> bytes:
    start = rng.randrange(len(text))
    end = min(start + rng.choice((1, 1, 5, 200)), len(text))
    return rng.choice((text[:start], text[:start] + text[end:], text[:start] + rng.randbytes(end - start) + text[end:],
                       text[:start] + text[start:end] * 2 + text[end:], text[start:], b'\xef\xbb\xbf' + text,
                       text[:start] + b'[' * rng.choice((10, 100000)) + text[start:], text.decode().encode('utf-16')))


def check_annotations(root: Path) -> bool:
    """Run a mutated ``boxes.json`` through the check and, as training would, through the data set.

    Returns:
        Whether the data set loaded it.

    Raises:
        AssertionError: Something that should hold for every file does not. Any other error is a bug of the package.
    """
    report = check.check(str(root / 'boxes.json'), str(root / 'images'), threads=1)
    json.dumps(report.as_dict(), allow_nan=False)
    report.table().encode()
    try:
        dataset = build(root, max_unreadable=0.9)
        for index in range(len(dataset)):
            dataset[index]
    except SetupError as error:
        assert '\n' not in str(error) and len(str(error)) < 3000, f'the error should be one paragraph: {error}'
        assert PLACE.search(str(error)), f'the error should name the entry: {error}'
        # The check does not know the classes of the config. It should report everything else that is refused.
        assert report.suffers or 'classes of the data set' in str(error), \
            f'the check should have reported this: {error}'
        return False
    kept = sum(len(dataset.get_data_info(index)['instances']) for index in range(len(dataset)))
    assert 0 <= kept <= report.counts['annotations'], 'the data set should not have more boxes than the file'
    ruined = [kind for kind in report.faults if check.EFFECTS[kind] == check.REFUSED]
    assert not ruined, f'the data set should not load what the check calls refused: {ruined}'
    return True


# Images.

def seeds() -> List[bytes]:
    """Encode whole images of the kinds that training meets."""
    progressive = encode(options=(cv2.IMWRITE_JPEG_PROGRESSIVE, 1))
    grey = cv2.imencode('.jpg', np.full((32, 48), 90, np.uint8))[1].tobytes()
    return [encode(), progressive, with_thumbnail(encode()), grey, encode('png'),
            cv2.imencode('.png', np.zeros((32, 48, 4), np.uint8))[1].tobytes(),
            encode(options=(cv2.IMWRITE_JPEG_RST_INTERVAL, 2))]


def mutate_image(rng: random.Random) -> bytes:
    """Make the content of a JPEG or PNG after one to three changes."""
    data = rng.choice(seeds())
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice((_cut, _flip, _flip, _zero, _drop_bytes, _insert, _resize_header, _flip_header))(rng, data)
    return data


def _cut(rng, data):
    return data[:rng.randrange(len(data) + 1)]


def _flip(rng, data):
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 30)) if data else 0):
        changed[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(changed)


def _flip_header(rng, data):
    return _flip(rng, data[:200]) + data[200:]


def _zero(rng, data):
    start = rng.randrange(len(data) + 1)
    length = rng.randrange(len(data) - start + 1)
    return data[:start] + bytes(length) + data[start + length:]


def _drop_bytes(rng, data):
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 10, 500)):]


def _insert(rng, data):
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.choice((1, 10, 500))) + data[start:]


def _resize_header(rng, data):
    """Change the height and width in a JPEG's frame or a PNG's header (whose checksum then no longer fits)."""
    frame = re.search(rb'\xff[\xc0\xc2]..\x08(....)', data, re.DOTALL)
    sizes = rng.choice((0, 1, 7, 33, 5000, 65535)), rng.choice((0, 1, 9, 49, 4000))
    if frame:
        packed = b''.join(size.to_bytes(2, 'big') for size in sizes)
        return data[:frame.start(1)] + packed + data[frame.end(1):]
    return data[:16] + b''.join(size.to_bytes(4, 'big') for size in sizes) + data[24:]


# Run many mutants.

@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Dump all stacks and end the process if the block takes too long. Nothing milder interrupts a hang in C."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def fuzz_annotations(root: Path, seeds: Iterable[int]) -> Counter:
    """Count the mutants that were loaded and refused; any other outcome raises an error with the seed."""
    write_set(root, images=3)
    results = Counter()
    for seed in seeds:
        (root / 'boxes.json').write_bytes(mutate_annotations(random.Random(seed)))
        try:
            with deadline(30):
                results['loaded' if check_annotations(root) else 'refused'] += 1
        except Exception as error:
            raise AssertionError(f'mutant {seed} should be loaded or refused, not end in {error!r}') from error
    return results


def fuzz_images(root: Path, seeds: Sequence[int], log: Callable[[], List[str]]) -> int:
    """Count the mutants that were skipped in a set of one whole image and the mutants."""
    write_set(root, images=1)
    whole = content(1)
    whole['images'] = [dict(whole['images'][0], id=10 + index, file_name=f'{index}.jpg')
                       for index in range(len(seeds) + 1)]
    for index, seed in enumerate(seeds, 1):
        (root / 'images' / f'{index}.jpg').write_bytes(mutate_image(random.Random(seed)))
    write_set(root, images=1, changes=whole)
    dataset = build(root, max_unreadable=1)
    for index, seed in enumerate([None, *seeds]):
        try:
            with deadline(30):
                assert 'inputs' in dataset[index], 'this image or another should be returned'
        except SetupError as error:
            raise AssertionError(f'mutant {seed} should be skipped') from error
    skipped = {index for index in range(len(dataset)) if dataset._known[index] == 2}
    named = {int(line.split('.jpg')[0].rsplit('/')[-1]) for line in log() if 'cannot be read' in line}
    for index in range(len(dataset)):
        path = str(root / 'images' / f'{index}.jpg')
        if open_image(path)[0]:
            assert index in skipped, f'mutant {index}, {open_image(path)[0]}, should be counted'
    assert named == skipped, 'the log should name exactly the skipped images'
    assert 0 not in skipped and not find_damage(str(root / 'images' / '0.jpg')), 'the whole image should be used'
    return len(skipped)
