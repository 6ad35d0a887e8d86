"""Regression targets of a data set: a count by hand, and the recommendations."""
import json
import math
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tool_runs import ROOT, parse

from gfl_plugin import engine
from gfl_plugin.analysis import charts, targets
from gfl_plugin.analysis.targets import Reach
from gfl_plugin.errors import SetupError

IMAGES = 3
STRIDES, SIDE, TOPK = (8, 16, 32, 64, 128), 8, 9  # of the 1x config; a prior is SIDE strides wide


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Skip the figures, which are slow to draw. These tests look only at numbers."""
    monkeypatch.setattr(sys.modules['gfl_plugin.engine.analyze'], 'EXTRA', ())
    for name in ('save_png', 'save_html'):
        monkeypatch.setattr(charts, name, lambda *_: None)


@pytest.fixture
def three_images(tiny_coco, tmp_path_factory):
    """Annotations of the three training images of tiny_coco with the most boxes, which have all sizes."""
    content = json.loads(Path(tiny_coco, 'annotations/instances_train2017.json').read_text())
    counts = Counter(box['image_id'] for box in content['annotations'])
    chosen = [image for image, _ in counts.most_common(IMAGES)]
    content['images'] = [image for image in content['images'] if image['id'] in chosen]
    content['annotations'] = [box for box in content['annotations'] if box['image_id'] in chosen]
    path = tmp_path_factory.getbasetemp() / 'three.json'
    path.write_text(json.dumps(content))
    return content, str(path)


@lru_cache
def count_by_hand(path, strides=STRIDES):
    """Count the targets of each level in [i, i + 1) strides, as {stride: Counter}, without any code of the package.

    This is ATSS as the paper (arXiv:1912.02424) describes it, in a loop over priors and objects.
    """
    content = json.loads(Path(path).read_text())
    histograms = {stride: Counter() for stride in strides}
    for image in content['images']:
        width, height, scale = resized(image['width'], image['height'])
        objects = [box for box in content['annotations'] if box['image_id'] == image['id'] and not box['iscrowd']]
        objects = [(x * scale[0], y * scale[1], min((x + w) * scale[0], width), min((y + h) * scale[1], height))
                   for x, y, w, h in (box['bbox'] for box in objects)]
        padded = [math.ceil(side / 32) * 32 for side in (width, height)]
        priors = []  # stride, centre x and y; the first centre is at 0
        for stride in strides:
            for row in range(math.ceil(padded[1] / stride)):
                for column in range(math.ceil(padded[0] / stride)):
                    priors.append((stride, column * stride, row * stride))
        owner = {}  # index of the prior: (IoU, object)
        for box in objects:
            for prior, overlap in positives_of(box, priors, strides):
                if prior not in owner or overlap > owner[prior][0]:
                    owner[prior] = (overlap, box)
        for prior, (_, box) in owner.items():
            stride, x, y = priors[prior]
            for distance in (x - box[0], y - box[1], box[2] - x, box[3] - y):
                histograms[stride][math.floor(distance / stride)] += 1
    return histograms


def resized(width, height):
    """Resize as the 1x config does: the long side to at most 1333, the short side to at most 800, rounded."""
    scale = min(1333 / max(width, height), 800 / min(width, height))
    new = (int(width * scale + 0.5), int(height * scale + 0.5))
    return *new, (new[0] / width, new[1] / height)


def positives_of(box, priors, strides):
    """Yield (index of the prior, IoU) for each positive of one object."""
    center = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    candidates = []
    for stride in strides:
        level = [(math.hypot(x - center[0], y - center[1]), index)
                 for index, (s, x, y) in enumerate(priors) if s == stride]
        candidates += [index for _, index in sorted(level)[:TOPK]]
    overlaps = [overlap(box, square(*priors[index])) for index in candidates]
    threshold = np.mean(overlaps) + np.std(overlaps, ddof=1)
    for index, value in zip(candidates, overlaps):
        _, x, y = priors[index]
        inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y)
        if value >= threshold and inside > 0.01:
            yield index, value


def square(stride, x, y):
    half = SIDE * stride / 2
    return x - half, y - half, x + half, y + half


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def analyze(tmp_path, *arguments):
    engine.analyze(parse('analyze', 'targets', *arguments, '--out', str(tmp_path / 'out')))
    return json.loads((tmp_path / 'out/targets.json').read_text())


def test_three_images_of_coco_counted_by_hand(three_images, tmp_path):
    content, path = three_images
    expected = count_by_hand(path)
    numbers = analyze(tmp_path, path)
    assert numbers['objects'] == sum(not box['iscrowd'] for box in content['annotations']) > 60
    assert [level['stride'] for level in numbers['levels']] == list(STRIDES)
    for level in numbers['levels']:
        counted = {i: count for i, count in enumerate(level['histogram']) if count}
        assert counted == dict(expected[level['stride']]), f'stride {level["stride"]} should have the counts by hand'
    assert sum(sum(h.values()) for h in expected.values()) == numbers['all']['targets'] > 1000, \
        'the counts should be large enough to mean something'


def test_what_reg_max_cuts_off(three_images, tmp_path):
    content, path = three_images
    expected = count_by_hand(path)
    numbers = analyze(tmp_path, path, '--reg-max', '3')
    for level in [*numbers['levels'], dict(numbers['all'], stride=None)]:
        chosen = [level['stride']] if level['stride'] else STRIDES
        beyond = sum(count for s in chosen for i, count in expected[s].items() if i >= 3)
        within = sum(count for s in chosen for i, count in expected[s].items() if i < 2)
        assert beyond <= level['cut'] <= level['targets'] - within, 'targets above 2.9 strides should be cut'
        assert level['cut_share'] == level['cut'] / max(level['targets'], 1)
    assert 'reg_max = 3 cuts off more than 1%' in numbers['warning'], 'the warning should name the limit'
    again = analyze(tmp_path, path, '--reg-max', str(numbers['recommended']['reg_max']))
    assert max(level['cut_share'] for level in again['levels']) <= 0.01, 'the recommended reg_max should cut at most 1%'
    assert again['warning'] is None
    less = analyze(tmp_path, path, '--reg-max', str(numbers['recommended']['reg_max'] - 1))
    assert max(level['cut_share'] for level in less['levels']) > 0.01 and less['warning'], \
        'it should be the least that does'


def reach(*levels, objects=100, missed=0):
    return Reach([torch.tensor(level, dtype=torch.float32).reshape(-1, 4) for level in levels], 10, objects, missed)


def test_numbers_by_hand():
    numbers = targets.measure(reach([[0.5, 1.5, 1.6, 3.95]], []), (8, 16), reg_max=4)
    assert numbers['levels'][0]['histogram'] == [1, 2, 0, 1] and numbers['levels'][1]['histogram'] == []
    assert numbers['all']['cut'] == 1 and numbers['all']['cut_share'] == 0.25, \
        '3.95 is above 4 - 0.1, so it should be cut'
    assert numbers['all']['cut_share_by_reg_max'] == [0.75, 0.25, 0.25, 0.25, 0], \
        'the shares should be those of reg_max 1 to 5'
    assert numbers['all']['least_reg_max'] == 5
    without = targets.measure(reach([[0.5, 1.5, 1.6, 3.95]], []), (8, 16), reg_max=None)
    assert without['warning'] is None and 'cut' not in without['all'], 'without bins nothing should be cut'


def test_recommended_strides():
    near, far = [[1., 1, 1, 1]] * 50, [[20., 1, 1, 1]] * 50

    def recommend(reach, strides):
        return targets.measure(reach, strides, 16)['recommended']['strides']

    assert recommend(reach(near, near, near), (8, 16, 32)) == [8, 16, 32], 'levels in use should stay'
    assert recommend(reach([], near, []), (8, 16, 32)) == [16], 'idle levels at the ends should go'
    assert recommend(reach(near, [], near), (8, 16, 32)) == [8, 16, 32], 'an idle level in between should stay'
    assert recommend(reach(near, near, missed=2), (8, 16)) == [4, 8, 16], 'missed objects should add a finer level'
    assert recommend(reach(near, near, missed=1), (8, 16)) == [8, 16], 'up to 1% missed objects are tolerated'
    assert recommend(reach(near, far), (8, 16)) == [8, 16, 32], 'cuts at the coarsest level should add a coarser one'
    assert recommend(reach(far, near), (8, 16)) == [8, 16], 'cuts at a finer level should add none'


def test_other_strides_are_tried(three_images, tmp_path):
    numbers = analyze(tmp_path, three_images[1], '--strides', '32', '64', '--octave-base-scale', '4')
    assert numbers['strides'] == [32, 64] and numbers['recommended']['strides'][0] == 16
    tried = numbers['recommended']['tried']
    assert tried['objects_without_positive'] < numbers['objects_without_positive'], \
        'a finer level should find more objects'


def test_the_training_data_of_a_config(tmp_path):
    """The config of the shapes draws them, does not resize them, and sets its own priors."""
    settings = ['train_dataloader.dataset.num_images=60']
    numbers = analyze(tmp_path, '--config', str(ROOT / 'configs/demo/gfl_r18_fpn_shapes.py'), '--data-root',
                      str(tmp_path / 'data'), '--cfg-options', *settings)
    content = json.loads((tmp_path / 'data/train/annotations.json').read_text())
    assert numbers['images'] == 60 and numbers['objects'] == len(content['annotations'])
    assert numbers['strides'] == [8, 16, 32], 'the strides should be those of the config'
    assert numbers['levels'][2]['positives'] == 0, 'no object should use the coarsest level'
    recommended = numbers['recommended']
    assert recommended['tried']['strides'] == [8, 16] and recommended['strides'] == [8, 16, 32], recommended
    assert recommended['tried']['objects_without_positive'] > numbers['objects_without_positive'], \
        'yet without it more objects should be missed'
    from_file = analyze(tmp_path, str(tmp_path / 'data/train/annotations.json'), '--config',
                        str(ROOT / 'configs/demo/gfl_r18_fpn_shapes.py'))
    assert from_file['levels'] == numbers['levels'], 'the annotation file should give the same numbers as the data set'
    larger = analyze(tmp_path, str(tmp_path / 'data/train/annotations.json'), '--config',
                     str(ROOT / 'configs/demo/gfl_r18_fpn_shapes.py'), '--scale', '256', '256')
    assert larger['all']['largest'] > numbers['all']['largest'], '--scale should win over the config'


@pytest.mark.parametrize('arguments, said', [
    ([], 'annotation file'),
    (['none.json'], 'none.json cannot be read'),
    (['x.json', '--scale', '3'], '--scale'),
    (['x.json', '--config', 'none.py'], 'no config file'),
])
def test_mistakes(tmp_path, arguments, said):
    (tmp_path / 'x.json').write_text('{"images": [], "annotations": [], "categories": []}')
    arguments = [str(tmp_path / 'x.json') if a == 'x.json' else a for a in arguments]
    with pytest.raises(SetupError, match=said):
        analyze(tmp_path, *arguments)
