"""The third axis of the head: our assigners, MMDetection's by the adapter, and what may not be."""
import math

import pytest
import torch
from mmdet.models.task_modules.assigners import BaseAssigner
from mmdet.registry import MODELS, TASK_UTILS
from reference import assert_close, head_config, losses_and_gradients, random_features, random_objects
from test_axes import build, total_loss

from gfl_plugin.errors import SetupError

TOOD = dict(type='gfl_plugin.TaskAlignedAssigner')
YOLOV8 = dict(type='gfl_plugin.TaskAlignedAssigner', variant='yolov8')
THEIRS = {
    'ATSSAssigner': dict(type='ATSSAssigner', topk=9),
    'DDOD': dict(type='ATSSAssigner', topk=9, alpha=0.8),
    'DynamicSoftLabelAssigner': dict(type='DynamicSoftLabelAssigner'),
    'MaxIoUAssigner': dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
    'SimOTAAssigner': dict(type='SimOTAAssigner'),
    'TaskAlignedAssigner': dict(type='TaskAlignedAssigner', topk=13),
}


def build_with(assigner, quality='JointQuality', sampler=None, **options):
    head = build(quality, **options)
    head.assigner = TASK_UTILS.build(assigner)
    if sampler is not None:
        head.sampler = TASK_UTILS.build(dict(sampler, context=head))
    return head


@pytest.mark.parametrize('assigner', [TOOD, YOLOV8, *THEIRS.values()], ids=str)
def test_every_assigner_trains(assigner):
    head = build_with(assigner)
    inputs = random_features(2, 160, 192), *random_objects((5, 0), 160, 192)
    losses, gradients = losses_and_gradients(head, *inputs)
    assert all(loss.isfinite() and loss > 0 for loss in losses.values()), losses
    assert all(g.isfinite().all() for g in gradients.values())
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    before = total_loss(head, *inputs)
    for _ in range(8):
        optimizer.zero_grad()
        total_loss(head, *inputs).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 5)
        optimizer.step()
    assert total_loss(head, *inputs) < before, 'a few steps on one batch should lower its loss'


@pytest.mark.parametrize('assigner', [TOOD, YOLOV8, *THEIRS.values()], ids=str)
def test_no_object_at_all(assigner):
    losses, gradients = losses_and_gradients(build_with(assigner), random_features(2, 160, 192),
                                             *random_objects((0, 0), 160, 192))
    assert losses.pop('loss_cls') > 0 and all(loss == 0 for loss in losses.values()), 'there is background to learn'
    assert all(g.isfinite().all() for g in gradients.values())


@pytest.mark.parametrize('theirs, ours', [('ATSSAssigner', dict(type='gfl_plugin.ATSSAssigner', topk=9)),
                                          ('TaskAlignedAssigner', TOOD)])
@pytest.mark.parametrize('border', [-1, 0])
def test_the_adapter_matches_as_the_batch_does(theirs, ours, border):
    """MMDetection's assigner image by image, and ours on the whole batch: soft scores and normalisers included."""
    head = build_with(ours, allowed_border=border)
    inputs = random_features(3, 512, 640), *random_objects((5, 0, 9), 512, 640)
    results = [losses_and_gradients(head, *inputs)]
    head.assigner = TASK_UTILS.build(THEIRS[theirs])
    results.append(losses_and_gradients(head, *inputs))
    for found, expected in zip(*results):
        for name in expected:
            assert_close(found[name], expected[name], name)


def test_a_sampler_weights_what_it_chose():
    """Of thousands of negatives a RandomSampler leaves some: the class loss of all others is 0."""
    sampler = dict(type='RandomSampler', num=64, pos_fraction=0.5, add_gt_as_proposals=False)
    head = build_with(THEIRS['MaxIoUAssigner'], sampler=sampler)
    features, (objects, metas) = random_features(1, 160, 192), random_objects((4, ), 160, 192)
    maps = head(features)
    pred = head.predictions(*maps)
    torch.manual_seed(1)
    m = head.match(pred, head.ground_truths(pred.grids, objects, metas))
    weight = m.cls_weight
    assert 0 < weight.sum() <= 64 and m.num_positives == weight.sum(), 'MMDetection divides by all that were sampled'
    torch.manual_seed(1)  # the same choice again
    loss, = head.loss_by_feat(*maps, objects, metas)['loss_cls']
    gradients = torch.autograd.grad(loss, maps[0])
    touched = torch.cat([g.abs().amax(1).flatten(1) for g in gradients], 1) > 0
    assert touched.equal(weight > 0)


@pytest.mark.parametrize('quality', ['CenternessBranch', 'IoUBranch', 'VarifocalQuality'])
def test_task_alignment_goes_with_other_qualities(quality):
    head = build_with(TOOD, quality)
    inputs = random_features(2, 160, 192), *random_objects((5, 2), 160, 192)
    losses, _ = losses_and_gradients(head, *inputs)
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    if head.quality.has_branch:  # it learns its own target, and every positive counts as one
        for parameter in getattr(head, head.quality.branch_layer).parameters():
            torch.nn.init.zeros_(parameter)
        losses, _ = losses_and_gradients(head, *inputs)
        assert losses[head.quality.loss_name].item() == pytest.approx(math.log(2)), 'cross-entropy at a score of 1/2'


