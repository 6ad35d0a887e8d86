"""The two axes of the head: every pair of kinds, what may not be, and what a new kind takes."""
import itertools

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from reference import assert_close, head_config, losses_and_gradients, random_features, random_objects, twin_heads

from gfl_plugin.box import Box
from gfl_plugin.errors import SetupError
from gfl_plugin.functional.priors import Priors
from gfl_plugin.losses import QualityFocalLoss
from gfl_plugin.matches import Matches
from gfl_plugin.quality import Quality
from gfl_plugin.registry import BOXES, QUALITIES, TASK_UTILS
from gfl_plugin.registry import MODELS as OWN_MODELS

QUALITY_LOSSES = {'JointQuality': {'loss_cls'}, 'VarifocalQuality': {'loss_cls'},
                  'DistributionGuidedQuality': {'loss_cls'},
                  'CenternessBranch': {'loss_cls', 'loss_centerness'}, 'IoUBranch': {'loss_cls', 'loss_iou'}}
BOX_LOSSES = {'GeneralDistribution': {'loss_bbox', 'loss_dfl'}, 'GaussianDistribution': {'loss_bbox', 'loss_nll'},
              'DiracDelta': {'loss_bbox'}}
# Every pair but that of a quality that reads distributions and a box that has none.
PAIRS = [(quality, box) for quality, box in itertools.product(QUALITY_LOSSES, BOX_LOSSES)
         if quality != 'DistributionGuidedQuality' or box == 'GeneralDistribution']


def config_of(quality, box, type='gfl_plugin.GFLHead', **options):
    config = head_config(type, 'gfl_plugin.', **options)
    for name in ('loss_cls', 'loss_dfl', 'reg_max'):
        config.pop(name)
    config.quality, config.box = ({'type': kind} if isinstance(kind, str) else kind for kind in (quality, box))
    return config


def build(quality='JointQuality', box='GeneralDistribution', **options):
    """A head whose scores cover the whole range, as after training."""
    head = MODELS.build(config_of(quality, box, **options))
    torch.nn.init.normal_(getattr(head, head.quality.cls_layer).weight, std=0.1)
    torch.nn.init.constant_(getattr(head, head.quality.cls_layer).bias, -1.5)
    torch.nn.init.normal_(getattr(head, head.box.reg_layer).weight, std=0.15)
    return head


def total_loss(head, features, objects, metas):
    return sum(sum(loss) for loss in head.loss_by_feat(*head(features), objects, metas).values())


def test_every_kind_is_tested_here():
    assert set(QUALITIES.module_dict) == set(QUALITY_LOSSES) and set(BOXES.module_dict) == set(BOX_LOSSES)


@pytest.mark.parametrize('quality, box', PAIRS)
def test_every_pair_learns_and_detects(quality, box):
    head = build(quality, box)
    features, (objects, metas) = random_features(2, 160, 192), random_objects((5, 3), 160, 192)
    losses, gradients = losses_and_gradients(head, features, objects, metas)
    assert set(losses) == QUALITY_LOSSES[quality] | BOX_LOSSES[box]
    assert all(loss.isfinite() and loss > 0 for loss in losses.values()), losses
    assert all(g is not None and g.isfinite().all() for g in gradients.values()), 'every parameter should be trained'
    before = sum(losses.values())
    optimizer = torch.optim.SGD(head.parameters(), lr=0.02)
    for _ in range(8):
        total_loss(head, features, objects, metas).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 5)
        optimizer.step()
        optimizer.zero_grad()
    after = total_loss(head, features, objects, metas)
    assert after < before, 'a few steps on one batch should lower its loss'
    with torch.no_grad():
        detections = head.predict_by_feat(*head(features), batch_img_metas=metas)
    assert all(len(d) > 0 and d.bboxes.isfinite().all() and (d.scores <= 1).all() for d in detections)


@pytest.mark.parametrize('quality, box', PAIRS)
def test_images_without_objects(quality, box):
    head, features = build(quality, box), random_features(2, 160, 192)
    objects, metas = random_objects((0, 0), 160, 192)
    losses, gradients = losses_and_gradients(head, features, objects, metas)
    assert losses.pop('loss_cls') > 0 and all(loss == 0 for loss in losses.values()), 'there is background to learn'
    assert all(g.isfinite().all() for g in gradients.values())


