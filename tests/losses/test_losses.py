"""The losses: numbers worked by hand, their properties, and MMDetection's losses as the reference."""
import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from reference import assert_close

from gfl_plugin.losses import (
    FocalLoss,
    QualityFocalLoss,
    VarifocalLoss,
    ciou_loss,
    distribution_focal_loss,
    focal_loss,
    gaussian_nll_loss,
    generalized_focal_loss,
    giou_loss,
    quality_focal_loss,
    varifocal_loss,
)
from gfl_plugin.losses.closed_form import ClassTargets, ClosedForm
from gfl_plugin.losses.fused_class_loss import fused_class_loss

BETAS = (0, 0.5, 1, 1.7, 2, 2.5, 4)
BACKGROUND = ClassTargets(*(torch.zeros(0, dtype=torch.long), ) * 3, torch.zeros(0))  # no positive at all


def fused_qfl(logits, targets, beta=2.0, weight=None, scale=1.0):
    """The closed form of QFL on one class map (B, C, H, W); ``weight`` is (B, H, W)."""
    return fused(ClosedForm(beta, beta), logits, targets, weight, scale)


def fused(form, logits, targets, weight=None, scale=1.0):
    return fused_class_loss(form, [logits], [targets], [None if weight is None else weight.flatten(1)], scale)


def value_and_gradient(function, logits):
    logits = logits.clone().requires_grad_()
    value = function(logits)
    return value.detach(), torch.autograd.grad(value.sum(), logits)[0]


@pytest.mark.parametrize('wrong', [0.0, 3.001e-6, float('nan')])
def test_comparisons_see_the_small_gradients_of_the_background(wrong):
    """A map has few positives and very many negatives, whose slopes are 10,000 times smaller."""
    gradient = torch.full((8, 100, 100), 3e-6)
    gradient[2, ::20, ::50] = -0.05
    damaged = torch.where(gradient > 0, wrong, gradient)
    assert_close(gradient.clone(), gradient, 'the same gradient')
    with pytest.raises(AssertionError, match='off by'):
        assert_close(damaged, gradient, 'a gradient that lost its background')


# ---- quality focal loss ----

def test_qfl_by_hand():
    # sigma = 1/2, y = 1: (1/2)^2 log 2; y = 0: the same; y = 1/2: nothing left to learn.
    loss = quality_focal_loss(torch.zeros(3), torch.tensor([1., 0., 0.5]))
    assert loss.tolist() == pytest.approx([math.log(2) / 4, math.log(2) / 4, 0]), 'eq. 2 at sigma = 1/2'


def test_qfl_at_beta_0_is_binary_cross_entropy():
    logits, target = torch.randn(100) * 4, torch.rand(100)
    loss, gradient = value_and_gradient(lambda x: quality_focal_loss(x, target, beta=0), logits)
    expected, expected_gradient = value_and_gradient(
        lambda x: F.binary_cross_entropy_with_logits(x, target, reduction='none'), logits)
    assert_close(loss, expected, 'QFL at beta 0')
    assert_close(gradient, expected_gradient, 'its gradient')


@pytest.mark.parametrize('beta', [b for b in BETAS if b > 0])
def test_qfl_is_least_where_the_score_is_the_quality(beta):
    quality = torch.tensor([0.1, 0.35, 0.5, 0.8])
    loss, gradient = value_and_gradient(lambda x: quality_focal_loss(x, quality, beta), quality.logit())
    around = torch.stack([quality_focal_loss((quality + d).logit(), quality, beta) for d in (-0.05, -0.01, 0.01, 0.05)])
    assert (loss < around).all(), f'QFL at sigma = y should be below its neighbours for beta {beta}'
    assert gradient.isfinite().all(), f'the gradient at sigma = y should be finite for beta {beta}'


