"""Task-aligned assignment of a batch equals MMDetection's assigner, and YOLOv8's rules written as a loop."""
import pytest
import torch
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from reference import grids_of, random_objects

from gfl_plugin import matches
from gfl_plugin.assigners import task_aligned
from gfl_plugin.functional.boxes import ciou
from gfl_plugin.functional.priors import all_priors, num_priors, usable_priors
from gfl_plugin.matches import GroundTruths

CLASSES = 8


class Peek:
    """Random predictions: boxes near their priors, and scores."""

    def __init__(self, grids, images):
        priors = all_priors(grids).boxes()
        self.predicted = priors + torch.randn(images, *priors.shape) * 12
        self.scores = torch.rand(images, len(priors), CLASSES)

    def boxes(self):
        return self.predicted

    def scores_of(self, image, label):
        return self.scores.transpose(1, 2)[image, label]


def case(counts, height=256, width=320, border=-1):
    grids = grids_of(height, width)
    unpadded = [(height - 40 * (i % 2), width - 60 * ((i + 1) % 2)) for i in range(len(counts))]
    objects, metas = random_objects(counts, height, width, CLASSES, unpadded)
    ranges = [[g.cells_in(m['img_shape'], m['pad_shape'], border) for g in grids] for m in metas]
    truth = GroundTruths.of([gt.bboxes for gt in objects], [gt.labels for gt in objects], [None] * len(counts), ranges,
                            CLASSES)
    return grids, objects, truth, Peek(grids, len(counts))


def dense(m, grids, truth):
    """Spread matches over (B, P): index of the ground truth of each prior, -1 for none, and its score."""
    shape = len(truth.counts), num_priors(grids)
    gt, score = torch.full(shape, -1), torch.zeros(shape)
    valid = slice(None) if m.valid is None else m.valid
    gt[m.image[valid], m.prior[valid]] = m.gt[valid]
    score[m.image[valid], m.prior[valid]] = m.soft_score[valid]
    return gt, score


def by_mmdetection(grids, objects, truth, peek):
    """Assign with MMDetection: (B, P) index of the ground truth, score (scaled as TOODHead does), and raw metric."""
    assigner = TASK_UTILS.build(dict(type='mmdet.TaskAlignedAssigner', topk=13))
    priors, usable = all_priors(grids).boxes(), usable_priors(grids, truth.usable_cells, 'cpu')
    gts, scores, metrics, first = [], [], [], 0
    for image, gt in enumerate(objects):
        index = torch.arange(len(priors)) if usable is None else usable[image].nonzero()[:, 0]
        result = assigner.assign(InstanceData(priors=priors[index], bboxes=peek.predicted[image, index],
                                              scores=peek.scores[image, index]), gt)
        score, metric = torch.zeros(len(priors)), torch.zeros(len(priors))
        for i in range(len(gt)):
            own = result.gt_inds == i + 1
            if own.any():
                t = result.assign_metrics[own]
                score[index[own]] = t / (t.max() + 10e-8) * result.max_overlaps[own].max()
                metric[index[own]] = t
        found = torch.full((len(priors), ), -1)
        found[index] = torch.where(result.gt_inds > 0, result.gt_inds - 1 + first, -1)
        gts.append(found), scores.append(score), metrics.append(metric)
        first += len(gt)
    return torch.stack(gts), torch.stack(scores), torch.stack(metrics)


@pytest.mark.parametrize('slots', [False, True])
@pytest.mark.parametrize('pairs', [task_aligned.PAIRS, 5000])  # 5000 pairs are only a few objects at a time
@pytest.mark.parametrize('counts, border', [((5, 0, 12), -1), ((0, 0), -1), ((40, 3), 0), ((1, ), -1)])
def test_same_as_mmdetection(counts, border, pairs, slots, monkeypatch):
    monkeypatch.setattr(task_aligned, 'PAIRS', pairs)
    if slots:
        monkeypatch.setattr(matches, 'can_be_read_at_once', lambda x: False)
    grids, objects, truth, peek = case(counts, border=border, height=512 if border == 0 else 256, width=512)
    m = TASK_UTILS.build(dict(type='gfl_plugin.TaskAlignedAssigner')).match(grids, truth, peek)
    gt, score = dense(m, grids, truth)
    expected_gt, expected_score, metric = by_mmdetection(grids, objects, truth, peek)
    assert sum(counts) == 0 or (expected_gt >= 0).any(), 'the case should have positives to compare'
    assert gt.equal(expected_gt), 'every prior should belong to the same object as in MMDetection'
    assert torch.allclose(score, expected_score, rtol=1e-5, atol=1e-7), 'the soft scores should be equal'

    found = TASK_UTILS.build(dict(type='gfl_plugin.TaskAlignedAssigner')).align(
        all_priors(grids).center, usable_priors(grids, truth.usable_cells, 'cpu'), peek.boxes(), peek.scores_of, truth)
    for i, image in enumerate(truth.image.tolist()):  # compare the raw metric where MMDetection returns it
        t = torch.zeros(num_priors(grids)).scatter(0, found.prior[i], found.metric[i].clamp(min=0))
        own = expected_gt[image] == i
        assert torch.allclose(t[own], metric[image][own], rtol=1e-5), 'the alignment metric should be equal'


