"""Detections are matched to ground truths as COCO does, and the threshold of the best F1 follows."""
import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gfl_plugin.evaluation.matching import ABSORBED, UNMATCHED, best_f1, match_detections

BOX, NEAR, FAR = [0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]  # the IoU of the first two is 0.8


def match(boxes, scores, gt_boxes, labels=None, gt_labels=None, ignored=None, **options):
    return match_detections(np.array(boxes, float).reshape(-1, 4), np.array(scores, float),
                            np.array(labels or [0] * len(boxes)), np.array(gt_boxes, float).reshape(-1, 4),
                            np.array(gt_labels or [0] * len(gt_boxes)),
                            np.array(ignored or [False] * len(gt_boxes)), **options)


def test_the_highest_score_takes_the_object():
    found = match([NEAR, BOX, FAR], [.9, .8, .7], [BOX])
    assert found.gt_index.tolist() == [0, UNMATCHED, UNMATCHED], 'the better box comes too late'
    assert found.iou.tolist() == pytest.approx([.8, 0, 0])


def test_a_detection_takes_the_free_object_of_the_highest_iou():
    found = match([BOX, BOX, BOX], [.9, .8, .7], [NEAR, BOX])
    assert found.gt_index.tolist() == [1, 0, UNMATCHED] and found.iou.tolist() == pytest.approx([1, .8, 0])


def test_the_class_must_be_the_same():
    assert match([BOX, BOX], [.9, .8], [BOX], labels=[1, 0]).gt_index.tolist() == [UNMATCHED, 0]


def test_the_threshold_itself_is_enough():
    assert match([[0, 0, 10, 5]], [.9], [BOX]).gt_index.tolist() == [0]
    assert match([[0, 0, 10, 5]], [.9], [BOX], iou_thr=.51).gt_index.tolist() == [UNMATCHED]


def test_an_ignored_region_absorbs_what_no_object_takes():
    region = [0, 0, 100, 100]  # each box lies within it, so the overlap is 1 by the detection's area
    found = match([BOX, BOX, FAR, [200, 200, 210, 210]], [.9, .8, .7, .6], [region, BOX], ignored=[True, False])
    assert found.gt_index.tolist() == [1, ABSORBED, ABSORBED, UNMATCHED]


@pytest.mark.parametrize('boxes, truth', [([], []), ([BOX], []), ([], [BOX])])
def test_nothing_to_match(boxes, truth):
    assert match(boxes, [.5] * len(boxes), truth).gt_index.tolist() == [UNMATCHED] * len(boxes)


def test_matching_agrees_with_pycocotools():
    """30 images with 3 classes, crowds, equal scores and equal boxes."""
    rng = np.random.default_rng(0)
    images, truth, detections = range(1, 31), [], []
    for image in images:
        corner, size = rng.integers(0, 60, (8, 2)), rng.integers(10, 40, (8, 2))
        for box in np.concatenate([corner, size], 1).astype(float).tolist():
            truth.append(dict(id=len(truth) + 1, image_id=image, category_id=int(rng.integers(3)), bbox=box,
                              area=box[2] * box[3], iscrowd=int(rng.random() < .25)))
            for _ in range(4):
                near = (np.array(box) + rng.integers(-5, 6, 4)).clip(1).tolist()
                detections.append(dict(image_id=image, category_id=int(rng.integers(3)), bbox=near,
                                       score=float(rng.integers(1, 20)) / 20))
    coco = COCO()
    coco.dataset = dict(images=[dict(id=image, width=100, height=100) for image in images], annotations=truth,
                        categories=[dict(id=index, name=str(index)) for index in range(3)])
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), 'bbox')
        evaluation.params.iouThrs = np.array([.5])
        evaluation.evaluate()
    theirs = {number: (match, bool(ignored)) for part in evaluation.evalImgs if part and part['aRng'] == [0, 1e10]
              for number, match, ignored in zip(part['dtIds'], part['dtMatches'][0], part['dtIgnore'][0])}
    kinds = set()
    for image in images:
        mine = [(number, one) for number, one in enumerate(detections, 1) if one['image_id'] == image]
        objects = [one for one in truth if one['image_id'] == image]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (one['bbox'] for _, one in mine)]
        gt_corners = [[x, y, x + w, y + h] for x, y, w, h in (one['bbox'] for one in objects)]
        found = match(corners, [one['score'] for _, one in mine], gt_corners, [one['category_id'] for _, one in mine],
                      [one['category_id'] for one in objects], [bool(one['iscrowd']) for one in objects])
        for (number, _), index in zip(mine, found.gt_index.tolist()):
            match_id, ignored = theirs[number]
            expected = ABSORBED if ignored else UNMATCHED if match_id == 0 else match_id
            assert (objects[index]['id'] if index >= 0 else index) == expected, f'detection {number}'
            kinds.add(min(index, 0))
    assert kinds == {0, UNMATCHED, ABSORBED}, 'there should be detections of each kind'


def test_best_f1_by_hand():
    """Keeping 1 to 5 detections, F1 is 2/5, 4/6, 4/7, 6/8 and 6/9 with 4 objects."""
    best = best_f1(np.array([.9, .8, .7, .6, .2]), np.array([True, True, False, True, False]), 4)
    assert best == pytest.approx((.75, .4)), 'halfway between .6 and .2'


def test_best_f1_does_not_depend_on_the_order():
    best = best_f1(np.array([.2, .7, .9, .6, .8]), np.array([False, False, True, True, True]), 4)
    assert best == pytest.approx((.75, .4))


def test_equal_scores_are_kept_together():
    """After the first .5, F1 would be 4/5. No threshold separates it from the other .5, so it is 2/4 or 4/6."""
    assert best_f1(np.array([.9, .5, .5, .1]), np.array([True, True, False, False]), 3) == pytest.approx((4 / 6, .3))


def test_equal_f1_take_the_higher_threshold():
    """With one of two objects found first, and the other after two false ones, F1 is 2/3, 2/4, 2/5, 4/6."""
    best = best_f1(np.array([.9, .8, .7, .6]), np.array([True, False, False, True]), 2)
    assert best == pytest.approx((2 / 3, .85))


def test_the_lowest_score_is_compared_with_0():
    assert best_f1(np.array([.6]), np.array([True]), 1) == pytest.approx((1, .3))


@pytest.mark.parametrize('is_true, num_truth', [([], 3), ([False], 3), ([False], 0)])
def test_without_objects_or_right_detections_there_is_no_threshold(is_true, num_truth):
    assert best_f1(np.array([.5] * len(is_true)), np.array(is_true, bool), num_truth) is None
