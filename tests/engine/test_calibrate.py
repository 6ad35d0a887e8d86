"""Intervals are fitted on some images, measured on others, and stored in the checkpoint."""
import importlib
import json

import layouts
import numpy as np
import pytest
import torch
from data_sets import SIZE
from tool_runs import parse

from gfl_plugin import engine
from gfl_plugin.card import Card
from gfl_plugin.conformal import Calibration
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

    def __init__(self, part, card=CARD, **options):
        self.card, self.rng = card, np.random.default_rng(0)
        self.boxes = {}
        for entry in part.content['annotations']:
            self.boxes.setdefault(entry['image_id'], []).append((entry['category_id'] // 3, entry['bbox']))
        self.images = part.content['images']

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
    assert report['halves']['times'] == 5 and report['halves']['boxes']['coverage'] == pytest.approx(0.8, abs=0.1)
    assert (tmp_path / 'out/reliability.png').stat().st_size > 5000
    content = torch.load(checkpoint, weights_only=True)
    card = json.loads(content['gfl_plugin'])
    assert Calibration.from_dict(card['calibration']).coverage == 0.8
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
    assert calibrate.measure_doubt(result) == pytest.approx(0.1)
    assert calibrate.measure_doubt(result[[1]]) == pytest.approx(0.05)
    assert calibrate.measure_doubt(result[:0]) is None


def test_too_few_matches_are_refused_with_the_number_needed(data, oracle, checkpoint, tmp_path):
    before = checkpoint.read_bytes()
    with pytest.raises(SetupError, match='needs at least 999 detections'):
        run(checkpoint, '--data', data, '--out', tmp_path / 'out', '--coverage', 0.999)
    assert checkpoint.read_bytes() == before and not (tmp_path / 'out').exists()


def test_images_that_trained_the_model_are_named(data, oracle, checkpoint, tmp_path):
    oracle.card = CARD._replace(trained_on=dict(type='gfl_plugin.FolderDataset', data=str(data), split='val',
                                                val_share=0.2))
    found = run(checkpoint, '--data', data, '--out', tmp_path / 'out', '--no-store')
    assert '40 of the 40 images trained the model' in found.text and 'too narrow' in found.content['warnings'][0]
    oracle.card = CARD._replace(trained_on=dict(type='gfl_plugin.FolderDataset', data=str(data), split='train',
                                                val_share=0.2))
    assert run(checkpoint, '--data', data, '--out', tmp_path / 'out', '--no-store').content['warnings'] == []


def test_a_split_that_is_not_there(data, oracle, checkpoint):
    with pytest.raises(SetupError, match='test'):
        run(checkpoint, '--data', data, '--split', 'test')


def test_a_checkpoint_that_cannot_be_replaced_stays(data, oracle, checkpoint, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    before = checkpoint.read_bytes()
    monkeypatch.setattr(calibrate.torch, 'save', full)
    with pytest.raises(SetupError, match='No space left on device.*unchanged'):
        run(checkpoint, '--data', data, '--out', tmp_path / 'out')
    assert checkpoint.read_bytes() == before