@pytest.mark.parametrize('beta', BETAS)
def test_qfl_is_finite_for_any_beta_and_extreme_logits(beta):
    logits, target = torch.tensor([-100., -20, 0, 20, 100, 0.]), torch.tensor([1., 0, 0.5, 1, 0, 0.3])
    loss, gradient = value_and_gradient(lambda x: quality_focal_loss(x, target, beta), logits)
    assert loss.isfinite().all() and (loss >= 0).all(), 'QFL should be finite and not negative'
    assert gradient.isfinite().all(), 'its gradient should be finite'


@pytest.mark.parametrize('beta', BETAS)
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_qfl_module_is_mmdetections(beta, reduction):
    logits, label = torch.randn(50, 6) * 3, torch.randint(0, 7, (50, ))  # 6 is background
    quality, weight = torch.rand(50), torch.rand(50)
    for target in ((label, quality), F.one_hot(label, 7)[:, :6] * quality[:, None]):
        results = []
        for scope in ('', 'gfl_plugin.'):
            loss = MODELS.build(dict(type=f'{scope}QualityFocalLoss', beta=beta, reduction=reduction, loss_weight=1.5))
            results.append(value_and_gradient(lambda x: loss(x, target, weight), logits))
        assert_close(results[1][0], results[0][0], 'the loss')
        assert_close(results[1][1], results[0][1], 'its gradient')


@pytest.mark.parametrize('beta', BETAS)
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_qfl_of_a_map_is_the_sum_over_its_cells(beta, weighted, layout):
    logits = (torch.randn(2, 5, 70, 90) * 3).to(memory_format=layout)  # more than one chunk an image
    cell = torch.randperm(2 * 70 * 90)[:40]
    image, row, column = cell // 6300, cell % 6300 // 90, cell % 90
    label, quality = torch.randint(0, 5, (40, )), torch.rand(40)
    weight = torch.rand(2, 70, 90) if weighted else None
    dense = torch.zeros_like(logits).index_put((image, label, row, column), quality)

    def reference(x):
        return (quality_focal_loss(x, dense, beta) * (1 if weight is None else weight[:, None])).double().sum()

    targets = ClassTargets(image, label, cell % 6300, quality)
    expected, expected_gradient = value_and_gradient(reference, logits)
    loss, gradient = value_and_gradient(lambda x: fused_qfl(x, targets, beta, weight), logits)
    assert_close(loss.double(), expected, 'the sum over the map')
    assert_close(gradient, expected_gradient, 'its gradient')
    every_second = targets._replace(valid=torch.arange(40) % 2 == 0)
    some = ClassTargets(*(x[::2] for x in targets[:4]))
    masked = value_and_gradient(lambda x: fused_qfl(x, every_second, beta, weight), logits)
    chosen = value_and_gradient(lambda x: fused_qfl(x, some, beta, weight), logits)
    assert_close(masked[0], chosen[0], 'an invalid slot should add nothing')
    assert_close(masked[1], chosen[1], 'the gradient, with nothing of an invalid slot,')


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('label', [-1, 5, 6, 1000])
def test_a_label_outside_of_the_classes_is_background(label, layout):
    """In the last image such a label would reach beyond the map, in the others into another image or class."""
    logits = torch.randn(3, 5, 6, 7).to(memory_format=layout)
    expected = value_and_gradient(lambda x: fused_qfl(x, BACKGROUND), logits)
    image, labels = torch.arange(3), torch.full((3, ), label)
    for valid in (None, torch.tensor([True, False, True])):
        targets = ClassTargets(image, labels, 8 * image, torch.rand(3), valid)
        found = value_and_gradient(lambda x: fused_qfl(x, targets), logits)
        for a, b, what in zip(found, expected, ('loss', 'gradient')):
            assert a.equal(b), f'the {what} should be that of a map of background alone'


