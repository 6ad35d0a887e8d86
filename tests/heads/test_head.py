"""The head in MMDetection's machinery: whole detectors, checkpoints, RPN, test-time augmentation, errors."""
import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from reference import (
    assert_close,
    atss_heads,
    head_config,
    losses_and_gradients,
    random_features,
    random_objects,
    summed,
    twin_heads,
)

from gfl_plugin.compat.packages import get_installed_path
from gfl_plugin.errors import SetupError


def detector_config(head_type, scope):
    return ConfigDict(
        type='GFL', data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN'), out_indices=(0, 1, 2, 3)),
        neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, start_level=1,
                  add_extra_convs='on_output', num_outs=5),
        bbox_head={k: v for k, v in head_config(head_type, scope).items() if k not in ('train_cfg', 'test_cfg')},
        train_cfg=head_config(head_type, scope).train_cfg, test_cfg=head_config(head_type, scope).test_cfg)


def data(count=2, height=160, width=192):
    objects, metas = random_objects((4, ) * count, height, width)
    samples = []
    for gt, meta in zip(objects, metas):
        sample = DetDataSample(metainfo=dict(meta, scale_factor=(1., 1.), batch_input_shape=(height, width)))
        sample.gt_instances = gt
        samples.append(sample)
    return torch.randn(count, 3, height, width), samples


def twin_detectors():
    reference = MODELS.build(detector_config('GFLHead', ''))
    torch.nn.init.normal_(reference.bbox_head.gfl_cls.weight, std=0.1)
    ours = MODELS.build(detector_config('gfl_plugin.GFLHead', 'gfl_plugin.'))
    ours.load_state_dict(reference.state_dict(), strict=True)
    return reference.eval(), ours.eval()


def test_whole_detector_loss_predict_and_both():
    reference, ours = twin_detectors()
    inputs, samples = data()
    results = []
    for model in (reference, ours):
        losses = summed(model.loss(inputs, samples))
        detections = [s.pred_instances for s in model.predict(inputs, copy.deepcopy(samples), rescale=True)]
        both_losses, both = model.bbox_head.loss_and_predict(model.extract_feat(inputs), samples)
        results.append((losses, detections, summed(both_losses), both))
    for name in results[0][0]:
        assert_close(results[1][0][name], results[0][0][name], name)
        assert_close(results[1][2][name], results[0][2][name], f'{name} of loss_and_predict')
    for kind in (1, 3):
        for mine, theirs in zip(results[1][kind], results[0][kind]):
            assert len(theirs) > 0, 'there should be detections to compare'
            assert_close(mine.bboxes, theirs.bboxes, 'the boxes')
            assert_close(mine.scores, theirs.scores, 'the scores')


@pytest.mark.parametrize('name', ['gfl_r50_fpn_1x_coco', 'gfl_r101_fpn_ms-2x_coco', 'gfl_x101-32x4d_fpn_ms-2x_coco'])
def test_published_checkpoints_fit(name):
    """The keys and shapes of MMDetection's published checkpoints are those of the model of its config."""
    published = Config.fromfile(f'{get_installed_path("mmdet")}/.mim/configs/gfl/{name}.py').model
    config = Config.fromfile(f'{get_installed_path("gfl_plugin")}/.mim/configs/gfl/{name}.py').model
    for model in (published, config):
        model.backbone.init_cfg = None
    ours, changed_type = MODELS.build(config), copy.deepcopy(published)
    changed_type.bbox_head.type = 'gfl_plugin.GFLHead'
    state = MODELS.build(published).state_dict()
    ours.load_state_dict(state, strict=True)
    MODELS.build(changed_type).load_state_dict(state, strict=True)


def test_published_atss_checkpoints_fit():
    """The keys and shapes of MMDetection's published ATSS are those of its config with this head."""
    published = Config.fromfile(f'{get_installed_path("mmdet")}/.mim/configs/atss/atss_r50_fpn_1x_coco.py').model
    published.backbone.init_cfg = None
    ours = copy.deepcopy(published)
    head = ours.bbox_head
    head.type = 'gfl_plugin.GFLHead'
    head.quality = dict(type='gfl_plugin.CenternessBranch', loss_cls=head.pop('loss_cls'),
                        loss_centerness=head.pop('loss_centerness'))
    head.box = dict(type='gfl_plugin.DiracDelta', bbox_coder=head.pop('bbox_coder'))
    MODELS.build(ours).load_state_dict(MODELS.build(published).state_dict(), strict=True)


def test_initial_scores_of_atss_are_those_of_the_reference():
    for head in atss_heads():
        head.init_weights()
        assert head.atss_cls.bias.sigmoid().allclose(torch.tensor(0.01)), 'every class should start at 0.01'
        assert head.atss_reg.weight.std().item() == pytest.approx(0.01, rel=0.2)


