"""A checkpoint alone detects, as the test loop does, one image at a time or many."""
import csv
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from PIL import Image
from tool_runs import ROOT, SHAPES, TINY, parse
from torch import nn

import gfl_plugin
from gfl_plugin import engine
from gfl_plugin.conformal import Calibration
from gfl_plugin.engine.calibrate import store
from gfl_plugin.engine.predict import summarize
from gfl_plugin.errors import SetupError
from gfl_plugin.inference import Detector, ImageError, folding


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A run on a data set in COCO's layout: its folder, and the data."""
    root = tmp_path_factory.mktemp('trained')
    data = layouts.write_coco(layouts.make_splits(root / 'parts'), root / 'data')
    engine.train(parse('train', SHAPES, '--data', str(data), '--work-dir', str(root / 'run'), '--epochs', '1',
                       '--batch-size', '2', '--image-size', '64', '--cfg-options', *TINY))
    return root


@pytest.fixture(scope='module')
def best(trained):
    return str(next((trained / 'run').glob('best_*.pth')))


@pytest.fixture(scope='module')
def detector(best):
    return gfl_plugin.Detector(best, device='cpu', score_thr=0)


@pytest.fixture
def photos():
    """Five images in two sizes, mixed, of 64 x 64 and of 32 x 64 pixels once they are padded."""
    rng = np.random.default_rng(0)
    sizes = [(48, 64), (24, 64), (48, 64), (48, 64), (24, 64)]
    return [cv2.GaussianBlur(rng.integers(0, 256, (*size, 3), np.uint8), (0, 0), 2) for size in sizes]


def predict(*arguments):
    return engine.predict(parse('predict', *map(str, arguments)))


def trained_folder(best):
    return Path(best).parent.parent


def equal(one, other, tolerance):
    return len(one) == len(other) and all(np.allclose(getattr(one, name), getattr(other, name), 0, tolerance)
                                          for name in ('boxes', 'scores', 'labels'))


# ---- equal to the test loop ----

@pytest.fixture(scope='module')
def tested(trained, best, tmp_path_factory):
    """The detections and metrics of the test loop."""
    out = tmp_path_factory.mktemp('tested')
    config = str(trained / 'run' / 'gfl_r18_fpn_shapes.py')
    _, metrics = engine.test(parse('test', config, best, '--work-dir', str(out), '--out', str(out / 'found.pkl')))
    return pickle.loads((out / 'found.pkl').read_bytes()), metrics


def test_detections_equal_those_of_the_test_loop(detector, tested):
    for sample in tested[0]:
        result, = detector(sample['img_path'])
        expected = sample['pred_instances']
        assert len(result) == len(expected['scores']) > 0
        assert np.allclose(result.scores, expected['scores'], 0, 1e-5)
        assert np.allclose(result.boxes, expected['bboxes'], 0, 1e-2 / 4)
        assert result.path == sample['img_path'] and result.size == tuple(sample['ori_shape'][::-1])


def test_without_folding_they_are_the_same_to_the_bit(best, tested):
    unfolded = Detector(best, device='cpu', score_thr=0, fold=False)
    for sample in tested[0]:
        result, = unfolded(sample['img_path'])
        for mine, theirs in ((result.scores, 'scores'), (result.boxes, 'bboxes'), (result.labels, 'labels')):
            assert np.array_equal(mine, sample['pred_instances'][theirs].numpy())