def test_qfl_of_a_map_twice_differentiated_or_scaled():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.long)
    loss = fused_qfl(logits, ClassTargets(zero, zero + 1, zero + 4, torch.tensor([0.7])))
    once, again, tripled = (torch.autograd.grad(factor * loss, logits, retain_graph=True)[0] for factor in (1, 1, 3))
    assert once.abs().sum() > 0 and again.equal(once), 'a graph that was kept should give its gradient again'
    assert_close(tripled, 3 * once, 'the gradient of a scaled loss')
    for factor, said in ((torch.ones(()), 'does not require grad'), (torch.ones((), requires_grad=True), 'once')):
        gradient, = torch.autograd.grad(factor * loss, logits, create_graph=True)
        with pytest.raises(RuntimeError, match=said):  # rather than a second derivative of 0
            gradient.sum().backward()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_sums_over_half_precision_logits_are_fp32(dtype):
    logits = torch.full((1, 80, 100, 168), 6.0, dtype=dtype)  # 1.3 million logits of loss about 6: fp16 ends at 65,504
    loss, gradient = value_and_gradient(lambda x: fused_qfl(x, BACKGROUND), logits)
    assert_close(loss, quality_focal_loss(logits, torch.zeros_like(logits)).double().sum().float(), 'the sum')
    assert gradient.dtype == dtype, 'the gradient should have the dtype of the logits'


@pytest.mark.parametrize('mean', [-4.0, -6.0, -8.0])
def test_small_slopes_survive_fp16(mean):
    """Mixed precision multiplies the loss by 65,536; until then the slopes of easy negatives would be 0 in fp16."""
    logits = (mean + 0.3 * torch.randn(1, 8, 40, 50)).half()
    half, single = (value_and_gradient(lambda x: 65536 * fused_qfl(x, BACKGROUND, scale=0.1),
                                       x)[1].double().sum() / 65536 for x in (logits, logits.float()))
    assert abs(half / single - 1) < 0.005, f'{half / single:.1%} of the gradient of the background is left'


@pytest.mark.parametrize('beta', [0.5, 1, 2, 4])
def test_large_slopes_survive_fp16(beta):
    """Weights well above 1, and positives as wrong as can be: nothing overflows that the final gradient can hold."""
    logits = (4 * torch.randn(1, 2, 8, 10)).half()
    logits[0, 0, 0, :4] = torch.tensor([-30., 0, 30, 1e-2])
    index = torch.arange(8)
    quality = torch.tensor([1, 0.5, 0, 0.5, 1, 1, 0.1, 0.9])
    targets = ClassTargets(0 * index, 0 * index, index, quality)
    for weight in (None, torch.full((1, 8, 10), 300.0)):
        half, single = (value_and_gradient(lambda x: fused_qfl(x, targets, beta, weight), x)[1]
                        for x in (logits, logits.float()))
        assert torch.allclose(half.float(), single, rtol=2e-3, atol=1e-6), f'with a weight of {weight}'


def test_slopes_beyond_fp16_are_its_largest():
    """For beta < 1 the slope of a positive grows without bound as its score nears the quality."""
    logits = torch.zeros(1, 1, 1, 1, dtype=torch.float16)
    zero = torch.zeros(1, dtype=torch.long)
    targets = ClassTargets(zero, zero, zero, torch.tensor([0.5 + 1e-6]))
    _, gradient = value_and_gradient(lambda x: fused_qfl(x, targets, 0.5), logits)
    assert gradient.isfinite().all() and gradient < -1, 'the slope should be cut, not infinite'


def test_activated_qfl_takes_probabilities():
    logits, label, quality = torch.randn(20, 4), torch.randint(0, 5, (20, )), torch.rand(20)
    loss = MODELS.build(dict(type='gfl_plugin.QualityFocalLoss', activated=True))
    plain = MODELS.build(dict(type='gfl_plugin.QualityFocalLoss'))
    assert_close(loss(logits.sigmoid(), (label, quality)), plain(logits, (label, quality)), 'QFL of probabilities')


# ---- distribution focal loss ----

def test_dfl_by_hand():
    # n = 2, S = (1/2, 1/4, 1/4), y = 0.25: -(0.75 log(1/2) + 0.25 log(1/4)).
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    assert distribution_focal_loss(logits, torch.tensor(0.25)).item() == pytest.approx(1.25 * math.log(2)), 'eq. 6'


