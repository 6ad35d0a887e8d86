"""What a report knows: right numbers, or none, whatever the data and the detections are."""
import base64
import importlib
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from layouts import CLASSES, make_splits
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gfl_plugin import conformal
from gfl_plugin.analysis import quality
from gfl_plugin.analysis.reading import Scene
from gfl_plugin.card import Card
from gfl_plugin.conformal import Calibration
from gfl_plugin.datasets.annotations import complete
from gfl_plugin.errors import SetupError
from gfl_plugin.inference import ImageError, Result
from gfl_plugin.report import content as content_of
from gfl_plugin.report.content import Subject, read_report
from gfl_plugin.report.history import RULE, draw_curves, judge, read_history
from gfl_plugin.report.mistakes import KINDS, Truth, count_confusions, judge_detections
from gfl_plugin.report.tally import Tally

calibrate = importlib.import_module('gfl_plugin.engine.calibrate')
NAMES = tuple(f'{number}.jpg' for number in range(30))
SIZE = (48, 32)


class Detects:
    """A detector that finds what a function says: boxes, scores and labels for the number of an image."""

    def __init__(self, find, classes=CLASSES, score_thr=0.5, spread=True, calibration=None):
        self.find, self.classes, self.score_thr = find, classes, score_thr
        self.spread, self.calibration = spread, calibration
        self.card = Card(dict(type='GFL'), [], list(classes), score_thr, None, dict(torch='2.6', date='today'))
        self.model = torch.nn.Linear(2, 1)

    def ask_for_distributions(self):
        if not self.spread:
            raise SetupError('it predicts none')

    def stream(self, sources, rgb=False, score_thr=None, on_error=None):
        lowest = self.score_thr if score_thr is None else score_thr
        for number, source in enumerate(sources):
            path = source if isinstance(source, str) else source.name
            if cv2.imread(path) is None:
                on_error(ImageError(path, 'there is no such file'))
                continue
            boxes, scores, labels = self.find(number)
            boxes = np.array(boxes, np.float32).reshape(-1, 4)
            sides = {}
            if self.spread:
                sides = dict(side_std=np.full(boxes.shape, 1 + number, np.float32),
                             side_places=boxes[..., None] + np.arange(-1, 2), side_probs=np.tile([.2, .5, .3], (
                                 len(boxes), 4, 1)))
            result = Result(boxes, np.array(scores, np.float32), np.array(labels, np.int64), self.classes, SIZE,
                            content_of.Source(path, path), calibration=self.calibration, **sides)
            yield result[result.scores >= lowest]


@pytest.fixture(scope='module')
def splits(tmp_path_factory):
    return make_splits(tmp_path_factory.mktemp('data'), {'train': NAMES[:3], 'val': NAMES})


@pytest.fixture
def split(splits):
    """30 images with 0 to 3 objects of three classes, and crosswise some more."""
    found = splits['val']
    content = {key: [dict(entry) for entry in entries] for key, entries in found.content.items()}
    complete(content['annotations'])
    return found._replace(content=content)