@pytest.mark.parametrize('quality, box', PAIRS)
def test_slots_of_a_gpu_change_nothing(quality, box, monkeypatch):
    """There each candidate of the assigner has a slot, positive or not, that every kind has to pass over."""
    head = build(quality, box)
    inputs = random_features(2, 160, 192), *random_objects((5, 0), 160, 192)
    expected = losses_and_gradients(head, *inputs)
    monkeypatch.setattr('gfl_plugin.matches.can_be_read_at_once', lambda x: False)
    for found, reference, what in zip(losses_and_gradients(head, *inputs), expected, ('', 'the gradient of ')):
        for name in reference:
            assert_close(found[name], reference[name], what + name)


@pytest.mark.parametrize('quality', QUALITY_LOSSES)
def test_batch_of_two_is_two_singles(quality):
    head, features, (_, metas) = build(quality), random_features(2, 160, 192), random_objects((3, 5), 160, 192)
    with torch.no_grad():
        together = head.predict_by_feat(*head(features), batch_img_metas=metas)
        alone = [head.predict_by_feat(*head([f[i:i + 1] for f in features]), batch_img_metas=metas[i:i + 1])[0]
                 for i in range(2)]
    for a, b in zip(together, alone):
        assert_close(a.bboxes, b.bboxes, 'the boxes of an image in a batch')
        assert_close(a.scores, b.scores, 'their scores')


def test_the_default_pair_by_its_names():
    """Written out, the default kinds give what the head's own arguments give."""
    _, short = twin_heads(reg_max=7)
    written = MODELS.build(config_of(
        dict(type='gfl_plugin.JointQuality', loss_cls=dict(type='gfl_plugin.QualityFocalLoss', beta=2.0)),
        dict(type='gfl_plugin.GeneralDistribution', reg_max=7)))
    assert list(written.state_dict()) == list(short.state_dict()), 'the keys, in their order'
    written.load_state_dict(short.state_dict())
    inputs = random_features(2, 160, 192), *random_objects((5, 3), 160, 192)
    expected, _ = losses_and_gradients(short, *inputs)
    for name, loss in losses_and_gradients(written, *inputs)[0].items():
        assert loss == expected[name], name


@pytest.mark.parametrize('quality, loss', [('JointQuality', 'QualityFocalLoss'), ('VarifocalQuality', 'VarifocalLoss'),
                                           ('CenternessBranch', 'FocalLoss'), ('IoUBranch', 'FocalLoss')])
def test_mmdetections_losses_may_be_used(quality, loss):
    ours = build(quality)
    theirs = build(dict(type=quality, loss_cls=dict(type=loss, use_sigmoid=True)))
    theirs.load_state_dict(ours.state_dict())
    inputs = random_features(2, 160, 192), *random_objects((5, 0), 160, 192)
    results = [losses_and_gradients(head, *inputs) for head in (ours, theirs)]
    for mine, reference, what in zip(*results, ('', 'the gradient of ')):
        for name in reference:
            assert_close(mine[name], reference[name], what + name)