def test_dfl_is_least_at_the_split_between_two_bins():
    y = torch.tensor([3.3])
    split = torch.full((1, 8), 1e-9)
    split[0, 3], split[0, 4] = 0.7, 0.3
    loss, gradient = value_and_gradient(lambda x: distribution_focal_loss(x, y), split.log())
    assert gradient.abs().max() < 1e-6, 'at S_l = y_r - y, S_r = y - y_l the gradient should vanish'
    noisy = torch.stack([distribution_focal_loss(split.log() + 0.3 * torch.randn(1, 8), y) for _ in range(50)])
    assert (noisy >= loss).all(), 'no other distribution should have a lower loss'


@pytest.mark.parametrize('y', [0.0, 7.9, 8.0, 8.5, 20.0, -0.3, -5.0])
def test_dfl_at_and_beyond_the_ends(y):
    """A target beyond the last bin is trained towards that bin alone, and one below 0 towards bin 0."""
    logits = torch.randn(9)
    loss, gradient = value_and_gradient(lambda x: distribution_focal_loss(x, torch.tensor(y)), logits)
    if 0 < y < 8:
        expected = value_and_gradient(lambda x: -(0.1 * x.log_softmax(-1)[7] + 0.9 * x.log_softmax(-1)[8]), logits)
    else:
        expected = value_and_gradient(lambda x: -x.log_softmax(-1)[8 if y > 0 else 0], logits)
    assert_close(loss, expected[0], f'the loss of a target of {y} of 8 bins')
    assert_close(gradient, expected[1], f'the gradient of a target of {y} of 8 bins')


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_dfl_and_giou_modules_are_mmdetections(reduction):
    side = torch.rand(60) * 15.9
    boxes = torch.rand(60, 4) * 5
    boxes[:, 2:] += boxes[:, :2]
    inputs = {'DistributionFocalLoss': (torch.randn(60, 17), side),
              'GIoULoss': (boxes + torch.rand(60, 4), boxes)}
    for name, (pred, target) in inputs.items():
        weight, results = torch.rand(60), []
        for scope in ('', 'gfl_plugin.'):
            loss = MODELS.build(dict(type=scope + name, reduction=reduction, loss_weight=0.25))
            factor = 7.0 if reduction == 'mean' else None
            results.append(value_and_gradient(lambda x: loss(x, target, weight, avg_factor=factor), pred))
        assert_close(results[1][0], results[0][0], f'{name}, {reduction}')
        assert_close(results[1][1], results[0][1], f'the gradient of {name}, {reduction}')


# ---- GIoU ----

def test_giou_by_hand():
    # Two unit squares with a unit gap: no overlap, hull 3, union 2: GIoU = -1/3.
    apart = giou_loss(torch.tensor([[0., 0, 1, 1]]), torch.tensor([[2., 0, 3, 1]]))
    assert apart.item() == pytest.approx(4 / 3), 'GIoU loss of squares apart'
    assert giou_loss(torch.tensor([[0., 0, 2, 2]]), torch.tensor([[0., 0, 2, 2]])).item() == pytest.approx(0, abs=1e-6)


# ---- the unified form ----

def log_probabilities(logits):
    return F.logsigmoid(-logits), F.logsigmoid(logits)


@pytest.mark.parametrize('beta', BETAS)
def test_focal_loss_is_a_special_case(beta):
    logits, label = torch.randn(100).double() * 3, torch.randint(0, 2, (100, )).double()

    def focal_loss(x):
        p_t = torch.where(label == 1, x.sigmoid(), 1 - x.sigmoid())
        return -(1 - p_t)**beta * p_t.log()

    unified = value_and_gradient(lambda x: generalized_focal_loss(*log_probabilities(x), label, 0, 1, beta), logits)
    for a, b, what in zip(unified, value_and_gradient(focal_loss, logits), ('value', 'gradient')):
        assert_close(a, b, f'the {what} of GFL at (0, 1), y in {{0, 1}}')