def truth_of(split, number):
    """Corners and labels of the objects of an image."""
    entries = [entry for entry in split.content['annotations'] if entry['image_id'] == 7 * number]
    boxes = np.array([entry['bbox'] for entry in entries], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([entry['category_id'] // 3 for entry in entries], int)


def perfect(split):
    def find(number):
        boxes, labels = truth_of(split, number)
        return boxes, np.linspace(0.95, 0.7, len(labels)), labels
    return find


def noisy(split, seed=0):
    """Boxes that are off, some labels wrong, some objects missed, and some boxes of nothing, with all scores."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(len(NAMES)):
        boxes, labels = truth_of(split, number)
        keep = rng.random(len(labels)) < 0.9
        boxes, labels = boxes[keep] + rng.normal(0, 1.5, (keep.sum(), 4)), labels[keep]
        labels = np.where(rng.random(len(labels)) < 0.15, (labels + 1) % 3, labels)
        extra = np.array([[1, 1, 9, 9.0], [20, 2, 44, 30]])
        found.append((np.concatenate([boxes, extra]), np.concatenate([
            rng.uniform(0.4, 1, len(labels)), rng.uniform(0.02, 0.7, 2)]), np.concatenate([labels, [0, 2]])))
    return lambda number: found[number]


def subject(split, run=None, **changes):
    label_of = {category['id']: category['id'] // 3 for category in split.content['categories']}
    return Subject('runs/best.pth', run, 'mine', 'data', 'val', split, **{'label_of': label_of, **changes})


def read(detector, *arguments, **changes):
    found = read_report(detector, subject(*arguments, **changes))
    json.dumps(found, allow_nan=False)
    return found


# ---- numbers ----

def test_metrics_are_those_of_the_metric(split):
    """AP is COCO's over all detections, also those below the threshold of the page."""
    find = noisy(split)
    found = read(Detects(find), split)
    truth = COCO()
    truth.dataset = json.loads(json.dumps(split.content))
    truth.createIndex()
    entries = []
    for number in range(len(NAMES)):
        boxes, scores, labels = find(number)
        boxes = np.float32(boxes)
        entries += [dict(image_id=7 * number, category_id=3 * int(label), score=float(np.float32(score)),
                         bbox=[*map(float, box[:2]), *map(float, box[2:] - box[:2])])
                    for box, score, label in zip(boxes, scores, labels)]
    evaluation = COCOeval(truth, truth.loadRes(entries), 'bbox')
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    names = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m')
    assert [found['metrics'][name] for name in names] == pytest.approx(evaluation.stats[:5], abs=5e-4)
    assert found['metrics']['mAP_l'] is None and evaluation.stats[5] == -1
    assert found['metrics']['AR_100'] == pytest.approx(evaluation.stats[8], abs=5e-4)
    precision = evaluation.eval['precision'][0, :, :, 0, -1]
    curves = found['precision_recall']
    assert curves['mean'] == pytest.approx(precision.mean(1), abs=1e-4) and len(curves['recall']) == 101
    for label in range(3):
        assert curves['classes'][str(label)] == pytest.approx(precision[:, label], abs=1e-4)
        assert found['classes'][label]['AP50'] == pytest.approx(precision[:, label].mean(), abs=5e-4)
        assert found['classes'][label]['AP'] == pytest.approx(
            evaluation.eval['precision'][:, :, label, 0, -1].mean(), abs=5e-4)


def test_counts_agree_with_each_other(split):
    find = noisy(split)
    found = read(Detects(find), split)
    errors, matrix = found['errors'], np.array(found['confusion']['matrix'])
    shown = sum(int((np.float32(find(number)[1]) >= 0.5).sum()) for number in range(len(NAMES)))
    assert sum(errors[kind] for kind in KINDS if kind != 'missed') == shown, 'each detection has one kind'
    assert all(errors[kind] for kind in KINDS if kind != 'duplicate')
    assert errors['definitions'].keys() == KINDS.keys()
    assert matrix[:3].sum(1).tolist() == [one['objects'] for one in found['classes']], 'each object has one place'
    assert matrix[:, :3].sum() == shown
    right = sum(one['recall'] * one['objects'] for one in found['classes'])
    assert right == pytest.approx(errors['correct'])
    about = found['about']
    assert (about['images'], about['objects'], about['parameters']) == (30, matrix[:3].sum(), 3)


def test_perfect_detections(split):
    found = read(Detects(perfect(split)), split)
    assert found['metrics']['mAP'] == 1 and all(one['precision'] == one['recall'] == 1 for one in found['classes'])
    assert {kind: count for kind, count in found['errors'].items() if kind != 'definitions' and count} == dict(
        correct=found['about']['objects'])
    assert found['worst'] == [] and len(found['doubtful']) == 12
    assert found['verdict']['kind'] == 'unknown' and found['training'] is None and found['notes'] == []


def test_quality_is_what_the_study_of_quality_measures(split):
    """On the same detections. The study calls some of them positives, which does not matter here."""
    find = noisy(split)
    found = read(Detects(find), split)['quality']
    boxes, scores, labels = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*map(find, range(len(NAMES)))))
    image = torch.tensor([number for number in range(len(NAMES)) for _ in find(number)[1]])
    objects = [InstanceData(bboxes=torch.tensor(corners, dtype=torch.float32), labels=torch.tensor(known))
               for corners, known in (truth_of(split, number) for number in range(len(NAMES)))]
    iou = quality._best_iou(boxes.float(), labels, image, Scene([], objects, [], [], []))
    half = torch.arange(len(iou)) % 2 == 0
    scores = scores.float()
    study = quality.measure(quality.Scores(scores[half], iou[half], scores[~half], iou[~half], 0, None))['detections']
    assert found['rank_correlation'] == pytest.approx(study['rank_correlation'], abs=1e-9)
    assert (found['count'], found['least_score']) == (study['count'], study['least_score'])
    assert sum(one['count'] for one in found['bins']) == found['count'] == len(found['sample']['score'])
    last = (scores >= 0.9) & (scores < 1)
    assert found['bins'][-1] == pytest.approx(dict(score=float(scores[last].mean()), iou=float(iou[last].mean()),
                                                   count=int(last.sum())))


def test_spreads_and_errors_are_in_pixels(split):
    """Every side of an image is off by one and a half times its spread."""
    def find(number):
        boxes, labels = truth_of(split, number)
        return boxes + 1.5 * min(1 + number, 2) * np.array([1, 0, -1, 0]), np.full(len(labels), 0.9), labels

    found = read(Detects(find), split)
    spread, correct = found['uncertainty'], found['errors']['correct']
    assert sum(one['count'] for one in spread['bins']) == 4 * correct
    assert all(one['error'] <= 3 for one in spread['bins']) and spread['calibration'] is None
    assert spread['bins'][0]['std'] < spread['bins'][-1]['std'] <= 30
    assert set(np.round(spread['sample']['error'], 3)) <= {0, 1.5, 3}


# ---- coverage ----

def fit(split, find, seed=0):
    """Calibrate as the tool does."""
    matched = calibrate.match_split(Detects(find), split).matched
    return conformal.fit(matched.select(conformal.first_half(matched.image, seed)), 0.8, 0.5), matched


def test_coverage_is_measured_on_the_half_that_was_not_fitted(split):
    find = noisy(split)
    calibration, matched = fit(split, find)
    found = read(Detects(find, calibration=calibration), split)['uncertainty']['calibration']
    other = conformal.evaluate(calibration, matched.select(~conformal.first_half(matched.image, 0)))
    assert (found['sides'], found['boxes'], found['coverage']) == (other['sides'], other['boxes'], 0.8)
    assert 'on the other half' in found['note']


def test_coverage_on_other_images_is_of_all_of_them(split):
    calibration, _ = fit(split, noisy(split, seed=1))
    find = noisy(split)
    found = read(Detects(find, calibration=calibration), split)['uncertainty']['calibration']
    expected = conformal.evaluate(calibration, fit(split, find)[1])
    assert (found['sides'], found['boxes']) == (expected['sides'], expected['boxes'])
    assert 'does not say which images' in found['note']


def test_coverage_counts_only_scores_that_the_calibration_is_for(split):
    find = noisy(split)
    calibration = Calibration(0.9, 2, 3, 4, 5, 0.5, 10, 5, score_thr=0.8)
    found = read(Detects(find, score_thr=0.1, calibration=calibration), split)['uncertainty']['calibration']
    assert found['detections'] == sum(((np.float32(find(number)[1]) >= 0.8) & (np.array(judge_detections(
        *(np.asarray(part) for part in find(number)), _truth(split, number)).kinds) == 'correct')).sum()
        for number in range(len(NAMES)))


def _truth(split, number):
    boxes, labels = truth_of(split, number)
    return Truth(boxes, labels, np.zeros(len(labels), bool))


@pytest.mark.parametrize('coverage, detections', [(0.9, 10), (0.9, 0), (0, 0)])
def test_intervals_without_matches_have_no_coverage(coverage, detections, split):
    """Whatever the calibration of a stranger says."""
    calibration = Calibration(coverage, 2, 3, 4, 5, 0.5, detections, 5, score_thr=0.5)
    found = read(Detects(lambda number: ([], [], []), calibration=calibration), split)['uncertainty']
    assert found['bins'] == [] and found['calibration']['sides']['coverage'] is None


# ---- kinds of error ----

BOX, SHIFTED, FAR = [0, 0, 10, 10], [6, 0, 16, 10], [30, 30, 40, 40]  # IoU of the first two: 0.25


@pytest.mark.parametrize('boxes, labels, gt_boxes, gt_labels, kinds, missed', [
    ([BOX], [0], [BOX], [0], ['correct'], [False]),
    ([BOX, BOX], [0, 0], [BOX], [0], ['correct', 'duplicate'], [False]),
    ([BOX], [1], [BOX], [0], ['wrong_class'], [False]),
    ([SHIFTED], [0], [BOX], [0], ['poorly_placed'], [False]),
    ([SHIFTED], [1], [BOX], [0], ['poorly_placed'], [True]),  # of another class: the object is missed as well
    ([FAR], [0], [BOX], [0], ['background'], [True]),
    ([], [], [BOX, FAR], [0, 1], [], [True, True]),
    ([BOX, FAR], [0, 1], [], [], ['background', 'background'], []),
    ([BOX], [0], [SHIFTED, BOX], [0, 1], ['poorly_placed'], [False, True]),  # TIDE looks at its own class first
    ([BOX, BOX], [0, 1], [BOX], [0], ['correct', 'wrong_class'], [False]),
    ([], [], [], [], [], [])])
def test_kinds_of_error(boxes, labels, gt_boxes, gt_labels, kinds, missed):
    truth = Truth(np.array(gt_boxes, float).reshape(-1, 4), np.array(gt_labels, int), np.zeros(len(gt_labels), bool))
    found = judge_detections(np.array(boxes, float).reshape(-1, 4), np.linspace(0.9, 0.8, len(labels)),
                             np.array(labels, int), truth)
    assert found.kinds == kinds and found.missed.tolist() == missed


def test_crowds_count_neither_way(split):
    """A crowd is no object, and a detection in it is no error."""
    truth = Truth(np.array([FAR, BOX], float), np.array([0, 0]), np.array([True, False]))
    found = judge_detections(np.array([FAR, BOX], float), np.array([0.9, 0.8]), np.array([0, 0]), truth)
    assert found.kinds == ['ignored', 'correct'] and found.gt_index.tolist() == [-1, 0]
    assert found.missed.tolist() == [False]
    matrix = np.zeros((3, 3), int)
    count_confusions(matrix, np.array([FAR, BOX], float), np.array([0.9, 0.8]), np.array([0, 1]), truth)
    assert matrix.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    for entry in split.content['annotations']:
        entry['iscrowd'] = 1
    found = read(Detects(perfect(split)), split)
    assert found['about']['objects'] == found['quality']['count'] == 0
    assert all(image['truth'] == image['found'] == [] for image in found['images'])
    assert all(count == 0 for kind, count in found['errors'].items() if kind != 'definitions')


def test_confusions_by_hand():
    """The best score takes the object, whatever its class."""
    matrix = np.zeros((3, 3), int)
    truth = Truth(np.array([BOX, FAR], float), np.array([0, 1]), np.zeros(2, bool))
    count_confusions(matrix, np.array([BOX, BOX, SHIFTED], float), np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1]),
                     truth)
    assert matrix.tolist() == [[0, 1, 0], [0, 0, 1], [1, 1, 0]]


