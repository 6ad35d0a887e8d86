"""How far each side of a detection can be trusted: standard deviations and distributions, on request."""
import copy
import pickle

import pytest
import torch
from mmdet.registry import METRICS, MODELS
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from reference import STRIDES, assert_close, random_features, random_objects
from test_axes import PAIRS, build, config_of
from test_head import data, detector_config
from tool_runs import SHAPES

from gfl_plugin.engine.run import _augment_at_test_time
from gfl_plugin.errors import SetupError
from gfl_plugin.heads.test_time_augmentation import unflip

ASKED = dict(uncertainty=True, distributions=True)
SPREADING = [(quality, box) for quality, box in PAIRS if box != 'DiracDelta']
SUPPRESSION = {'hard': dict(type='nms', iou_threshold=0.6),
               'class_agnostic': dict(type='nms', iou_threshold=0.6, class_agnostic=True),
               'soft': dict(type='soft_nms', iou_threshold=0.6)}
HEIGHT, WIDTH = 160, 192
CENTER = torch.tensor([12 * 8., 9 * 8.])  # of the cell that `one_object` makes speak


def one_object(raw, dtype=torch.float32):
    """Maps on which one cell of the first level sees an object and predicts ``raw`` (D,), and the others see none."""
    cls_scores, bbox_preds = ([torch.full((1, channels, -(-HEIGHT // s), -(-WIDTH // s)), value, dtype=dtype)
                               for s in STRIDES] for channels, value in ((8, -20.), (len(raw), 0.)))
    cls_scores[0][0, 3, 9, 12], bbox_preds[0][0, :, 9, 12] = 3., raw.to(dtype)
    return cls_scores, bbox_preds


def logits_of(*sides, low=-1e4):
    """(4(n+1),) logits of distributions that are each given as {bin: probability}."""
    logits = torch.full((4, 17), low)
    for side, probs in zip(logits, sides):
        for place, p in probs.items():
            side[place] = torch.tensor(p).log()
    return logits.flatten()


def detect(head, maps, metas, rescale=False, with_nms=True, **settings):
    with torch.no_grad():
        return head.predict_by_feat(*maps, batch_img_metas=metas, rescale=rescale, with_nms=with_nms,
                                    cfg=ConfigDict(head.test_cfg, **settings))


def metas_of(scale_factor=(1., 1.)):
    return [dict(img_shape=(HEIGHT, WIDTH), pad_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH),
                 scale_factor=scale_factor)]


def require_agreement(found, limits, tolerance=1e-3):
    """Check that a detection's fields are about its own box and its own sides.

    The mean of each side's distribution is the side, if the image's border does not cut it, and the distribution has
    the standard deviation of the side.
    """
    mean = (found.side_places * found.side_probs).sum(-1)
    assert_close(found.side_probs.sum(-1), torch.ones_like(mean), 'the sum of the probabilities')
    assert_close(mean.clamp(min=0).minimum(torch.tensor(limits).repeat(2)), found.bboxes, 'the mean place', 1e-4)
    std = (found.side_probs * (found.side_places - mean[..., None]).square()).sum(-1).sqrt()
    assert_close(std, found.side_std, 'the standard deviation', tolerance)


# ---- values by hand ----

TWO_PLACES, ONE_PLACE, EVEN = {2: .5, 4: .5}, {3: 1.}, dict.fromkeys(range(17), 1 / 17)


@pytest.mark.parametrize('scale_factor', [(1., 1.), (2., 0.5)])
def test_distributions_by_hand(scale_factor):
    """Left: 2 or 4 strides away. Top: 3. Right: anything from 0 to 16. Bottom: 1 or 2."""
    maps = one_object(logits_of(TWO_PLACES, ONE_PLACE, EVEN, {1: .5, 2: .5}))
    found, = detect(build(), maps, metas_of(scale_factor), rescale=True, **ASKED)
    factors = torch.tensor([1 / scale_factor[0], 1 / scale_factor[1]]).repeat(2)
    expected = 8 * torch.tensor([1, 0, 24**0.5, 0.5]) * factors  # of 17 equal bins, the variance is (17^2 - 1) / 12
    assert len(found) == 1 and torch.allclose(found.side_std[0], expected, rtol=1e-6)
    left, top, right, _ = (found.side_places[0] / factors[:, None])
    assert left[[0, 2, 4]].tolist() == [96, 80, 64] and right[[0, 16]].tolist() == [96, 224], 'also beyond the image'
    assert top[3] == found.bboxes[0, 1] / factors[1] == 72 - 24
    assert found.side_probs[0, 0, [2, 3, 4]].tolist() == pytest.approx([0.5, 0, 0.5])


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_certainty_has_no_spread(dtype):
    """All mass in one bin, in half precision too: 0, and not NaN."""
    raw = torch.full((4, 17), -1e4)
    raw[range(4), [0, 5, 9, 16]] = 1e4
    found, = detect(build(), one_object(raw.flatten(), dtype), metas_of(), **ASKED)
    assert found.side_std.tolist() == [[0, 0, 0, 0]]
    assert found.side_probs.sum().item() == 4 and found.side_probs.max() == 1


def test_a_side_that_the_border_cuts_keeps_its_spread():
    maps = one_object(logits_of({14: .5, 16: .5}, ONE_PLACE, ONE_PLACE, ONE_PLACE))
    found, = detect(build(), maps, metas_of(), **ASKED)
    assert found.bboxes[0, 0] == 0 and found.side_std[0, 0] == pytest.approx(8) and found.side_places[0, 0, 16] < 0


def test_the_spread_is_of_all_peaks_where_the_highest_is_the_side():
    maps = one_object(logits_of(ONE_PLACE, ONE_PLACE, {2: .6, 10: .4}, ONE_PLACE))
    found, = detect(build(box=dict(type='GeneralDistribution', decode='mode')), maps, metas_of(), **ASKED)
    assert found.bboxes[0, 2] == CENTER[0] + 2 * 8, 'the higher peak'
    assert found.side_std[0, 2] == pytest.approx(8 * (0.6 * 0.4)**0.5 * 8), 'half of 8 bins apart'


def test_gaussians_by_hand():
    """Raw zeros are half the prior's size, 32 pixels; a log-spread of log(2) is 2 strides."""
    raw = torch.tensor([1, 1, 1, 1, 2, 1, 0.5, 1]).log()
    found, = detect(build(box='GaussianDistribution'), one_object(raw), metas_of((1., 2.)), rescale=True, **ASKED)
    assert found.side_std[0].tolist() == pytest.approx([16, 4, 4, 4])
    places, probs = found.side_places[0, 0], found.side_probs[0, 0]
    assert places[[0, 8, 16]].tolist() == pytest.approx([64 + 4 * 16, 64, 64 - 4 * 16]), 'four spreads to both sides'
    density = torch.distributions.Normal(64., 16.).log_prob(places).exp()
    assert torch.allclose(probs, density / density.sum(), rtol=1e-4)
    require_agreement(found, [192., 80.])


# ---- in every path ----

@pytest.mark.parametrize('quality, box, nms', [(*pair, 'hard') for pair in SPREADING] + [
    ('IoUBranch', 'GeneralDistribution', 'class_agnostic'), ('IoUBranch', 'GeneralDistribution', 'soft')])
def test_asking_changes_no_detection(quality, box, nms):
    head = build(quality, box)
    maps, (_, metas) = head(random_features(2, HEIGHT, WIDTH)), random_objects((1, 1), HEIGHT, WIDTH)
    for options in (dict(), dict(rescale=True, max_per_img=7), dict(with_nms=False)):
        options.update(nms=SUPPRESSION[nms], nms_pre=40)
        for plain, asked in zip(detect(head, maps, metas, **options), detect(head, maps, metas, **options, **ASKED)):
            assert len(plain) and set(plain.keys()) == {'bboxes', 'scores', 'labels'}
            for name, value in plain.items():
                assert torch.equal(value, asked[name]), name
            require_agreement(asked, [WIDTH / 1.25, HEIGHT / 1.2] if 'rescale' in options else [WIDTH, HEIGHT])


def test_nothing_is_computed_unless_it_is_asked_for(monkeypatch):
    head, asked = build(), []
    for name in ('spread', 'distribution'):
        function = getattr(type(head.box), name)
        monkeypatch.setattr(type(head.box), name,
                            lambda *args, name=name, function=function: (asked.append(name), function(*args))[1])
    maps = head(random_features(1, HEIGHT, WIDTH))
    for settings, expected in ((dict(), []), (dict(uncertainty=False), []), (dict(uncertainty=True), ['spread']),
                               (dict(distributions=True), ['distribution'])):
        asked.clear()
        detect(head, maps, metas_of(), **settings)
        assert asked == expected, settings


def test_only_what_is_kept_is_computed(monkeypatch):
    head = build()
    spread = type(head.box).spread
    monkeypatch.setattr(type(head.box), 'spread', lambda self, raw, priors: spread(self, raw[:5], priors)
                        if len(raw) == 5 else pytest.fail(f'{len(raw)} spreads for 5 detections'))
    found, = detect(head, head(random_features(1, HEIGHT, WIDTH)), metas_of(), uncertainty=True, max_per_img=5)
    assert found.side_std.shape == (5, 4)


@pytest.mark.parametrize('box', ['GeneralDistribution', 'GaussianDistribution'])
def test_images_without_detections(box):
    head = build(box=box)
    found = detect(head, head(random_features(2, HEIGHT, WIDTH)), metas_of() * 2, score_thr=0.999999, **ASKED)
    assert [(f.side_std.shape, f.side_probs.shape, f.side_places.shape) for f in found] == \
        [((0, 4), (0, 4, 17), (0, 4, 17))] * 2


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_predictions_that_are_not_finite_stay_dropped(bad):
    head = build()
    with torch.no_grad():
        scores, sides = head(random_features(1, HEIGHT, WIDTH))
        sides[0][:, 5, :, :6] = bad
        sides[1][:, 20] = bad
    plain, asked = (detect(head, (scores, sides), metas_of(), **settings)[0] for settings in (dict(), ASKED))
    assert len(plain) and torch.equal(plain.bboxes, asked.bboxes)
    assert all(asked[name].isfinite().all() for name in ('side_std', 'side_probs', 'side_places'))


@pytest.mark.parametrize('key', ASKED)
def test_a_box_without_distributions_is_refused(key):
    said = f'test_cfg.{key}=True .*box=DiracDelta .*GeneralDistribution or box=GaussianDistribution'
    with pytest.raises(SetupError, match=said):
        config = config_of('JointQuality', 'DiracDelta')
        MODELS.build(ConfigDict(config, test_cfg=dict(config.test_cfg, **{key: True})))
    head = build(box='DiracDelta')
    with pytest.raises(SetupError, match=said):
        detect(head, head(random_features(1, HEIGHT, WIDTH)), metas_of(), **{key: True})


# ---- test-time augmentation ----

@pytest.mark.parametrize('direction, order', [('horizontal', [2, 1, 0, 3]), ('vertical', [0, 3, 2, 1]),
                                              ('diagonal', [2, 3, 0, 1])])
def test_flips_swap_sides(direction, order):
    """A box at 10, 20, 30, 60 in a flipped image of 100 x 200 pixels."""
    places = torch.tensor([[[9., 10, 11], [18, 20, 22], [28, 30, 32], [57, 60, 63]]])
    probs = torch.tensor([[[.1, .8, .1], [.2, .6, .2], [.3, .4, .3], [.4, .2, .4]]])
    found = InstanceData(bboxes=torch.tensor([[10., 20, 30, 60]]), scores=torch.ones(1), labels=torch.ones(1).long(),
                         side_std=torch.tensor([[1., 2, 3, 4]]), side_probs=probs, side_places=places)
    before = copy.deepcopy(found)
    result = unflip(found, dict(flip=True, flip_direction=direction, ori_shape=(100, 200)))
    assert result.side_std.tolist() == [[order[i] + 1 for i in range(4)]]
    assert torch.equal(result.side_probs, probs[:, order])
    assert torch.equal(result.side_places[..., 1], result.bboxes), 'here the middle place is the side'
    if direction == 'horizontal':
        assert result.side_places[0, :2].tolist() == [[172, 170, 168], [18, 20, 22]]
    assert all(torch.equal(value, before[name]) for name, value in found.items()), 'the view itself should not change'


@pytest.mark.parametrize('direction, nms', [('horizontal', 'hard'), ('vertical', 'class_agnostic'),
                                            ('diagonal', 'soft')])
def test_merged_views_are_those_of_mmdetection(direction, nms):
    """The second view is flipped, and twice as large."""
    model = MODELS.build(detector_config('gfl_plugin.GFLHead', 'gfl_plugin.')).eval()
    torch.nn.init.normal_(model.bbox_head.gfl_cls.weight, std=0.1)
    torch.nn.init.normal_(model.bbox_head.gfl_reg.weight, std=0.3)
    model.bbox_head.test_cfg.update(ASKED, nms_pre=60)
    image, samples = data(1)
    axes = dict(horizontal=[-1], vertical=[-2], diagonal=[-1, -2])[direction]
    inputs = [image, torch.nn.functional.interpolate(image, scale_factor=2).flip(axes)]
    views = [copy.deepcopy(samples), copy.deepcopy(samples)]
    views[0][0].set_metainfo(dict(flip=False, flip_direction=None))
    views[1][0].set_metainfo(dict(flip=True, flip_direction=direction, scale_factor=(2., 2.),
                                  img_shape=(2 * HEIGHT, 2 * WIDTH), batch_input_shape=(2 * HEIGHT, 2 * WIDTH)))
    with torch.no_grad():
        found = [model.predict(*view, rescale=True)[0] for view in zip(inputs, views)]
    expected, merged = (MODELS.build(dict(type=kind, module=model,
                                          tta_cfg=ConfigDict(nms=SUPPRESSION[nms], max_per_img=20)))
                        .merge_preds([copy.deepcopy(found)])[0].pred_instances
                        for kind in ('DetTTAModel', 'gfl_plugin.DetTTAModel'))
    assert len(expected) == 20
    for name, value in expected.items():
        assert torch.equal(value, merged[name]), name
    require_agreement(merged, [WIDTH, HEIGHT])


def test_views_without_detections():
    model = MODELS.build(detector_config('gfl_plugin.GFLHead', 'gfl_plugin.')).eval()
    model.bbox_head.test_cfg.update(ASKED, score_thr=1.0)
    inputs, samples = data(1)
    samples[0].set_metainfo(dict(flip=True, flip_direction='horizontal'))
    tta = MODELS.build(dict(type='gfl_plugin.DetTTAModel', module=model,
                            tta_cfg=ConfigDict(nms=SUPPRESSION['hard'], max_per_img=20)))
    found = tta.test_step(dict(inputs=[[inputs[0]]] * 2, data_samples=[samples, copy.deepcopy(samples)]))
    assert found[0].pred_instances.side_std.shape == (0, 4)


def test_the_tools_merge_by_it():
    config = Config.fromfile(SHAPES)
    _augment_at_test_time(config)
    assert config.model.type == 'gfl_plugin.DetTTAModel'


# ---- what takes detections ----

def test_saved_detections_carry_it(tmp_path):
    model = MODELS.build(detector_config('gfl_plugin.GFLHead', 'gfl_plugin.')).eval()
    model.bbox_head.test_cfg.update(uncertainty=True)
    inputs, samples = data(2)
    with torch.no_grad():
        found = model.predict(inputs, samples, rescale=True)
    metric = METRICS.build(dict(type='DumpDetResults', out_file_path=str(tmp_path / 'found.pkl')))
    metric.process({}, [sample.to_dict() for sample in found])
    metric.evaluate(2)
    saved = pickle.loads((tmp_path / 'found.pkl').read_bytes())
    for sample, entry in zip(found, saved):
        assert torch.equal(entry['pred_instances']['side_std'], sample.pred_instances.side_std)


def test_cocos_metric_does_not_mind(tmp_path):
    results = []
    for extra in (dict(), dict(side_std=torch.ones(2, 4), side_probs=torch.ones(2, 4, 17) / 17)):
        metric = METRICS.build(dict(type='gfl_plugin.CocoMetric'))
        metric.dataset_meta = dict(classes=('dog', 'cat'))
        boxes = torch.tensor([[0., 0, 50, 50], [100, 100, 300, 300]])
        instances = [dict(bbox=box, bbox_label=label) for label, box in enumerate(boxes.tolist())]
        found = dict(bboxes=boxes, scores=torch.ones(2), labels=torch.arange(2), **extra)
        metric.process({}, [dict(img_id=5, ori_shape=(400, 400), instances=instances, pred_instances=found)])
        results.append(metric.evaluate(1))
    assert results[0] == results[1]