@pytest.mark.parametrize('beta', BETAS)
def test_qfl_is_a_special_case(beta):
    logits, quality = torch.randn(100) * 3, torch.rand(100)
    module = MODELS.build(dict(type='gfl_plugin.GeneralizedFocalLoss', beta=beta, reduction='none'))
    expected = value_and_gradient(lambda x: quality_focal_loss(x, quality, beta), logits)
    for a, b, what in zip(value_and_gradient(lambda x: module(x, quality), logits), expected, ('value', 'gradient')):
        assert_close(a, b, f'the {what} of GFL at (0, 1), y in [0, 1]')


def test_dfl_is_a_special_case():
    logits, y = torch.randn(100, 17), torch.rand(100) * 16
    left = y.floor()

    def unified(x):
        log_s = x.log_softmax(-1)
        pair = [log_s.gather(1, (left + i).long()[:, None])[:, 0] for i in (0, 1)]
        return generalized_focal_loss(*pair, y, left, left + 1, beta=0)

    expected = value_and_gradient(lambda x: distribution_focal_loss(x, y), logits)
    for a, b, what in zip(value_and_gradient(unified, logits), expected, ('value', 'gradient')):
        assert_close(a, b, f'the {what} of GFL at (i, i+1), beta = 0')


# ---- bad arguments ----

@pytest.mark.parametrize('cfg, named', [
    (dict(type='QualityFocalLoss', use_sigmoid=False), 'use_sigmoid'),
    (dict(type='QualityFocalLoss', beta=-1), 'beta=-1'),
    (dict(type='GeneralizedFocalLoss', beta=-0.5), 'beta=-0.5'),
    (dict(type='GeneralizedFocalLoss', y_left=1, y_right=1), 'y_left=1'),
])
def test_bad_arguments_are_named(cfg, named):
    with pytest.raises(ValueError, match=named):
        MODELS.build(dict(cfg, type='gfl_plugin.' + cfg['type']))


def test_bad_reductions_are_named():
    loss = MODELS.build(dict(type='gfl_plugin.GIoULoss', reduction='median'))
    with pytest.raises(ValueError, match="'median'"):
        loss(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match='avg_factor'):
        loss(torch.zeros(1, 4), torch.zeros(1, 4), avg_factor=1., reduction_override='sum')


@pytest.mark.parametrize('name', ['CIoULoss', 'DistributionFocalLoss', 'FocalLoss', 'GIoULoss', 'GaussianNLLLoss',
                                  'GeneralizedFocalLoss', 'QualityFocalLoss', 'VarifocalLoss'])
@pytest.mark.parametrize('override', ['median', True])
def test_unknown_reduction_overrides_are_named_before_anything_else(name, override):
    loss = MODELS.build(dict(type=f'gfl_plugin.{name}'))
    inputs = [None] * (3 if name == 'GaussianNLLLoss' else 2)
    with pytest.raises(AssertionError, match=repr(override)):
        loss(*inputs, reduction_override=override)


# ---- focal and varifocal loss ----

def test_focal_loss_by_hand():
    # p = 1/2: alpha_t (1/2)^2 log 2, with alpha_t = 1/4 for the class and 3/4 for all others.
    loss = focal_loss(torch.zeros(2), torch.tensor([1., 0.]))
    assert loss.tolist() == pytest.approx([math.log(2) / 16, 3 * math.log(2) / 16]), 'eq. 5 at p = 1/2'


def test_focal_loss_without_alpha_is_qfl_of_labels():
    logits, label = torch.randn(100) * 4, torch.randint(0, 2, (100, )).float()
    ours = value_and_gradient(lambda x: focal_loss(x, label, gamma=2, alpha=0.5), logits)
    for a, b in zip(ours, value_and_gradient(lambda x: quality_focal_loss(x, label, 2) / 2, logits)):
        assert_close(a, b, 'FL at alpha = 1/2, twice,')


def test_varifocal_loss_by_hand():
    # p = 1/2: q log 2 for a positive, alpha / 4 log 2 for a negative.
    loss = varifocal_loss(torch.zeros(3), torch.tensor([1., 0.4, 0.]), alpha=0.75)
    assert loss.tolist() == pytest.approx([math.log(2) * f for f in (1, 0.4, 0.75 / 4)]), 'eq. 2 at p = 1/2'