def test_yolov8_by_a_loop():
    """Take priors inside the box first, then rank them by score^(1/2) CIoU^6, in loops over objects and priors."""
    grids, _, truth, peek = case((7, 4))
    center = all_priors(grids).center
    m = TASK_UTILS.build(dict(type='gfl_plugin.TaskAlignedAssigner', variant='yolov8')).match(grids, truth, peek)
    claims = {}
    for g, (box, label, image) in enumerate(zip(truth.boxes, truth.labels, truth.image.tolist())):
        inside = ((center > box[:2] + 0.01) & (center < box[2:] - 0.01)).all(1).nonzero()[:, 0]
        overlap = ciou(peek.predicted[image, inside], box).clamp(min=0)
        metric = peek.scores[image, inside, label]**0.5 * overlap**6
        for i in metric.argsort(descending=True)[:10].tolist():
            if metric[i] > 0:
                claims.setdefault((image, inside[i].item()), []).append((overlap[i].item(), g, metric[i].item()))
    winners = {place: max(claimed) for place, claimed in claims.items()}
    assert dict(zip(zip(m.image.tolist(), m.prior.tolist()), m.gt.tolist())) == {
        place: g for place, (_, g, _) in winners.items()}
    for (image, prior), score in zip(zip(m.image.tolist(), m.prior.tolist()), m.soft_score.tolist()):
        _, g, metric = winners[image, prior]
        own = [w for w in winners.values() if w[1] == g]
        expected = metric / max(t for _, _, t in own) * max(overlap for overlap, _, _ in own)
        assert score == pytest.approx(expected, rel=1e-3)


def test_the_variants_differ():
    grids, _, truth, peek = case((9, 9))
    found = [TASK_UTILS.build(dict(type='gfl_plugin.TaskAlignedAssigner', variant=v)).match(grids, truth, peek)
             for v in ('tood', 'yolov8')]
    assert not torch.equal(*(dense(m, grids, truth)[0] for m in found))


def test_batch_of_two_is_two_singles():
    grids, objects, truth, peek = case((6, 8))
    assigner = TASK_UTILS.build(dict(type='gfl_plugin.TaskAlignedAssigner'))
    together = dense(assigner.match(grids, truth, peek), grids, truth)
    for i, first in ((0, 0), (1, 6)):
        alone_truth = GroundTruths.of([objects[i].bboxes], [objects[i].labels], [None], truth.usable_cells[i:i + 1],
                                      CLASSES)
        alone_peek = Peek(grids, 1)
        alone_peek.predicted, alone_peek.scores = peek.predicted[i:i + 1], peek.scores[i:i + 1]
        gt, score = dense(assigner.match(grids, alone_truth, alone_peek), grids, alone_truth)
        assert torch.where(gt >= 0, gt + first, -1)[0].equal(together[0][i]), 'an image should not affect the other'
        assert torch.allclose(score[0], together[1][i])


def test_objects_of_no_class_are_background():
    grids, objects, truth, peek = case((5, 3))
    objects[0].labels = torch.tensor([-1, CLASSES, 10**6, -7, 2])
    truth = GroundTruths.of([gt.bboxes for gt in objects], [gt.labels for gt in objects], [None] * 2,
                            truth.usable_cells, CLASSES)
    m = TASK_UTILS.build(dict(type='gfl_plugin.TaskAlignedAssigner')).match(grids, truth, peek)
    assert set(m.gt.tolist()) <= {4, 5, 6, 7} and len(m.gt), 'only objects with a valid class should have positives'
    assert m.num_positives == len(m.gt)


@pytest.mark.parametrize('arguments, named', [(dict(topk=0), 'topk=0'), (dict(variant='yolov5'), 'yolov5.*tood')])
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        TASK_UTILS.build(dict(type='gfl_plugin.TaskAlignedAssigner', **arguments))