class HalvedLoss(QualityFocalLoss):
    """A user's loss that inherits ours."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) / 2


def cls_loss_of(loss_cls, prepare=lambda x: x, quality='JointQuality'):
    """The classification loss of a head with this ``loss_cls``, on equal maps for equal seeds."""
    torch.manual_seed(0)
    head = build(dict(type=quality, loss_cls=loss_cls))
    cls_scores, *maps = head(random_features(2, 160, 192))
    loss, = head.loss_by_feat([prepare(m) for m in cls_scores], *maps, *random_objects((5, 0), 160, 192))['loss_cls']
    return loss


def test_a_subclass_of_a_loss_runs_its_own_forward(monkeypatch):
    monkeypatch.setitem(OWN_MODELS._module_dict, 'HalvedLoss', HalvedLoss)
    assert_close(cls_loss_of(dict(type='gfl_plugin.HalvedLoss')),
                 cls_loss_of(dict(type='gfl_plugin.QualityFocalLoss')) / 2, 'the loss of the subclass')


def test_settings_of_a_loss_are_not_ignored():
    expected = cls_loss_of(dict(type='gfl_plugin.QualityFocalLoss'))
    activated = cls_loss_of(dict(type='gfl_plugin.QualityFocalLoss', activated=True), torch.sigmoid)
    assert_close(activated, expected, 'the loss of probabilities')
    unreduced = cls_loss_of(dict(type='gfl_plugin.QualityFocalLoss', reduction='none'))
    assert unreduced.dim() == 1, 'there should be one loss per prior'
    with pytest.raises(ValueError, match='avg_factor.*sum'):
        cls_loss_of(dict(type='gfl_plugin.QualityFocalLoss', reduction='sum'))


@pytest.mark.parametrize('quality, special', [
    ('JointQuality', dict(type='gfl_plugin.QualityFocalLoss')), ('VarifocalQuality', dict(type='QualityFocalLoss')),
    ('IoUBranch', dict(type='gfl_plugin.FocalLoss', alpha=0.5, loss_weight=2.0))])
def test_the_unified_loss_in_a_head(quality, special):
    """GFL at (0, 1) is QFL of qualities, and it is FL of labels, without alpha."""
    assert_close(cls_loss_of(dict(type='gfl_plugin.GeneralizedFocalLoss'), quality=quality),
                 cls_loss_of(special, quality='JointQuality' if quality == 'VarifocalQuality' else quality), quality)


@pytest.mark.parametrize('with_nms', [False, True])
def test_a_branch_that_is_not_a_number_gives_no_detection(with_nms):
    head, (_, metas) = build('IoUBranch'), random_objects((1, 1), 160, 192)
    with torch.no_grad():
        cls_scores, bbox_preds, branch = head(random_features(2, 160, 192))
        for b in branch:
            b[0, :, ::2] = float('nan')
            b[1] = float('nan')
        some, none = head.predict_by_feat(cls_scores, bbox_preds, branch, batch_img_metas=metas, with_nms=with_nms)
    assert len(some) > 0 and some.scores.isfinite().all(), 'the rest should be detected'
    assert len(none) == 0, 'an image of NaN has no detection'


@pytest.mark.parametrize('quality', ['CenternessBranch', 'IoUBranch'])
def test_the_branch_multiplies_the_scores(quality):
    head, (_, metas) = build(quality), random_objects((1, ), 160, 192)
    with torch.no_grad():
        cls_scores, bbox_preds, branch = head(random_features(1, 160, 192))
        half = [torch.zeros_like(b) for b in branch]
        alone, = head.predict_by_feat(cls_scores, bbox_preds, batch_img_metas=metas)
        halved, = head.predict_by_feat(cls_scores, bbox_preds, half, batch_img_metas=metas)
    assert_close(halved.scores, alone.scores / 2, 'sigmoid(0) times the scores')
    assert_close(halved.bboxes, alone.bboxes, 'the boxes')


def test_a_head_with_a_branch_in_a_detector():
    """MMDetection hands a third list of maps on by position."""
    head = build('IoUBranch')
    features, (objects, metas) = random_features(2, 160, 192), random_objects((5, 3), 160, 192)
    samples = [DetDataSample(metainfo=meta, gt_instances=gt) for gt, meta in zip(objects, metas)]
    losses = head.loss(features, samples)
    both, found = head.loss_and_predict(features, samples)
    assert losses.keys() == both.keys() and all(losses[name] == both[name] for name in losses)
    assert len(found) == 2 and len(head.predict(features, samples)) == 2


def test_a_distribution_without_dfl():
    head = build(box=dict(type='GeneralDistribution', loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0)))
    inputs = random_features(2, 160, 192), *random_objects((5, 3), 160, 192)
    losses, gradients = losses_and_gradients(head, *inputs)
    assert losses['loss_dfl'] == 0 and gradients['gfl_reg.weight'].abs().sum() > 0, 'GIoU loss alone trains it'


def test_the_decoding_of_detections_may_be_by_the_mode():
    mean, mode = (build(box=dict(type='GeneralDistribution', decode=how)) for how in ('mean', 'mode'))
    mode.load_state_dict(mean.state_dict())
    features, (objects, metas) = random_features(1, 160, 192), random_objects((3, ), 160, 192)
    for name, loss in losses_and_gradients(mode, features, objects, metas)[0].items():
        assert loss == losses_and_gradients(mean, features, objects, metas)[0][name], f'{name} is of the mean in both'
    # One cell sees a side either 2 or 10 strides away, and everything else nothing.
    cls_scores, bbox_preds = (([m.new_full(m.shape, -20.) for m in maps]) for maps in mean(features))
    cls_scores[0][0, 3, 9, 12] = 3.
    sides = bbox_preds[0][0].unflatten(0, (4, 17))
    sides[:, 2, 9, 12] = 0.
    sides[2, 10, 9, 12] = -0.2  # the right side has a second, lower peak
    (doubtful, ), (decided, ) = (head.predict_by_feat(cls_scores, bbox_preds, batch_img_metas=metas)
                                 for head in (mean, mode))
    center = torch.tensor([12 * 8., 9 * 8.])
    expected = torch.cat([center - 16, center + 16])
    assert_close(decided.bboxes[0], expected, 'the box of the highest peaks', 1e-4)
    assert doubtful.bboxes[0, 2] > expected[2] + 20, 'the mean lies between the peaks'


def test_gaussian_boxes_start_as_their_priors():
    head, raw = build(box='GaussianDistribution'), torch.zeros(3, 8)
    priors = Priors(torch.rand(3, 2) * 50, torch.full((3, 2), 64.), torch.full((3, 2), 8.))
    assert_close(head.box.decode(raw, priors), priors.boxes(), 'the box of zero logits')


# ---- what may not be ----

@pytest.mark.parametrize('axis, kinds', [('quality', QUALITY_LOSSES), ('box', BOX_LOSSES)])
@pytest.mark.parametrize('name', ['Centreness', 'gfl_plugin.Centreness', 'mmdet.GFLHead', None])
def test_unknown_kinds_get_the_list(axis, kinds, name):
    with pytest.raises(SetupError, match=f'no {axis} .*{", ".join(sorted(kinds))}'):
        MODELS.build(ConfigDict(config_of('JointQuality', 'GeneralDistribution'), **{axis: dict(type=name)}))


@pytest.mark.parametrize('leftover', [dict(loss_dfl=dict(type='DistributionFocalLoss')), dict(reg_max=16)])
def test_arguments_of_the_default_box_beside_another(leftover):
    name, = leftover
    with pytest.raises(SetupError, match=f'{name} of the head.*DiracDelta.*{name}=None'):
        MODELS.build(ConfigDict(config_of('JointQuality', 'DiracDelta'), **leftover))
    MODELS.build(ConfigDict(config_of('JointQuality', 'DiracDelta'), **{name: None}))


def test_arguments_of_the_default_quality_beside_another():
    loss_cls = dict(type='gfl_plugin.QualityFocalLoss')
    with pytest.raises(SetupError, match='loss_cls of the head.*IoUBranch.*loss_cls=None'):
        MODELS.build(ConfigDict(config_of('IoUBranch', 'DiracDelta'), loss_cls=loss_cls))


@pytest.mark.parametrize('quality, said', [
    (dict(type='gfl_plugin.IoUBranch', loss_centerness=dict()),
     "IoUBranch .*'loss_centerness'; it takes .*loss_iou. loss_centerness is of CenternessBranch"),
    (dict(type='JointQuality', beta=2), "JointQuality .*'beta'; it takes loss_cls$")])
def test_arguments_a_quality_does_not_take(quality, said):
    with pytest.raises(SetupError, match=said):
        build(quality)


@pytest.mark.parametrize('box', ['DiracDelta', 'GaussianDistribution'])
@pytest.mark.parametrize('argument', [dict(decode='mode'), dict(loss_dfl=dict(type='DistributionFocalLoss')),
                                      dict(reg_max=16)])
def test_what_only_a_distribution_over_bins_has(box, argument):
    """The mode, DFL and bins: the error says whose they are."""
    name, = argument
    with pytest.raises(SetupError, match=f"{box} .*{name!r}; it takes .*bbox_coder. {name} is of GeneralDistribution"):
        build(box=dict(type=box, **argument))


@pytest.mark.parametrize('quality', [3, ['JointQuality']])
def test_what_names_no_kind(quality):
    with pytest.raises(SetupError, match='quality=.*neither the name of a kind nor dict'):
        MODELS.build(ConfigDict(config_of('JointQuality', 'DiracDelta'), quality=quality))


def test_a_kind_by_its_type_alone():
    config = config_of('IoUBranch', 'DiracDelta')
    config.quality, config.box = 'gfl_plugin.IoUBranch', 'DiracDelta'
    head = MODELS.build(config)
    assert {'atss_iou.weight', 'atss_reg.weight'} < set(head.state_dict())


def test_unknown_decoding_is_named():
    with pytest.raises(ValueError, match="'median'.*mean.*mode"):
        build(box=dict(type='GeneralDistribution', decode='median'))


# ---- a new kind ----

class Certainty(Quality):
    """Classes as labels, and a branch that is told 1 at every positive."""
    cls_layer, has_branch = 'certainty_cls', True

    def __init__(self, loss_cls=dict(type='gfl_plugin.FocalLoss', use_sigmoid=True)):
        super().__init__(loss_cls)

    def layers(self, channels, num_classes):
        return dict(super().layers(channels, num_classes), certainty=torch.nn.Conv2d(channels, 1, 3, padding=1))

    def maps(self, head, cls_feat, reg_feat, box_map):
        return *super().maps(head, cls_feat, reg_feat, box_map), head.certainty(reg_feat)

    def targets(self, pred, matches, pos):
        return torch.ones_like(pos.iou), torch.ones_like(pos.iou)

    def losses(self, pred, matches, pos, target, norm):
        return dict(loss_cls=self.class_loss(pred, matches, pos.labels, target, norm),
                    loss_certainty=torch.nn.functional.softplus(-pred.branch_at(matches)).sum() / norm)


class Squares(Box):
    """One number a prior: the logarithm of half a side, in half sides of the prior."""
    reg_layer, channels = 'squares_reg', 1

    def decode(self, raw, priors):
        half = raw.clamp(-5, 5).exp() * priors.size / 2
        return torch.cat([priors.center - half, priors.center + half], 1)


class Centers:
    """The prior that is nearest to the centre of an object, on the first level."""

    def match(self, grids, truth, peek):
        first = grids[0]
        column, row = ((truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2 / torch.tensor(first.stride)).long().unbind(1)
        return Matches.of(grids, truth, first.start + row * first.width + column, torch.arange(len(truth.boxes)),
                          torch.ones(len(truth.boxes), dtype=torch.bool))


def test_new_kinds_take_no_line_of_the_head(monkeypatch):
    """What README says of a kind of one's own: a subclass, registered; it learns, detects and is saved by its names."""
    monkeypatch.setitem(QUALITIES._module_dict, 'Certainty', Certainty)
    monkeypatch.setitem(BOXES._module_dict, 'Squares', Squares)
    monkeypatch.setitem(TASK_UTILS._module_dict, 'CentersAssigner', Centers)
    config = config_of('gfl_plugin.Certainty', 'Squares')
    config.train_cfg.assigner = dict(type='gfl_plugin.CentersAssigner')
    head = MODELS.build(config)
    assert isinstance(head.assigner, Centers)
    torch.nn.init.normal_(head.certainty_cls.weight, std=0.1)
    torch.nn.init.constant_(head.certainty_cls.bias, -1.5)
    assert {'certainty_cls.weight', 'certainty.bias', 'squares_reg.weight'} < set(head.state_dict())
    features, (objects, metas) = random_features(2, 160, 192), random_objects((5, 3), 160, 192)
    losses, gradients = losses_and_gradients(head, features, objects, metas)
    assert set(losses) == {'loss_cls', 'loss_bbox', 'loss_certainty'}
    assert all(g is not None and g.abs().sum() > 0 for name, g in gradients.items() if name.split('.')[0] != 'scales')
    with torch.no_grad():
        maps = head(features)
        found = head.predict_by_feat(*maps, batch_img_metas=metas)
    width, height = (found[0].bboxes[:, i + 2] - found[0].bboxes[:, i] for i in (0, 1))
    inside = (found[0].bboxes[:, :2] > 0).all(1) & (found[0].bboxes[:, 2:] < torch.tensor([192, 160])).all(1)
    assert inside.any() and torch.allclose(width[inside], height[inside], atol=1e-3), 'squares, if no edge cuts them'
    head.init_weights()
    assert head.certainty_cls.bias.sigmoid().allclose(torch.tensor(0.01))