# ---- images ----

def test_the_worst_and_the_most_doubtful_images_come_first(split):
    """Each image has one box of nothing more than the one before it; so has the doubt."""
    def find(number):
        return [FAR[:2] + [40, 31]] * (number % 15), [0.9] * (number % 15), [2] * (number % 15)

    found = read(Detects(find), split)
    assert len(found['worst']) == len(found['doubtful']) == 12
    errors = [sum(count for kind, count in found['images'][index]['counts'].items() if kind != 'correct')
              for index in found['worst']]
    assert errors == sorted(errors, reverse=True) and errors[0] == max(
        number % 15 + len(truth_of(split, number)[1]) for number in range(30))
    doubts = [found['images'][index]['doubt'] for index in found['doubtful']]
    assert doubts == sorted(doubts, reverse=True) and None not in doubts
    assert len({image['file'] for image in found['images']}) == len(found['images']) <= 24


def test_an_image_has_what_its_viewer_needs(split, tmp_path):
    big = np.random.default_rng(0).integers(0, 255, (900, 1500, 3), np.uint8)
    cv2.imwrite(str(tmp_path / '29.jpg'), big)
    split.content['images'] = split.content['images'][-1:]
    split = split._replace(images=str(tmp_path))
    boxes, labels = truth_of(split, 29)
    found = read(Detects(lambda number: (boxes[:1] + 1 / 3, [0.75], labels[:1])), split)
    image = found['images'][0]
    jpeg = base64.b64decode(image['src'].removeprefix('data:image/jpeg;base64,'))
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image['view'] == [720, 432] == [picture.shape[1], picture.shape[0]]
    assert (image['width'], image['height'], image['file']) == (*SIZE, '29.jpg'), 'the size that the detector saw'
    assert [one['missed'] for one in image['truth']] == [False] + [True] * (len(labels) - 1)
    assert image['truth'][0] == dict(box=boxes[0].tolist(), name=CLASSES[labels[0]], missed=False)
    one, = image['found']
    assert one['box'] == np.round(boxes[0] + 1 / 3, 2).tolist() and one['kind'] == 'correct' and one['score'] == 0.75
    assert one['std'] == [1] * 4 and one['probs'] == [[.2, .5, .3]] * 4
    assert np.array(one['places']).shape == (4, 3)
    assert image['counts']['missed'] == len(labels) - 1