def test_the_coco_file_has_the_ap_of_the_test_loop(trained, best, tested, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    ann = trained / 'data/annotations/instances_val2017.json'
    predict(best, trained / 'data/val2017', '--out', tmp_path, '--ids', ann, '--score-thr', 0, '--no-pictures')
    found = json.loads((tmp_path / 'detections.json').read_text())
    content = json.loads(ann.read_text())
    for entry in content['annotations']:
        entry.update(area=entry['bbox'][2] * entry['bbox'][3], iscrowd=0, id=entry['id'] + 1)
    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    in_loop = [dict(image_id=sample['img_id'], category_id=3 * int(label), score=float(score),
                    bbox=[float(x) for x in (*box[:2], *(box[2:] - box[:2]))])
               for sample in tested[0] for box, score, label in zip(*(
                   sample['pred_instances'][name] for name in ('bboxes', 'scores', 'labels')))]
    stats = []
    for entries in (found['annotations'], in_loop):
        evaluation = COCOeval(truth, truth.loadRes(entries), 'bbox')
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
        stats.append(evaluation.stats)
    assert stats[0] == pytest.approx(stats[1], abs=1e-6)
    assert len(found['annotations']) == len(in_loop)


# ---- batches ----

def test_a_batch_gives_what_its_images_give_alone(detector, photos):
    alone = [detector(photo)[0] for photo in photos]
    together = detector(photos)
    assert all(equal(one, other, 1e-4) for one, other in zip(alone, together))
    assert [result.size for result in together] == [photo.shape[1::-1] for photo in photos], 'the order should stay'


def test_only_images_of_one_padded_size_share_a_batch(detector, photos, monkeypatch):
    sizes = []
    run = Detector._run
    monkeypatch.setattr(Detector, '_run', lambda self, batch: sizes.append(
        {tuple(one.pixels.shape) for one in batch}) or run(self, batch))
    detector(photos)
    assert len(sizes) == 2 and all(len(shapes) == 1 for shapes in sizes)


def test_a_stream_reads_no_further_than_a_batch(detector, photos):
    read = []

    def images():
        for photo in photos * 20:
            read.append(photo)
            yield photo

    next(detector.stream(images()))
    assert len(read) == detector.batch_size


# ---- results ----

def test_what_a_result_gives(detector, photos):
    result, = detector(photos[0])
    best_two = result[:2]
    assert [len(one) for one in best_two] == [1, 1] and result[-1].scores[0] == result.scores[-1]
    with pytest.raises(IndexError, match='no detection 2 among 2'):
        best_two[2]
    assert len(best_two) == 2 and len(result[result.scores > 2]) == 0
    assert best_two.names == [detector.classes[label] for label in best_two.labels]
    assert best_two.boxes.shape == (2, 4) and best_two.boxes.dtype == np.float32
    assert result.path is None and np.array_equal(result.image(), photos[0])
    entry = best_two.to_coco(image_id=7, category_ids=np.array([11, 12, 13]))[0]
    left, top, right, bottom = best_two.boxes[0].tolist()
    assert entry == dict(image_id=7, category_id=11 + int(best_two.labels[0]), score=float(best_two.scores[0]),
                         bbox=pytest.approx([left, top, right - left, bottom - top]))
    assert json.loads(json.dumps(best_two.to_coco())) == best_two.to_coco(), 'plain numbers'


def test_a_result_draws_itself(detector, photos, tmp_path):
    result, = detector(photos[0])
    picture = result.draw()
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.std() > 0
    result.save(str(tmp_path / 'drawn.png'))
    assert np.array_equal(cv2.imread(str(tmp_path / 'drawn.png')), picture)
    for name in ('drawn.xyz', 'drawn'):
        with pytest.raises(SetupError, match='no format of images'):
            result.save(str(tmp_path / name))


def test_supervision_gets_its_own_class(detector, photos, monkeypatch):
    class Detections:
        def __init__(self, **fields):
            self.fields = fields

    result, = detector(photos[0])
    monkeypatch.setitem(sys.modules, 'supervision', type(sys)('supervision'))
    sys.modules['supervision'].Detections = Detections
    fields = result.to_supervision().fields
    assert fields['xyxy'] is result.boxes and fields['data']['class_name'].tolist() == result.names
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(SetupError, match='pip install supervision'):
        result.to_supervision()


def test_red_and_blue_are_told_apart(detector, photos):
    bgr, = detector(photos[0])
    for same in (detector(photos[0][..., ::-1], rgb=True), detector(Image.fromarray(photos[0][..., ::-1]))):
        assert equal(bgr, same[0], 0)
    assert not np.array_equal(bgr.scores, detector(photos[0][..., ::-1])[0].scores)


# ---- how far to trust a side ----

def test_what_is_known_of_sides_comes_only_on_request(best, detector, photos):
    asked = Detector(best, device='cpu', score_thr=0, uncertainty=True, distributions=True)
    plain, rich = detector(photos[0])[0], asked(photos[0])[0]
    assert all(np.array_equal(getattr(plain, name), getattr(rich, name)) for name in ('boxes', 'scores', 'labels'))
    assert plain.side_std is plain.side_places is plain.side_probs is plain.side_interval is None
    assert rich.side_std.shape == rich.boxes.shape and (rich.side_std > 0).all()
    assert rich.side_probs.shape == rich.side_places.shape == (len(rich), 4, rich.side_probs.shape[2])
    assert np.allclose(rich.side_probs.sum(2), 1, atol=1e-5)
    mean = (rich.side_probs * rich.side_places).sum(2)
    variance = (rich.side_probs * (rich.side_places - mean[..., None])**2).sum(2)
    assert np.allclose(variance**0.5, rich.side_std, atol=1e-2)
    some = rich[[2, 0]]
    assert np.array_equal(some.side_std, rich.side_std[[2, 0]]) and len(some.side_probs) == 2
    assert rich.side_interval is None, 'this checkpoint is not calibrated'
    assert rich[:1].draw().shape == plain[:1].draw().shape and (rich[:1].draw() != plain[:1].draw()).any()
    assert rich[:1].tile().shape == (320, 320, 3)


def test_a_calibrated_checkpoint_gives_intervals(best, photos, tmp_path):
    calibration = Calibration(0.9, 2.0, 3.0, 5.0, 7.0, 0.5, 100, 50, 0.0)
    path = str(shutil.copy(best, tmp_path / 'calibrated.pth'))
    store(path, Detector(best, device='cpu').card._replace(calibration=calibration.to_dict()), trust=False)
    result, = Detector(path, device='cpu', score_thr=0, uncertainty=True)(photos[0])
    low, high = result.side_interval[..., 0], result.side_interval[..., 1]
    assert np.allclose(low, result.boxes - 2 * (result.side_std + 0.5), atol=1e-4)
    assert np.allclose(high, result.boxes + 2 * (result.side_std + 0.5), atol=1e-4)
    assert np.allclose(result.box_interval[..., 1], result.boxes + 3 * (result.side_std + 0.5), atol=1e-4)
    assert Detector(path, device='cpu')(photos[0])[0].side_interval is None
    found = predict(path, trained_folder(best) / 'data/val2017', '--out', tmp_path / 'out', '--score-thr', 0,
                    '--uncertainty', '--no-pictures')
    first = found.content['images'][0]['detections'][0]
    assert len(first['side_std']) == 4 and np.shape(first['side_interval']) == (4, 2)
    with open(tmp_path / 'out/detections.csv', newline='', encoding='utf-8') as file:
        assert float(next(csv.DictReader(file))['left_std']) == pytest.approx(first['side_std'][0], abs=0.006)


def test_a_dirac_box_knows_nothing_of_its_sides(tmp_path):
    config = tmp_path / 'dirac.py'
    config.write_text("_base_ = 'gfl_plugin::ablation/joint_dirac.py'\n")
    model = MODELS.build(Config.fromfile(str(config)).model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'dirac.pth')
    with pytest.raises(SetupError, match='GeneralDistribution'):
        Detector(str(tmp_path / 'dirac.pth'), config=str(config), device='cpu', uncertainty=True)


# ---- thresholds ----

def test_the_threshold_is_the_one_of_the_checkpoint_unless_asked(best, detector, photos):
    recommended = Detector(best, device='cpu')
    card = json.loads(torch.load(best, weights_only=True)['gfl_plugin'])
    assert recommended.score_thr == (0.3 if card['score_thr'] is None else card['score_thr'])
    middle = float(np.median(detector(photos[0])[0].scores))
    result, = recommended(photos[0], score_thr=middle)
    assert result.scores.min() >= middle and 0 < len(result) < len(detector(photos[0])[0])


# ---- bad input ----

def test_one_bad_image_raises_or_is_reported(detector, photos, tmp_path):
    whole = cv2.imencode('.jpg', photos[0])[1].tobytes()
    (tmp_path / 'cut.jpg').write_bytes(whole[:len(whole) // 2])
    (tmp_path / 'whole.jpg').write_bytes(whole)
    with pytest.raises(ImageError, match='cut.jpg: truncated'):
        detector(tmp_path)
    errors = []
    results = list(detector.stream([tmp_path, photos[1]], on_error=errors.append))
    assert [error.reason for error in errors] == ['truncated']
    assert [result.size for result in results] == [(64, 48), (64, 24)]


@pytest.mark.parametrize('shape', [(1, 1), (6000, 8000), (3, 300)])
def test_odd_sizes(detector, shape):
    result, = detector(np.full((*shape, 3), 90, np.uint8))
    assert result.size == shape[::-1]
    assert (result.boxes[:, 2:] <= np.array(shape[::-1]) + 1e-2).all() and (result.boxes >= 0).all()


def test_an_image_that_cannot_be_resized_is_named(detector):
    with pytest.raises(ImageError, match='image 0: its 2000 x 1 pixels cannot be brought'):
        detector(np.zeros((1, 2000, 3), np.uint8))


# ---- the tool ----

def test_what_the_tool_writes(best, trained, tmp_path):
    found = predict(best, trained / 'data/val2017', '--out', tmp_path, '--score-thr', 0)
    assert found.failed == 0 and str(tmp_path) in found.text and '2 images' in found.text
    assert sorted(str(path.relative_to(tmp_path / 'pictures')) for path in (tmp_path / 'pictures').rglob('*.jpg')) == [
        'v.jpg', 'é/w.jpg']
    assert cv2.imread(str(tmp_path / 'sheet.jpg')).shape[:2] == (332, 658), 'two tiles'
    coco = json.loads((tmp_path / 'detections.json').read_text())
    assert [image['file_name'] for image in coco['images']] == ['v.jpg', 'é/w.jpg']
    assert [category['name'] for category in coco['categories']] == list(layouts.CLASSES)
    with open(tmp_path / 'detections.csv', newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(coco['annotations']) > 0
    assert rows[0]['name'] in layouts.CLASSES and float(rows[0]['right']) > float(rows[0]['left'])


def test_an_image_without_detections(best, trained, tmp_path):
    found = predict(best, trained / 'data/val2017', '--out', tmp_path, '--score-thr', 1, '--uncertainty')
    assert '2 images, 0 objects' in found.text and found.failed == 0
    assert (tmp_path / 'pictures/v.jpg').exists() and (tmp_path / 'sheet.jpg').exists()
    assert len((tmp_path / 'detections.csv').read_text().splitlines()) == 1
    assert json.loads((tmp_path / 'detections.json').read_text())['annotations'] == []


def test_json_alone_writes_no_file(best, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = predict(best, trained / 'data/val2017', '--json', '--score-thr', 0)
    assert list(tmp_path.iterdir()) == []
    content = json.loads(json.dumps(found.content))
    assert len(content['images']) == 2 and content['classes'] == list(layouts.CLASSES)
    assert set(content['images'][0]['detections'][0]) == {'name', 'score', 'box'}


def test_a_new_folder_for_each_prediction(best, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [predict(best, trained / 'data/val2017', '--no-pictures').text for _ in range(2)]
    assert 'work_dirs/predict' in texts[0] and 'work_dirs/predict-2' in texts[1]
    assert not (tmp_path / 'work_dirs/predict/pictures').exists()


def test_inputs_that_cannot_be_read_are_named_and_counted(best, trained, tmp_path, capsys):
    (tmp_path / 'text.jpg').write_text('no image')
    (tmp_path / 'empty').mkdir()
    found = predict(best, trained / 'data/val2017', tmp_path / 'text.jpg', tmp_path / 'empty', tmp_path / 'missing.png',
                    '--out', tmp_path / 'out', '--no-pictures')
    assert found.failed == 3 and len(found.content['images']) == 2 and '3 inputs could not be read' in found.text
    said = capsys.readouterr().err
    assert all(name in said for name in ('text.jpg: not an image', 'empty: the folder has no image',
                                         'missing.png: missing'))


def test_equal_names_do_not_overwrite_each_other(best, tmp_path, photos):
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / 'photo.png'), photos[0])
    predict(best, tmp_path / 'a', tmp_path / 'b', '--out', tmp_path / 'out')
    pictures = tmp_path / 'out/pictures'
    assert sorted(str(path.relative_to(pictures)) for path in pictures.rglob('*.png')) == ['a/photo.png', 'b/photo.png']


def test_an_image_that_is_named_twice_counts_once(best, trained, tmp_path):
    val, ann = trained / 'data/val2017', trained / 'data/annotations/instances_val2017.json'
    predict(best, val / 'v.jpg', val, f'{val}/*.jpg', '--ids', ann, '--out', tmp_path, '--no-pictures')
    ids = {image['file_name']: image['id'] for image in json.loads(ann.read_text())['images']}
    written = [(Path(image['file_name']).name, image['id'])
               for image in json.loads((tmp_path / 'detections.json').read_text())['images']]
    assert sorted(written) == sorted((Path(name).name, number) for name, number in ids.items())


def test_a_bad_input_does_not_end_a_run_with_ids(best, trained, tmp_path):
    (tmp_path / 'empty').mkdir()
    found = predict(best, trained / 'data/val2017', tmp_path / 'empty', tmp_path / 'missing.jpg', '--out',
                    tmp_path / 'out', '--no-pictures', '--ids', trained / 'data/annotations/instances_val2017.json')
    assert found.failed == 2 and len(found.content['images']) == 2


def test_equal_names_in_two_inputs_are_told_apart(best, tmp_path, photos):
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / 'photo.png'), photos[0])
    predict(best, tmp_path / 'a', tmp_path / 'b', '--out', tmp_path / 'out', '--no-pictures')
    images = json.loads((tmp_path / 'out/detections.json').read_text())['images']
    assert [image['file_name'] for image in images] == ['a/photo.png', 'b/photo.png']


def test_a_file_name_need_not_be_text(best, tmp_path, photos):
    name = os.fsencode(str(tmp_path)) + b'/bad\xff.png'
    with open(name, 'wb') as file:
        file.write(cv2.imencode('.png', photos[0])[1].tobytes())
    predict(best, os.fsdecode(name), '--out', tmp_path / 'out', '--score-thr', 0)
    assert 'bad' in json.loads((tmp_path / 'out/detections.json').read_text())['images'][0]['file_name']
    assert len((tmp_path / 'out/detections.csv').read_text().splitlines()) > 1


def test_ctrl_c_keeps_what_was_found(best, trained, tmp_path, monkeypatch):
    def stop(self, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(gfl_plugin.Result, 'save', stop)
    with pytest.raises(KeyboardInterrupt):
        predict(best, trained / 'data/val2017', '--out', tmp_path)
    assert len(json.loads((tmp_path / 'detections.json').read_text())['images']) == 1


def test_names_from_a_checkpoint_reach_no_terminal_as_they_are():
    content = dict(images=[dict(detections=[dict(name='\x1b]0;gotcha\x07')])], errors=[], score_thr=0.5)
    assert summarize(content, None).isprintable()


def test_a_reader_that_goes_away_is_no_error():
    code = "import arguments; arguments.show('é' * 10**6)"
    shell = f'{sys.executable} -c "{code}" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(['bash', '-c', shell], cwd=ROOT / 'tools', capture_output=True, text=True,
                          env=dict(os.environ, PYTHONIOENCODING='ascii'))
    assert (done.returncode, done.stderr) == (0, '')


def test_mistakes_of_the_command(best, trained, tmp_path):
    blocked = tmp_path / 'file'
    blocked.write_text('')
    val = trained / 'data/val2017'
    with pytest.raises(SetupError, match='cannot be written'):
        predict(best, val, '--out', blocked / 'below')
    with pytest.raises(SetupError, match='There is no checkpoint'):
        predict('nowhere.pth', val)
    with pytest.raises(SetupError, match='2 of the 2 images have no id'):
        predict(best, val, '--out', tmp_path, '--ids', trained / 'data/annotations/instances_train2017.json')
    with pytest.raises(SetupError, match='device'):
        predict(best, val, '--device', 'abacus')
    for score in (math.nan, -1, 5):
        with pytest.raises(SetupError, match='not between 0 and 1'):
            Detector(best, device='cpu', score_thr=score)


def test_the_benchmark_times_the_detector_and_its_network(best):
    rows = engine.benchmark(parse('benchmark', 'detect', best, '--rounds', '1'))['rows']
    assert [row['unit'] for row in rows] == ['ms', 'ms'] and all(row['ours'] > 0 < row['theirs'] for row in rows)


# ---- folding ----

class Block(nn.Module):
    """Convolution, normalisation and activation, in the order in which they run or in another."""

    def __init__(self, is_listed_as_run=True):
        super().__init__()
        layers = dict(conv=nn.Conv2d(3, 4, 3, padding=1, bias=False), norm=nn.BatchNorm2d(4))
        if not is_listed_as_run:
            layers = dict(conv=nn.Conv2d(3, 3, 3, padding=1), norm=nn.BatchNorm2d(3))
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.is_listed_as_run = is_listed_as_run
        for tensor in (self.norm.running_mean, self.norm.running_var, self.norm.weight.data, self.norm.bias.data):
            tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1)) + 0.5)

    def forward(self, x, mode='tensor'):
        return ([self.norm(self.conv(x)) if self.is_listed_as_run else self.conv(self.norm(x))], )


def test_folding_changes_nothing_but_the_layers():
    block, x = Block().eval(), torch.rand(2, 3, 8, 8)
    before = block(x)[0][0]
    assert folding.fold_batch_norms(block) == 1
    assert type(block.norm) is nn.Identity and block.conv.bias is not None
    assert torch.allclose(block(x)[0][0], before, atol=1e-5)


def test_folding_is_undone_where_layers_run_in_another_order():
    block, x = Block(is_listed_as_run=False).eval(), torch.rand(2, 3, 8, 8)
    before = block(x)[0][0]
    assert folding.fold_batch_norms(block) == 0
    assert type(block.norm) is nn.BatchNorm2d and torch.equal(block(x)[0][0], before)
