"""The batched assigner gives MMDetection's ATSS, and breaks ties always in the same way."""
import pytest
import torch
from mmdet.models.task_modules import BboxOverlaps2D
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from reference import grids_of, random_objects

from gfl_plugin.assigners.atss import nearest_priors, window
from gfl_plugin.functional.boxes import iou
from gfl_plugin.functional.priors import all_priors, num_priors, stack_grids
from gfl_plugin.matches import GroundTruths


def everywhere(grids, images=1):
    return [[(0, 0, g.width, g.height) for g in grids]] * images


def match(grids, ranges, *boxes, topk=9):
    """Assign with our assigner: (B, P) index of the ground truth of each prior, -1 for none."""
    labels = [torch.zeros(len(b), dtype=torch.long) for b in boxes]
    truth = GroundTruths.of(boxes, labels, [None] * len(boxes), ranges, 1)
    m = TASK_UTILS.build(dict(type='gfl_plugin.ATSSAssigner', topk=topk)).match(grids, truth)
    assert len(set(zip(m.image.tolist(), m.prior.tolist()))) == len(m.prior), 'a prior should be positive at most once'
    result = torch.full((len(boxes), num_priors(grids)), -1)
    result[m.image, m.prior] = m.gt
    return result


def reference_assignment(grids, ranges, objects, topk):
    """Assign with MMDetection's assigner, one image at a time; the result is that of :func:`match`."""
    assigner = TASK_UTILS.build(dict(type='mmdet.ATSSAssigner', topk=topk))
    priors = all_priors(grids).boxes()
    result, first = torch.full((len(objects), len(priors)), -1), 0
    for image, gt in enumerate(objects):
        inside = torch.cat([torch.tensor([[x0 <= x < x1 and y0 <= y < y1 for x in range(g.width)]
                                          for y in range(g.height)]).flatten()
                            for g, (x0, y0, x1, y1) in zip(grids, ranges[image])])
        found = assigner.assign(InstanceData(priors=priors[inside]),
                                [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in ranges[image]], gt).gt_inds
        result[image, inside.nonzero()[:, 0]] = torch.where(found > 0, found - 1 + first, -1)
        first += len(gt)
    return result


@pytest.mark.parametrize('topk', [1, 2, 9, 20])
@pytest.mark.parametrize('border', [-1, 0, 10])
@pytest.mark.parametrize('height, width, counts', [(256, 320, (5, 0, 12)), (640, 544, (40, 3)), (100, 900, (8, 1)),
                                                   (800, 1344, (150, ))])
def test_same_as_mmdetection(height, width, counts, border, topk):
    grids = grids_of(height, width)
    unpadded = [(height - 30 * (i % 2), width - 50 * ((i + 1) % 2)) for i in range(len(counts))]
    objects, metas = random_objects(counts, height, width, unpadded=unpadded)
    ranges = [[g.cells_in(m['img_shape'], m['pad_shape'], border) for g in grids] for m in metas]
    boxes = torch.cat([gt.bboxes for gt in objects])
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    ours = match(grids, ranges, *(gt.bboxes for gt in objects), topk=topk)
    expected = reference_assignment(grids, ranges, objects, topk)
    # If all IoUs of a ground truth are equal, rounding decides whether they reach the threshold: skip these.
    _, candidates, valid = nearest_priors(grids, ranges, boxes, image, topk)
    overlap = iou(candidates, boxes[:, None])
    spread = (overlap.masked_fill(~valid, -1).amax(1) - overlap.masked_fill(~valid, 2).amin(1))
    undecidable = torch.cat([spread < 1e-6, torch.tensor([False])])
    decided = ~(undecidable[ours] | undecidable[expected])
    ours, expected = ours.where(decided, -1), expected.where(decided, -1)
    assert ours.equal(expected), f'{(ours != expected).sum()} of {ours.numel()} priors are assigned differently'


def test_window_holds_the_nearest_cells_of_any_rectangle():
    """Brute force over small grids, and centres in and around them: the window always holds the nearest cells."""
    for height, width in ((1, 1), (1, 30), (30, 1), (2, 9), (3, 3), (7, 5), (12, 12)):
        grid = stack_grids([(height, width)], [(8, 8)], [(-4, -4, 4, 4)])
        centers = torch.rand(200, 2) * torch.tensor([width + 20., height + 20.]) * 8 - 80
        boxes = torch.cat([centers - 3, centers + 3], 1)
        prior, _, valid = nearest_priors(grid, everywhere(grid), boxes, torch.zeros(200, dtype=torch.long), 9)
        distances = torch.cdist(centers, all_priors(grid).center)
        nearest = distances.sort(1).values[:, :9]
        chosen = distances.gather(1, prior.where(valid, 0))
        assert valid.sum(1).eq(min(9, height * width)).all(), \
            'there should be topk candidates, or all cells of a smaller grid'
        for k in range(nearest.shape[1]):
            assert torch.allclose(chosen[:, k], nearest[:, k], atol=1e-3), \
                f'candidate {k} should be the {k}th nearest, from 0'
    assert len(window(9)) == 57, 'the window of 9 cells should stay small'