def test_as_rpn_head():
    """Class-agnostic proposals for a second stage, with its proposal_cfg."""
    options = dict(num_classes=1)
    reference, ours = twin_heads(**options)
    objects, metas = random_objects((3, 2), 160, 192, num_classes=1)
    samples = []
    for gt, meta in zip(objects, metas):
        samples.append(DetDataSample(metainfo=meta))
        samples[-1].gt_instances = gt
    proposal_cfg = ConfigDict(nms_pre=500, max_per_img=50, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.7),
                              min_bbox_size=0)
    features = random_features(2, 160, 192)
    (_, expected), (_, found) = (head.loss_and_predict(features, samples, proposal_cfg=proposal_cfg)
                                 for head in (reference, ours))
    for mine, theirs in zip(found, expected):
        assert_close(mine.bboxes, theirs.bboxes, 'the proposals')
    del proposal_cfg['score_thr']  # as the RPN settings of MMDetection's configs are; its GFLHead raises
    assert len(ours.loss_and_predict(features, samples, proposal_cfg=proposal_cfg)[1][0]) > 0


def test_test_time_augmentation():
    reference, ours = twin_detectors()
    inputs, samples = data(1)
    merged = []
    for model in (reference, ours):
        settings = ConfigDict(nms=dict(type='nms', iou_threshold=0.6), max_per_img=20)
        tta = MODELS.build(dict(type='DetTTAModel', tta_cfg=settings, module=model))
        views = [copy.deepcopy(samples), copy.deepcopy(samples)]
        for view, flip in zip(views, (False, True)):
            view[0].set_metainfo(dict(flip=flip, flip_direction='horizontal' if flip else None))
        batch = dict(inputs=[[inputs[0]], [inputs[0].flip(-1)]], data_samples=views)
        merged.append(tta.test_step(batch)[0].pred_instances)
    assert len(merged[0]) > 0, 'there should be detections to compare'
    assert_close(merged[1].bboxes, merged[0].bboxes, 'the merged boxes')
    assert_close(merged[1].scores, merged[0].scores, 'the merged scores')


def test_batch_of_two_is_two_singles():
    _, ours = twin_heads()
    features, (_, metas) = random_features(2, 160, 192), random_objects((3, 5), 160, 192)
    with torch.no_grad():
        together = ours.predict_by_feat(*ours(features), batch_img_metas=metas)
        alone = [ours.predict_by_feat(*ours([f[i:i + 1] for f in features]), batch_img_metas=metas[i:i + 1])[0]
                 for i in range(2)]
    for a, b in zip(together, alone):
        assert_close(a.bboxes, b.bboxes, 'the boxes of an image in a batch')


@pytest.mark.parametrize('twins', [twin_heads, atss_heads])
def test_losses_are_lists_as_in_mmdetection(twins):
    """MMDetection's users sum the losses of a kind over its levels."""
    features, (objects, metas) = random_features(2, 160, 192), random_objects((6, 5), 160, 192)
    expected, losses = (head.loss_by_feat(*head(features), objects, metas) for head in twins())
    for name in expected:
        assert isinstance(losses[name], list) and all(loss.dim() == 0 for loss in losses[name]), name
        assert_close(sum(losses[name]), sum(expected[name]), name)


def test_order_of_ground_truths_changes_no_loss():
    _, ours = twin_heads()
    features, (objects, metas) = random_features(2, 160, 192), random_objects((6, 5), 160, 192)
    losses, _ = losses_and_gradients(ours, features, objects, metas)
    shuffled, _ = losses_and_gradients(ours, features, [gt[torch.randperm(len(gt))] for gt in objects], metas)
    for name in losses:
        assert_close(shuffled[name], losses[name], name)


def test_losses_are_fp32_under_autocast():
    _, ours = twin_heads()
    features, (objects, metas) = random_features(2, 160, 192), random_objects((6, 5), 160, 192)
    expected, _ = losses_and_gradients(ours, features, objects, metas)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses, gradients = losses_and_gradients(ours, features, objects, metas)
    for name in expected:
        assert losses[name].dtype == torch.float32, f'{name} should be computed in fp32'
        assert_close(losses[name], expected[name], f'{name} under bf16 autocast', 0.02)
    assert all(g.isfinite().all() for g in gradients.values()), 'the gradients should be finite'


def test_use_sigmoid_may_be_left_out():
    config = head_config('gfl_plugin.GFLHead', 'gfl_plugin.')
    del config.loss_cls['use_sigmoid']
    assert MODELS.build(config).cls_out_channels == 8, 'joint scores are sigmoids: no channel for the background'