@pytest.mark.parametrize('quality', [0.1, 0.5, 0.9])
def test_varifocal_loss_is_least_where_the_score_is_the_quality(quality):
    q = torch.tensor([quality])
    _, gradient = value_and_gradient(lambda x: varifocal_loss(x, q), q.logit())
    assert gradient.abs().item() < 1e-6, 'the gradient should vanish at p = q'


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('gamma', [0, 1.5, 2])
def test_focal_loss_module_is_mmdetections(gamma, reduction):
    logits, label, weight = torch.randn(50, 6) * 3, torch.randint(0, 7, (50, )), torch.rand(50)
    for target in (label, F.one_hot(label, 7)[:, :6]):
        results = []
        for scope in ('', 'gfl_plugin.'):
            loss = MODELS.build(dict(type=f'{scope}FocalLoss', gamma=gamma, reduction=reduction, loss_weight=1.5))
            results.append(value_and_gradient(lambda x: loss(x, target, weight), logits))
        assert_close(results[1][0], results[0][0], 'the loss')
        assert_close(results[1][1], results[0][1], 'its gradient')


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('options', [dict(), dict(alpha=0.25, gamma=1.5), dict(iou_weighted=False)])
def test_varifocal_loss_module_is_mmdetections(options, reduction):
    logits, label, quality = torch.randn(50, 6) * 3, torch.randint(0, 7, (50, )), torch.rand(50)
    quality[:5] = 0  # a positive whose box misses its object
    target, weight = F.one_hot(label, 7)[:, :6] * quality[:, None], torch.rand(50, 6)
    results = []
    for scope in ('', 'gfl_plugin.'):
        loss = MODELS.build(dict(type=f'{scope}VarifocalLoss', reduction=reduction, loss_weight=1.5, **options))
        factor = 7.0 if reduction == 'mean' else None
        results.append(value_and_gradient(lambda x: loss(x, target, weight, avg_factor=factor), logits))
    assert_close(results[1][0], results[0][0], 'the loss')
    assert_close(results[1][1], results[0][1], 'its gradient')


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('config', [dict(type='QualityFocalLoss'), dict(type='QualityFocalLoss', beta=1.3),
                                    dict(type='FocalLoss'), dict(type='FocalLoss', gamma=1.5, alpha=0.6),
                                    dict(type='VarifocalLoss'), dict(type='VarifocalLoss', alpha=0.3, gamma=1.0),
                                    dict(type='VarifocalLoss', iou_weighted=False)], ids=str)
def test_the_closed_form_is_the_pure_function(config, layout, weighted):
    """What training runs, on a map in its own layout, and the formula that the paper gives, on one row per prior.

    Whoever edits one of them without the other fails here.
    """
    loss = MODELS.build(dict(config, type='gfl_plugin.' + config['type'], loss_weight=1.5))
    logits = (torch.randn(2, 5, 12, 14) * 3).to(memory_format=layout)
    cell = torch.randperm(2 * 12 * 14)[:30]
    image, row, column = cell // 168, cell % 168 // 14, cell % 14
    label, target = torch.randint(0, 5, (30, )), torch.ones(30) if config['type'] == 'FocalLoss' else torch.rand(30)
    weight = torch.rand(2, 12, 14) if weighted else None
    dense = torch.zeros_like(logits).index_put((image, label, row, column), target)
    factor = torch.tensor(4.0)

    def of_rows(x):
        rows, targets = (t.permute(0, 2, 3, 1).flatten(0, 2) for t in (x, dense))
        return loss(rows, targets, None if weight is None else weight.flatten(), avg_factor=factor)

    def of_maps(x):
        targets = ClassTargets(image, label, cell % 168, target)
        return fused(loss.closed_form, x, targets, weight, loss.loss_weight / factor)

    for a, b in zip(value_and_gradient(of_maps, logits), value_and_gradient(of_rows, logits)):
        assert_close(a, b, 'the loss of the map, and its gradient,')
    half = value_and_gradient(of_maps, logits.bfloat16())[1].float()
    assert_close(half, value_and_gradient(of_rows, logits.bfloat16().float())[1], 'the gradient of a bf16 map', 0.01)


