"""Intervals are fitted on some images, measured on others, and stored in the checkpoint."""
import dataclasses
import importlib
import json
import resource
import shutil

import layouts
import numpy as np
import pytest
import torch
from data_sets import SIZE
from tool_runs import parse

from gfl_plugin import conformal, engine
from gfl_plugin.card import Card
from gfl_plugin.conformal import Calibration, MatchedDetections
from gfl_plugin.datasets.folder import read_split
from gfl_plugin.errors import SetupError
from gfl_plugin.inference import Result
from gfl_plugin.inference.images import Source

calibrate = importlib.import_module('gfl_plugin.engine.calibrate')  # the function of this name hides the module

FILES = {'train': ('t.jpg', ), 'val': tuple(f'{number}.jpg' for number in range(40))}
CARD = Card(model=dict(type='GFL'), pipeline=[], classes=list(layouts.CLASSES), score_thr=0.5, trained_on=None,
            versions=dict(torch='2.6'))


class Oracle:
    """A detector that knows the objects, errs by normal noise, and says how large the noise is."""
    classes, score_thr = layouts.CLASSES, 0.5

    def __init__(self, split, card=CARD):
        self.card, self.rng = card, np.random.default_rng(0)
        self.boxes = {}
        for entry in split.content['annotations']:
            self.boxes.setdefault(entry['image_id'], []).append((entry['category_id'] // 3, entry['bbox']))
        self.images = split.content['images']

    def stream(self, paths):
        for path, image in zip(paths, self.images):
            found = self.boxes.get(image['id'], [])
            boxes = np.array([box for _, box in found], np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            std = self.rng.uniform(0.05, 1, boxes.shape)
            yield Result(boxes + self.rng.normal(0, std), np.linspace(0.9, 0.6, len(boxes)),
                         np.array([label for label, _ in found], int), self.classes, SIZE,
                         Source(path, path), side_std=std)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('calibrate')
    return layouts.write_coco(layouts.make_splits(root / 'parts', FILES), root / 'data')


@pytest.fixture
def oracle(data, monkeypatch):
    made = Oracle(read_split(str(data), 'val', 0.2))
    monkeypatch.setattr(calibrate, 'Detector', lambda *args, **options: made)
    return made


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'mine.pth'
    torch.save(dict(state_dict=dict(weight=torch.ones(2)), meta=dict(epoch=3), gfl_plugin=CARD.to_text()), path)
    return path


def run(*arguments):
    return engine.calibrate(parse('calibrate', *map(str, arguments)))


def test_what_is_reported_and_stored(data, oracle, checkpoint, tmp_path):
    found = run(checkpoint, '--data', data, '--out', tmp_path / 'out', '--halves', 5, '--coverage', 0.8)
    report = json.loads((tmp_path / 'out/calibration.json').read_text())
    assert report == json.loads(json.dumps(found.content))
    fitted, measured = report['calibration'], report['measured']
    assert fitted['images'] + measured['images'] == 40 - sum(
        not oracle.boxes.get(image['id']) for image in oracle.images), 'all images with objects, each on one side'
    assert measured['sides']['coverage'] == pytest.approx(0.8, abs=0.1)
    assert measured['sides']['width'] < measured['sides']['fixed_width'], 'this detector knows its errors'
    assert report['halves']['times'] == report['halves']['used'] == 5
    assert report['halves']['boxes']['coverage'] == pytest.approx(0.8, abs=0.1)
    assert (tmp_path / 'out/reliability.png').stat().st_size > 5000
    content = torch.load(checkpoint, weights_only=True)
    card = json.loads(content['gfl_plugin'])
    stored = Calibration.from_dict(card['calibration'])
    assert (stored.coverage, stored.score_thr) == (0.8, 0.5)
    assert content['state_dict']['weight'].tolist() == [1, 1] and content['meta'] == dict(epoch=3)
    assert 'stored in' in found.text and 'random halves' in found.text


def test_the_most_doubtful_images_come_first(data, oracle, checkpoint, tmp_path):
    found = run(checkpoint, '--data', data, '--out', tmp_path / 'out', '--no-store')
    doubts = [image['doubt'] for image in found.content['images']]
    known = [doubt for doubt in doubts if doubt is not None]
    assert len(doubts) == 40 and known == sorted(known, reverse=True) and doubts[:len(known)] == known
    assert found.content['images'][0]['file'] in found.text
    assert 'gfl_plugin' in torch.load(checkpoint, weights_only=True) and 'stored' not in found.text


def test_doubt_is_the_spread_relative_to_the_box():
    result = Result(np.array([[0, 0, 10, 40], [0, 0, 5, 5]], np.float32), np.ones(2), np.zeros(2, int), ('a', ), SIZE,
                    Source('x', 'x'), side_std=np.array([[1, 1, 3, 3], [0, 0, 0, 1.0]]))
    assert result.doubt == pytest.approx(0.1)
    assert result[[1]].doubt == pytest.approx(0.05)
    assert result[:0].doubt is None and dataclasses.replace(result, side_std=None).doubt is None


def test_too_few_matches_are_refused_with_the_number_needed(data, oracle, checkpoint, tmp_path):
    before = checkpoint.read_bytes()
    with pytest.raises(SetupError, match='needs at least 999 detections'):
        run(checkpoint, '--data', data, '--out', tmp_path / 'out', '--coverage', 0.999)
    assert checkpoint.read_bytes() == before and not (tmp_path / 'out').exists()


def test_random_halves_with_too_few_matches_are_left_out():
    """Nine detections are needed. The first image has 20, the second has 1: a half has one of the two images."""
    truth = np.tile([0., 0, 50, 50], (21, 1))
    matched = MatchedDetections.of(truth + np.arange(21)[:, None], truth, np.ones((21, 4)), [0] * 20 + [1])
    enough = sum(conformal.first_half(matched.image, seed).sum() >= 9 for seed in range(10))
    found = calibrate.repeat_halves(matched, 0.9, 10)
    assert (found['times'], found['used']) == (10, enough) and 0 < enough < 10
    assert found['sides'].keys() == {'coverage', 'width', 'fixed_coverage', 'fixed_width'}
    assert calibrate._summarize_halves(found, 0.9)[0].startswith(f'Means over {enough} random halves; {10 - enough} ')
    nothing = calibrate.repeat_halves(matched, 0.99, 3)
    assert nothing == dict(times=3, used=0)
    assert calibrate._summarize_halves(nothing, 0.99) == [
        'None of 3 random halves has enough matched detections to fit']


def test_classes_that_the_detector_does_not_know_are_named(data, oracle, checkpoint, tmp_path):
    oracle.classes = ('cat', 'dog')
    with pytest.raises(SetupError, match='The data have thing, other.*the detector has cat, dog'):
        run(checkpoint, '--data', data, '--out', tmp_path / 'out')


# ---- images that trained the model ----

def folder(path, split):
    return dict(type='gfl_plugin.FolderDataset', data=str(path), split=split, val_share=0.2)


def coco(root, split):
    return dict(type='CocoDataset', data=f'{root}/annotations/instances_{split}2017.json', images=f'{root}/{split}2017')


@pytest.fixture
def copy(data, tmp_path):
    return shutil.copytree(data, tmp_path / 'copy')


def warn(data, trained_on):
    return calibrate.find_training_images(CARD._replace(trained_on=trained_on), read_split(str(data), 'val'), str(data))


@pytest.mark.parametrize('describe', [folder, coco])
def test_images_that_trained_the_model_are_named(describe, data, copy):
    warning = warn(data, describe(data, 'val'))
    assert warning.startswith('40 of the 40 images trained the model (') and warning.endswith(
        'The model is more accurate on images it was trained on, so the intervals will be too narrow')
    assert warn(data, describe(data, 'train')) is None
    assert '40 of the 40 images have the names of images that trained the model (0.jpg' in warn(
        data, describe(copy, 'val'))
    assert warn(data, describe(copy, 'train')) is None


def test_one_name_in_two_splits_of_a_data_set_is_two_images(data, copy):
    annotations = json.loads((copy / 'annotations/instances_train2017.json').read_text())
    annotations['images'][0]['file_name'] = '0.jpg'
    (copy / 'annotations/instances_train2017.json').write_text(json.dumps(annotations))
    (copy / 'train2017/t.jpg').rename(copy / 'train2017/0.jpg')
    assert warn(copy, coco(copy, 'train')) is None
    assert '1 of the 40 images have the names' in warn(data, coco(copy, 'train'))


def test_shapes_are_told_by_their_files_only(data, tmp_path):
    for split in ('train', 'val'):
        (tmp_path / split).mkdir()
        shutil.copy(data / 'annotations/instances_val2017.json', tmp_path / split / 'annotations.json')
    (tmp_path / 'train/images').mkdir()
    (tmp_path / 'val/images').symlink_to(data / 'val2017')
    shapes = dict(type='gfl_plugin.ShapesDataset', data=str(tmp_path), num_images=40)
    assert warn(data, dict(shapes, split='train')) is None, 'another split has other images of the same names'
    assert warn(data, dict(shapes, split='val')).startswith('40 of the 40 images trained the model')


@pytest.mark.parametrize('trained_on', [
    None, {}, dict(type='FolderDataset'), dict(type='FolderDataset', data='/etc'),
    dict(type='CocoDataset', data='/etc'), dict(type='CocoDataset', data='/dev/zero'),
    dict(type='CocoDataset', data='DATA/val2017/0.jpg'), dict(coco('DATA', 'val'), images='a\0b'),
    folder('/gone', 'train'), folder('DATA/val2017', 'train'), coco('/gone', 'train'), folder('DATA', 'minival'),
    dict(folder('DATA', 'val'), val_share=0)])
def test_what_a_card_says_about_its_training_never_ends_a_calibration(trained_on, data):
    if trained_on:
        trained_on = {key: value.replace('DATA', str(data)) if isinstance(value, str) else value
                      for key, value in trained_on.items()}
    assert warn(data, trained_on) is None


def test_warnings_are_reported(data, oracle, checkpoint, tmp_path):
    oracle.card = CARD._replace(trained_on=folder(data, 'val'))
    found = run(checkpoint, '--data', data, '--out', tmp_path / 'out', '--no-store')
    assert f'Warning: {found.content["warnings"][0]}' in found.text
    assert 'if val chose the best checkpoint, errors on it may be a little smaller' in found.text


# ---- files ----

def test_a_split_that_is_not_there(data, oracle, checkpoint):
    with pytest.raises(SetupError, match='test'):
        run(checkpoint, '--data', data, '--split', 'test')


@pytest.mark.parametrize('path, arguments, message', [
    ('mine.pth', ('--out', 'file'), 'report cannot be written to .*file .*--out'),
    ('mine.pth', ('--out', 'file/out'), 'report cannot be written to .*file/out .*--out'),
    ('file/mine.pth', ('--out', 'out'), 'folder of .*mine.pth cannot be written to .*--no-store'),
    ('https://host/mine.pth', ('--out', 'out'), 'download it first')])
def test_output_that_cannot_be_written_is_refused_before_the_detection(path, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('no folder')
    monkeypatch.setattr(calibrate, 'Detector', lambda *args, **options: pytest.fail('this should not be reached'))
    with pytest.raises(SetupError, match=message):
        run(path, '--data', 'data', *arguments)
    assert [file.name for file in tmp_path.iterdir()] == ['file']


def test_a_checkpoint_that_cannot_be_replaced_stays(checkpoint):
    """The file system refuses files of more than 100 bytes."""
    before = checkpoint.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(SetupError, match='mine.pth cannot be written .File too large.. It is unchanged'):
            calibrate.store(str(checkpoint), CARD, trust=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.read_bytes() == before and list(checkpoint.parent.iterdir()) == [checkpoint]