def test_order_of_ground_truths_changes_nothing():
    grids = grids_of(256, 320)
    objects, _ = random_objects((20, ), 256, 320)
    order = torch.randperm(20)
    straight = match(grids, everywhere(grids), objects[0].bboxes)
    shuffled = match(grids, everywhere(grids), objects[0].bboxes[order])
    back = torch.where(shuffled >= 0, order[shuffled], -1)
    assert back.equal(straight), 'each prior should belong to the same box, whatever the order of the boxes'


def test_batch_of_two_is_two_singles():
    grids = grids_of(256, 320)
    objects, _ = random_objects((7, 9), 256, 320)
    together = match(grids, everywhere(grids, 2), *(gt.bboxes for gt in objects))
    for i, first in ((0, 0), (1, 7)):
        alone = match(grids, everywhere(grids), objects[i].bboxes)[0]
        assert torch.where(alone >= 0, alone + first, -1).equal(together[i]), 'an image should not affect the other'


def test_equal_boxes_go_to_the_first():
    grids = grids_of(256, 320)
    box = torch.tensor([[40., 40., 140., 150.]] * 2)
    found = match(grids, everywhere(grids), box)
    assert (found == 0).any() and not (found == 1).any(), 'the first of two equal boxes should get the priors'


@pytest.mark.parametrize('ignore_iof_thr', [-1, 0.4])
def test_assign_of_one_image_with_any_priors(ignore_iof_thr):
    """``assign`` is MMDetection's interface, for heads whose priors form no regular grid."""
    priors = torch.rand(300, 4) * 200
    priors[:, 2:] += priors[:, :2] + 5
    objects, _ = random_objects((6, ), 256, 320)
    ignored = InstanceData(bboxes=torch.tensor([[0., 0., 120., 130.]]))
    results = [TASK_UTILS.build(dict(type=f'{scope}.ATSSAssigner', topk=9, ignore_iof_thr=ignore_iof_thr)).assign(
        InstanceData(priors=priors), [200, 80, 20], objects[0], ignored) for scope in ('mmdet', 'gfl_plugin')]
    assert results[0].gt_inds.eq(-1).any() == (ignore_iof_thr > 0), \
        'some priors should be ignored only if a threshold is set'
    for name in ('gt_inds', 'labels', 'num_gts'):
        a, b = (getattr(r, name) for r in results)
        assert torch.as_tensor(a).equal(torch.as_tensor(b)), f'{name} should be MMDetection\'s'
    assert torch.allclose(results[0].max_overlaps, results[1].max_overlaps), 'max_overlaps should be MMDetection\'s'


@pytest.mark.parametrize('assigner', ['ATSSAssigner', 'TaskAlignedAssigner'])
@pytest.mark.parametrize('calculator, named', [
    (dict(type='BboxOverlaps2D_GLIP'), 'BboxOverlaps2D_GLIP'), (dict(type='mmrotate.RBboxOverlaps2D'), 'RBbox'),
    (dict(type='BboxOverlaps2D', mode='giou'), "mode.*'giou'"), (dict(type='BboxOverlaps2D', dtype='fp16'), 'fp16'),
    (dict(mode='iou'), 'mode'), ('BboxOverlaps2D_GLIP', 'BboxOverlaps2D_GLIP')])
def test_what_is_not_iou_is_refused(calculator, named, assigner):
    with pytest.raises(ValueError, match=f'iou_calculator.*{named}'):
        TASK_UTILS.build(dict(type=f'gfl_plugin.{assigner}', topk=9, iou_calculator=calculator))


@pytest.mark.parametrize('calculator', [
    None, dict(type='BboxOverlaps2D'), dict(type='mmdet.BboxOverlaps2D', _scope_='mmdet'), dict(type=BboxOverlaps2D),
    dict(type='BboxOverlaps2D', mode='iou'), dict(type='BboxOverlaps2D', scale=1., dtype=None)], ids=str)
def test_iou_by_any_name_is_accepted(calculator):
    TASK_UTILS.build(dict(type='gfl_plugin.ATSSAssigner', topk=9, iou_calculator=calculator))


@pytest.mark.parametrize('arguments, named', [(dict(topk=0), 'topk=0'), (dict(topk=9, alpha=0.8), 'alpha')])
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        TASK_UTILS.build(dict(type='gfl_plugin.ATSSAssigner', **arguments))