def test_the_soft_score_is_the_target():
    """With a soft score of 0 at every positive the class learns background alone."""
    head = build_with(TOOD)
    maps, (objects, metas) = head(random_features(1, 160, 192)), random_objects((4, ), 160, 192)
    match = head.match
    head.match = lambda *args: match(*args)._replace(soft_score=torch.zeros_like(match(*args).soft_score))
    losses = head.loss_by_feat(*maps, objects, metas)
    nothing = head.loss_by_feat(*maps, [gt[:0] for gt in objects], metas)
    assert losses['loss_bbox'][0] == 0, 'it is the weight of the boxes, too'
    assert losses['loss_cls'][0] == nothing['loss_cls'][0] > 0, 'targets of 0, as without an object'


# ---- what may not be ----

def test_an_unknown_assigner_gets_the_list():
    config = head_config('gfl_plugin.GFLHead', 'gfl_plugin.')
    config.train_cfg.assigner = dict(type='gfl_plugin.AtssAssigner', topk=9)
    with pytest.raises(SetupError, match='no assigner .*AtssAssigner.*gfl_plugin.ATSSAssigner, '
                                         'gfl_plugin.TaskAlignedAssigner.*SimOTAAssigner'):
        MODELS.build(config)


def test_an_assigner_that_needs_more_arguments_is_named():
    config = head_config('gfl_plugin.GFLHead', 'gfl_plugin.')
    config.train_cfg.assigner = dict(type='CenterRegionAssigner', pos_scale=0.2, neg_scale=0.2)
    MODELS.build(config)

    class Needy(BaseAssigner):
        def assign(self, pred_instances, gt_instances, gt_instances_ignore=None, *, image=None, features):
            """Of no use."""

    class NeedyByPosition(BaseAssigner):
        def assign(self, pred_instances, gt_instances, features):
            """Of no use."""

    for needy in (Needy, NeedyByPosition):
        config.train_cfg.assigner = dict(type=needy)
        with pytest.raises(SetupError, match=f'train_cfg.assigner={needy.__name__} needs features'):
            MODELS.build(config)


def build_config(assigner, sampler=None):
    config = head_config('gfl_plugin.GFLHead', 'gfl_plugin.')
    config.train_cfg.assigner = assigner
    if sampler is not None:
        config.train_cfg.sampler = sampler
    return config


@pytest.mark.parametrize('assigner, said', [
    ('ATSSAssigner', "'ATSSAssigner' is not dict"),
    (dict(type='RandomSampler', num=4, pos_fraction=0.5), 'no assigner'),
    (dict(type='os.system', command='exit'), 'no assigner'), (dict(topk=9), 'is not dict'),
    (dict(type='PointAssigner'), 'PointAssigner needs points'),
    (dict(type='HungarianAssigner', match_costs=dict(type='IoUCost')), 'HungarianAssigner needs img_meta')])
def test_what_is_no_assigner_for_this_head(assigner, said):
    with pytest.raises(SetupError, match=said):
        MODELS.build(build_config(assigner))


def test_a_sampler_that_adds_ground_truths():
    """They would come before the priors, whose numbers would then be those of others."""
    sampler = dict(type='RandomSampler', num=64, pos_fraction=0.5)
    with pytest.raises(SetupError, match='RandomSampler would add.*add_gt_as_proposals=False'):
        MODELS.build(build_config(THEIRS['MaxIoUAssigner'], sampler))


def test_a_sampler_beside_an_assigner_of_whole_batches():
    sampler = dict(type='RandomSampler', num=64, pos_fraction=0.5, add_gt_as_proposals=False)
    with pytest.raises(SetupError, match='TaskAlignedAssigner matches a whole batch.*RandomSampler'):
        MODELS.build(build_config(TOOD, sampler))


@pytest.mark.parametrize('assigner', [dict(type='gfl_plugin.ATSSAssigner', topk=9), TOOD, YOLOV8, *THEIRS.values()],
                         ids=str)
def test_objects_of_no_class_take_no_part(assigner):
    """Beside an object of the same box with a class, they neither take its priors nor end the training."""
    head = build_with(assigner)
    features, (objects, metas) = random_features(1, 160, 192), random_objects((4, ), 160, 192)
    expected = losses_and_gradients(head, features, objects, metas)
    for label in (-1, 8, 1000):
        both = [gt.cat([gt, gt]) for gt in objects]
        both[0].labels = torch.cat([torch.full((4, ), label), objects[0].labels])
        for found, reference in zip(losses_and_gradients(head, features, both, metas), expected):
            for name in reference:
                assert_close(found[name], reference[name], name)


def test_an_assigner_that_asks_for_what_no_gfl_head_has():
    class Curious(BaseAssigner):
        def assign(self, pred_instances, gt_instances, gt_instances_ignore=None):
            return pred_instances.masks

    head, inputs = build(), (random_features(1, 160, 192), *random_objects((1, ), 160, 192))
    head.assigner = Curious()
    with pytest.raises(SetupError, match="assigner=Curious asks .*'masks'.*priors, bboxes, scores"):
        total_loss(head, *inputs)