@pytest.mark.parametrize('change, named', [(dict(reg_max=0), 'reg_max=0'), (dict(reg_max=-3), 'reg_max=-3'),
                                           (dict(num_classes=0), 'num_classes=0')])
def test_bad_arguments_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        MODELS.build(head_config('gfl_plugin.GFLHead', 'gfl_plugin.', **change))


def test_several_priors_a_cell_are_refused():
    config = head_config('gfl_plugin.GFLHead', 'gfl_plugin.')
    config.anchor_generator.ratios = [0.5, 1.0]
    with pytest.raises(ValueError, match='one prior a cell'):
        MODELS.build(config)


@pytest.mark.parametrize('count', [4, 6])
def test_as_many_feature_maps_as_strides(count):
    """With another number of maps, the head would train some of the strides only, or on some of the maps only."""
    _, ours = twin_heads()
    objects, metas = random_objects((2, ), 160, 192)
    features = random_features(1, 160, 192, (8, 16, 32, 64, 128, 256))
    said = f'{count} feature maps.*5 strides'
    with pytest.raises(SetupError, match=said):
        ours(features[:count])
    scores, sides = (maps + maps[-1:] for maps in ours(features[:5]))
    with pytest.raises(SetupError, match=said):
        ours.loss_by_feat(scores[:count], sides[:count], objects, metas)
    with pytest.raises(SetupError, match=said):
        ours.predict_by_feat(scores[:count], sides[:count], batch_img_metas=metas)


def test_channels_last_changes_nothing():
    _, ours = twin_heads()
    features, (objects, metas) = random_features(2, 160, 192), random_objects((6, 5), 160, 192)
    expected, expected_gradients = losses_and_gradients(ours, features, objects, metas)
    ours.to(memory_format=torch.channels_last)
    features = [f.contiguous(memory_format=torch.channels_last) for f in features]
    assert ours(features)[0][0].is_contiguous(memory_format=torch.channels_last), 'the maps should be in this layout'
    losses, gradients = losses_and_gradients(ours, features, objects, metas)
    for name in expected:
        assert_close(losses[name], expected[name], name)
    for name in gradients:
        assert_close(gradients[name], expected_gradients[name], f'the gradient of {name}')


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_predictions_that_are_not_finite_give_no_box_that_is_not(bad):
    _, ours = twin_heads()
    _, metas = random_objects((1, 1), 160, 192)
    with torch.no_grad():
        scores, sides = ours(random_features(2, 160, 192))
        found = ours.predict_by_feat(scores, sides, batch_img_metas=metas)
        scores[0][0, :, 3] = bad
        sides[0][:, 5, :, :6] = bad
        sides[1][1] = bad
        damaged = ours.predict_by_feat(scores, sides, batch_img_metas=metas)
    assert all(len(d) > 0 for d in damaged), 'what is left should be detected'
    assert all(d.bboxes.isfinite().all() and d.scores.isfinite().all() for d in damaged)
    assert not any(d.bboxes.equal(f.bboxes) for d, f in zip(damaged, found)), 'the damage should make a difference'


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_losses_stay_honest(bad):
    """What is not finite goes in, what is not finite comes out: a guard can see it."""
    _, ours = twin_heads()
    objects, metas = random_objects((6, 5), 160, 192)
    scores, sides = ours(random_features(2, 160, 192))
    damaged = [s.clone() for s in scores]
    damaged[0][0, 0, 0, 0] = bad
    assert not summed(ours.loss_by_feat(damaged, sides, objects, metas))['loss_cls'].isfinite()
    damaged = [torch.full_like(s, bad) for s in sides]
    losses = summed(ours.loss_by_feat(scores, damaged, objects, metas))
    assert not losses['loss_bbox'].isfinite() and not losses['loss_dfl'].isfinite()


def test_many_objects_and_candidates():
    """1,000 ground truths in an image, and 8,000 candidates over the threshold."""
    reference, ours = twin_heads()
    features, (objects, metas) = random_features(1, 640, 640), random_objects((1000, ), 640, 640)
    expected, _ = losses_and_gradients(reference, features, objects, metas)
    losses, _ = losses_and_gradients(ours, features, objects, metas)
    for name in expected:
        assert_close(losses[name], expected[name], name)
    cfg = ConfigDict(ours.test_cfg, nms_pre=8000, score_thr=0.02)
    with torch.no_grad():
        scores, sides = ours(features)
        assert sum(int((s.sigmoid() > 0.02).sum()) for s in scores) > 8000
        detections, = ours.predict_by_feat(scores, sides, batch_img_metas=metas, cfg=cfg)
        theirs, = reference.predict_by_feat(scores, sides, batch_img_metas=metas, cfg=cfg)
    assert_close(detections.bboxes, theirs.bboxes, 'the boxes')