def test_images_that_are_gone_are_left_out_and_named(split):
    find = noisy(split)
    before = read(Detects(find), split)
    entry = dict(split.content['images'][0], id=999, file_name='gone <b>.jpg')
    split.content['images'].append(entry)
    split.content['annotations'].append(dict(split.content['annotations'][0], id=9999, image_id=999))
    after = read(Detects(find), split)
    for part in ('metrics', 'classes', 'errors', 'confusion', 'quality', 'about'):
        assert after[part] == before[part], part
    assert after['notes'] == ['1 of the 31 images cannot be read (gone <b>.jpg). All numbers are of the others.']
    split.content['images'] = [entry]
    with pytest.raises(SetupError, match=r'None of the 1 images of data can be read.*gone <b>.jpg: there is no such'):
        read(Detects(find), split)


def test_an_image_that_goes_meanwhile_has_no_picture(split, monkeypatch):
    def image(self):
        raise ImageError('x', 'gone')

    monkeypatch.setattr(Result, 'image', image)
    found = read(Detects(noisy(split)), split)
    assert found['images'] and all(one['src'] is one['view'] is None and one['truth'] for one in found['images'][:1])


def test_an_unreadable_image_between_others_shifts_nothing(split):
    """The detections of each image stay with its own objects."""
    entry = dict(split.content['images'][0], id=999, file_name='gone.jpg')
    split.content['images'].insert(1, entry)
    find = perfect(split)
    found = read(Detects(lambda number: find(number - (number > 1))), split)
    assert found['metrics']['mAP'] == 1 and found['about']['images'] == 30