class Halved(QualityFocalLoss):
    """A user's loss: half of QFL."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) / 2


class HalvedFocal(FocalLoss):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) / 2


@pytest.mark.parametrize('loss', [
    Halved(), HalvedFocal(), QualityFocalLoss(reduction='sum'), QualityFocalLoss(activated=True),
    FocalLoss(reduction='none'), VarifocalLoss(reduction='sum')], ids=repr)
def test_the_closed_form_is_for_exactly_what_it_computes(loss):
    assert loss.closed_form is None, 'forward has to run'


@pytest.mark.parametrize('name', ['QualityFocalLoss', 'FocalLoss', 'VarifocalLoss', 'DistributionFocalLoss', 'GIoULoss',
                                  'CIoULoss', 'GaussianNLLLoss', 'GeneralizedFocalLoss'])
@pytest.mark.parametrize('override', ['median', True])
def test_an_unknown_override_is_refused_before_anything_else(name, override):
    """As MMDetection's losses do. Nothing else in this call makes sense."""
    loss = MODELS.build(dict(type=f'gfl_plugin.{name}'))
    with pytest.raises(AssertionError, match=repr(override)):
        loss(None, None, reduction_override=override)


# ---- CIoU ----

def test_ciou_by_hand():
    # A 2 x 2 box and its 1 x 2 left half: IoU 1/2, centres 1/2 apart, diagonal sqrt(8), and no aspect up to IoU 1/2.
    box, half = torch.tensor([[0., 0, 2, 2]]), torch.tensor([[0., 0, 1, 2]])
    assert ciou_loss(half, box).item() == pytest.approx(0.5 + 0.25 / 8, abs=1e-5)
    assert ciou_loss(box, box).item() == pytest.approx(0, abs=1e-5)


def test_ciou_module_is_mmdetections():
    boxes = torch.rand(200, 4) * 5
    boxes[:, 2:] += boxes[:, :2] + 1
    pred, weight, results = boxes + torch.randn(200, 4) * 0.4, torch.rand(200), []
    for scope in ('', 'gfl_plugin.'):
        loss = MODELS.build(dict(type=f'{scope}CIoULoss', loss_weight=7.5))
        results.append(value_and_gradient(lambda x: loss(x, boxes, weight, avg_factor=3.0), pred))
    assert_close(results[1][0], results[0][0], 'the loss')
    assert_close(results[1][1], results[0][1], 'its gradient')


# ---- the likelihood of a Gaussian ----

def test_gaussian_nll_is_torchs_density():
    mean, log_spread, y = torch.randn(3, 50)
    expected = -torch.distributions.Normal(mean, log_spread.exp()).log_prob(y)
    assert_close(gaussian_nll_loss(mean, log_spread, y), expected, 'the negative log-likelihood')


def test_gaussian_nll_is_least_where_the_spread_is_the_error():
    error = torch.tensor([0.2, 1.0, 3.0])
    _, gradient = value_and_gradient(lambda x: gaussian_nll_loss(torch.zeros(3), x, error), error.log())
    assert gradient.abs().max() < 1e-6, 'the gradient of the spread should vanish at s = |y - mu|'


@pytest.mark.parametrize('cfg, named', [
    (dict(type='FocalLoss', gamma=-1), 'gamma=-1'), (dict(type='FocalLoss', alpha=1.5), 'alpha=1.5'),
    (dict(type='FocalLoss', use_sigmoid=False), 'use_sigmoid'), (dict(type='VarifocalLoss', alpha=-1), 'alpha=-1'),
    (dict(type='VarifocalLoss', use_sigmoid=False), 'use_sigmoid'),
])
def test_bad_arguments_of_other_losses_are_named(cfg, named):
    with pytest.raises(ValueError, match=named):
        MODELS.build(dict(cfg, type='gfl_plugin.' + cfg['type']))