# ---- degenerate ----

def test_no_detections(split):
    found = read(Detects(lambda number: ([], [], [])), split)
    assert found['metrics']['mAP'] == 0 and found['metrics']['AR_100'] == 0
    assert all((one['AP'], one['AP50'], one['precision'], one['recall']) == (0, 0, None, 0)
               for one in found['classes'])
    assert found['errors']['missed'] == found['about']['objects'] and found['errors']['correct'] == 0
    assert found['precision_recall']['mean'] == [0] * 101
    assert found['quality']['bins'] == [] and found['quality']['rank_correlation'] is None
    assert found['uncertainty']['bins'] == [] and found['doubtful'] == [] and len(found['worst']) == 12


@pytest.mark.parametrize('find', [lambda number: ([], [], []), lambda number: ([BOX], [0.9], [0])])
def test_no_objects(split, find):
    split.content['annotations'] = []
    found = read(Detects(find), split)
    assert set(found['metrics'].values()) == {None} and found['precision_recall']['classes'] == {}
    assert found['precision_recall']['mean'] == [None] * 101
    assert all(one['AP'] is one['AP50'] is one['precision'] is one['recall'] is None for one in found['classes'])
    assert found['errors']['background'] == sum(len(find(0)[1]) for _ in range(30)) and found['errors']['missed'] == 0


@pytest.mark.parametrize('count', [1, 500])
def test_any_number_of_classes(split, count):
    """The classes with objects keep their curves and their confusions."""
    names = [f'class {number} <script>' for number in range(count)]
    split.content['categories'] = [dict(id=3 * number, name=name) for number, name in enumerate(names)]
    split.content['annotations'] = [dict(entry, category_id=3 * (entry['category_id'] // 3 * 7 % count))
                                    for entry in split.content['annotations']]
    found = read(Detects(perfect(split), classes=tuple(names)), split)
    known = {one['name'] for one in found['classes'] if one['objects']}
    labels = found['confusion']['labels']
    assert len(found['classes']) == count and labels[-1] == 'background'
    assert len(labels) == min(count, 20) + 1 and found['metrics']['mAP'] == 1
    assert {names[int(index)] for index in found['precision_recall']['classes']} == known
    assert found['confusion']['shown'] == ('all' if count == 1 else 'the 20 classes with the most confusions')
    assert all(one['AP'] is None for one in found['classes'] if not one['objects'])


def test_the_most_confused_classes_are_shown(split):
    names = tuple(f'class {number}' for number in range(50))
    for number, category in enumerate(split.content['categories']):
        category['name'] = names[40 + number]
    find = perfect(split)
    found = read(Detects(lambda number: (*find(number)[:2], find(number)[2] + 43), classes=names), split,
                 label_of={3 * number: 40 + number for number in range(3)})
    assert [name for name in found['confusion']['labels'] if name != 'background'][-6:] == list(names[40:46])
    assert found['errors']['correct'] == 0 and found['errors']['wrong_class'] > 0


def test_classes_that_only_one_side_knows_are_noted(split):
    """Objects that the detector cannot know are left out; its own classes without objects have no AP."""
    split.content['categories'][0]['name'] = 'strange'
    classes = ('new', *CLASSES[1:])
    found = read(Detects(perfect(split), classes=classes), split, label_of={0: -1, 3: 1, 6: 2})
    assert found['notes'] == [
        'The detector does not know 1 classes of the data (strange). Their objects are left out.',
        'The data have no class new, which the detector knows.']
    assert found['classes'][0]['AP'] is None and found['metrics']['mAP'] == 1
    assert found['errors']['background'] > 0, 'there is nothing that the detector should have called new'


def test_a_detector_without_distributions(split):
    found = read(Detects(noisy(split), spread=False), split)
    assert found['uncertainty'] is None and found['doubtful'] == [] and len(found['worst']) == 12
    assert 'does not say how far' in found['notes'][0]
    assert all(one['std'] is one['places'] is one['probs'] is None for image in found['images']
               for one in image['found'])


def test_notes_and_names_come_through(split):
    found = read(Detects(perfect(split)), split, notes=['The first.'])
    assert found['notes'] == ['The first.'] and found['title'] == 'best.pth'
    assert found['about']['trained_on'] is None and found['about']['trained_with']['torch'] == '2.6'
    assert 'date' not in found['versions'] and found['versions']['torch'] == torch.__version__


def test_the_logger_is_as_before(split):
    logger = MMLogger.get_current_instance()
    before = logger.level
    read(Detects(noisy(split)), split)
    assert logger.level == before


# ---- the training ----

def write_log(folder, start, lines):
    path = folder / start / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(line if isinstance(line, str) else json.dumps(line) + '\n' for line in lines))


def iteration(step, loss=1.0, per_epoch=10, **more):
    return dict(loss=loss, loss_cls=loss / 2, lr=0.1, time=1.0, epoch=(step - 1) // per_epoch + 1, iter=step, step=step,
                **more)


def validation(step, ap):
    return {'coco/bbox_mAP': ap, 'coco/bbox_mAP_50': ap, 'coco/bbox_mAP_l': -1.0, 'step': step, 'time': 1.0}


def test_a_resumed_run_is_one_curve(tmp_path):
    """The second start goes on after epoch 1. What the first one had logged later does not count."""
    write_log(tmp_path, '20260101_000000', [
        iteration(5, 3), iteration(10, 2), validation(1, 0.1), iteration(15, 9), iteration(20, 9), validation(2, 0.9),
        iteration(30, 9), validation(3, 0.9), '{"loss": 1, "st'])
    write_log(tmp_path, '20260102_000000', [iteration(12, 1.5), iteration(20, 1), validation(2, 0.2)])
    write_log(tmp_path, '20260103_000000', ['', 'not JSON\n', '[]\n', '{"step": "x"}\n'])
    found = draw_curves(read_history(str(tmp_path)))
    assert found['loss']['iteration'] == [5, 10, 12, 20] and found['loss']['loss'] == [3, 2, 1.5, 1]
    assert found['loss']['epoch'] == [1, 1, 2, 2] and found['loss']['loss_cls'] == [1.5, 1, 0.75, 0.5]
    assert found['val'] == dict(unit='epoch', epoch=[1, 2], iteration=[10, 20], mAP=[0.1, 0.2], mAP_50=[0.1, 0.2],
                                mAP_75=[None, None])
    assert found['lr']['lr'] == [0.1] * 4 and found['thinning'] is None and found['val_loss'] is None


def test_values_that_are_no_numbers(tmp_path):
    write_log(tmp_path, '20260101_000000', [
        '{"loss": NaN, "lr": Infinity, "epoch": 1, "step": 1}\n', '{"loss": 1, "loss_bbox": "x", "step": 2}\n',
        '{"coco/bbox_mAP": NaN, "step": 1}\n'])
    found = draw_curves(read_history(str(tmp_path)))
    assert found['loss'] == dict(iteration=[1, 2], epoch=[1, None], loss=[None, 1], loss_bbox=[None, None])
    assert found['lr']['lr'] == [None, None] and found['val']['mAP'] == [None]
    assert judge(read_history(str(tmp_path)))['kind'] == 'unknown'


def test_long_curves_are_thinned(tmp_path):
    write_log(tmp_path, '20260101_000000', [iteration(step, loss=step) for step in range(1, 2502)])
    found = draw_curves(read_history(str(tmp_path)))
    assert len(found['loss']['loss']) == len(found['loss']['iteration']) == len(found['lr']['lr']) == 834
    assert found['loss']['iteration'][:2] == [3, 6] and found['loss']['loss'][:2] == [2, 5]
    assert found['loss']['iteration'][-1] == 2501 and found['thinning'].endswith('the mean of 3 logged values')


def test_a_run_that_counts_iterations(tmp_path):
    lines = [{key: value for key, value in iteration(step).items() if key != 'epoch'} for step in (50, 100)]
    write_log(tmp_path, '20260101_000000', [*lines, validation(100, 0.3)])
    found = draw_curves(read_history(str(tmp_path)))
    assert found['val']['unit'] == 'iteration' and found['val']['epoch'] == [100]
    assert found['loss']['epoch'] == [None, None]


def test_no_log(tmp_path):
    write_log(tmp_path, '20260101_000000', [])
    assert read_history(str(tmp_path)) is None and read_history(str(tmp_path / 'none')) is None


@pytest.mark.parametrize('aps, losses, kind, words', [
    ([], [3, 2], 'unknown', 'never validated'),
    ([0.5], [3], 'unknown', 'validated once'),
    ([0.1, 0.5], [3, 2], 'unknown', 'validated twice'),
    ([0.1, 0.2, 0.3], [3, 2, 1], 'improving', '0.300 after epoch 3, up 0.100 since epoch 2'),
    ([0.1, 0.3, 0.305], [3, 2, 1], 'settled', 'its best is 0.305 after epoch 3'),
    ([0.1, 0.3, 0.29], [3, 2, 1], 'settled', 'its best is 0.300 after epoch 2, its last 0.290'),
    ([0.1, 0.4, 0.3], [3, 2, 1], 'overfitted', 'fell from 0.400 after epoch 2 to 0.300 after epoch 3'),
    ([0.1, 0.4, 0.3], [3, 1, 2], 'settled', 'no overfitting'),
    ([0.1, 0.2, 0.3, 0.4, 0.5, 0.505], [6, 5, 4, 3, 2, 1], 'improving', 'up 0.105 since epoch 4'),  # of two validations
    ([0.3, 0.3, 0.3], [3, 2, 1], 'settled', 'settled'),
    ([0.0, 0.0, -1.0], [3, 2, 1], 'unknown', 'validated twice')])
def test_verdicts(tmp_path, aps, losses, kind, words):
    lines = []
    for epoch, loss in enumerate(losses, 1):
        lines += [iteration(10 * epoch - 5, loss), iteration(10 * epoch, loss)]
        lines += [validation(epoch, aps[epoch - 1])] if epoch <= len(aps) else []
    write_log(tmp_path, '20260101_000000', lines)
    found = judge(read_history(str(tmp_path)))
    assert (found['kind'], found['rule']) == (kind, RULE) and words in found['sentence']


def test_the_run_is_part_of_the_report(split, tmp_path):
    write_log(tmp_path / 'my_run', '20260101_000000', [iteration(10), validation(1, 0.5)])
    found = read(Detects(perfect(split)), split, run=str(tmp_path / 'my_run'))
    assert found['title'] == 'my_run' and found['about']['epochs'] == 1
    assert found['verdict']['sentence'].startswith('The run was validated once')
    assert found['training']['val']['mAP'] == [0.5]


def test_memory_does_not_grow_with_the_distributions(split):
    """The tally holds whole results of as many images as the page shows, and no more."""
    tally = Tally(3, 0.5)
    detector = Detects(noisy(split))
    paths = [SimpleNamespace(name=f'{split.images}/{name}') for name in NAMES]
    for number, result in enumerate(detector.stream(paths)):
        tally.add(str(number), result, _truth(split, number))
    assert len(tally._worst) <= 12 and len(tally._doubtful) <= 12
    kept = sum(array.nbytes for arrays in tally._matched for array in arrays)
    assert kept < 200 * tally.objects.sum()
