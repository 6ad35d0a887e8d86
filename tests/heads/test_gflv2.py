"""GFLv2: its quality predictor, and what it shares with the head it extends."""
import copy

import pytest
import torch
from mmdet.models.dense_heads import GFLHead as MMDetGFLHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from reference import assert_close, head_config, losses_and_gradients, random_features, random_objects

from gfl_plugin.errors import SetupError
from gfl_plugin.quality.distribution_guided import distribution_statistics, logit_of_product


def twins(**options):
    """GFL and GFLv2 that share all weights of the first."""
    plain = MODELS.build(head_config('gfl_plugin.GFLHead', 'gfl_plugin.'))
    guided = MODELS.build(head_config('gfl_plugin.GFLV2Head', 'gfl_plugin.', **options))
    torch.nn.init.normal_(plain.gfl_cls.weight, std=0.1)
    torch.nn.init.normal_(plain.gfl_reg.weight, std=0.3)
    torch.nn.init.normal_(guided.reg_conf[2].weight, std=0.5)  # qualities of every size
    missing, unexpected = guided.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith('reg_conf.') for name in missing)
    return plain, guided


def test_statistics_by_hand():
    logits = torch.full((1, 4, 6, 1, 1), -50.)
    logits[0, :, :4, 0, 0] = torch.tensor([0.1, 0.5, 0.3, 0.1]).log()
    statistics = distribution_statistics(logits, 4)
    assert statistics.shape == (1, 20, 1, 1), 'four sides of top-4 and their mean'
    assert torch.allclose(statistics.flatten(), torch.tensor([0.5, 0.3, 0.1, 0.1, 0.25]).repeat(4), atol=1e-5)


def test_logit_of_product():
    a, b = torch.randn(50) * 4, torch.randn(50) * 4
    assert torch.allclose(logit_of_product(a, b).sigmoid(), a.sigmoid() * b.sigmoid(), atol=1e-6)
    a = torch.tensor([-200., 200, 200, 0, -100], requires_grad=True)
    x = logit_of_product(a, torch.tensor([0., 200, -200, 300, -100]))
    x.sum().backward()
    assert x.isfinite().all() and a.grad.isfinite().all(), 'no overflow at either end'


def guided_scores(head, cls_logits, sides):
    """Probabilities (B, C, H, W) by the formulas of arXiv:2011.12885, section 3.2, as GFocalV2 computes them.

    The source is mmdet/models/dense_heads/gfocal_head.py of github.com/implus/GFocalV2: the statistics of a side are
    its largest probabilities, in falling order, and then the mean of these, not of all; nothing is detached.
    """
    exponentials = sides.unflatten(1, (4, 17)).exp()
    probabilities = exponentials / exponentials.sum(2, keepdim=True)
    largest = [probabilities.sort(2, descending=True).values[:, :, i] for i in range(4)]  # each (B, 4, H, W)
    statistics = largest + ([sum(largest) / 4] if getattr(head, 'quality', head).add_mean else [])
    statistics = torch.stack(statistics, 2).flatten(1, 2)
    first, second = head.reg_conf[0], head.reg_conf[2]
    hidden = torch.einsum('oi,bihw->bohw', first.weight[:, :, 0, 0], statistics) + first.bias[:, None, None]
    quality = torch.einsum('o,bohw->bhw', second.weight[0, :, 0, 0], hidden.clamp(min=0)) + second.bias
    return 1 / (1 + (-cls_logits).exp()) / (1 + (-quality[:, None]).exp())


@pytest.mark.parametrize('add_mean', [True, False])
def test_scores_are_the_product_of_class_and_quality(add_mean):
    plain, guided = twins(add_mean=add_mean)
    assert guided.reg_conf[0].in_channels == (20 if add_mean else 16)
    features = random_features(2, 160, 192)
    for cls_logits, sides, joint, same in zip(*plain(features), *guided(features)):
        assert_close(same, sides, 'the boxes')
        assert_close(joint.sigmoid(), guided_scores(guided, cls_logits, sides), 'the joint score')


def test_losses_are_those_of_the_repository():
    """GFocalV2 applies QFL to the product as a probability; otherwise its losses are those of MMDetection's GFLHead."""
    plain, guided = twins()
    reference = MODELS.build(head_config('GFLHead'))
    reference.load_state_dict(plain.state_dict())
    reference.reg_conf, reference.add_mean = copy.deepcopy(guided.reg_conf), True

    def loss_by_feat(cls_logits, sides, *inputs):
        joint = [guided_scores(reference, *maps) for maps in zip(cls_logits, sides)]
        return MMDetGFLHead.loss_by_feat(reference, [torch.logit(p) for p in joint], sides, *inputs)

    reference.loss_by_feat = loss_by_feat
    inputs = random_features(2, 160, 192), *random_objects((5, 3), 160, 192)
    results = [losses_and_gradients(head, *inputs) for head in (guided, reference)]
    for ours, theirs, what in zip(*results, ('', 'the gradient of ')):
        assert set(ours) == set(theirs)
        for name in theirs:
            assert_close(ours[name], theirs[name], what + name)


def test_it_starts_as_in_the_repository():
    """All convolutions of standard deviation 0.01, and scores of 0.01 times a quality of 1/2."""
    guided = MODELS.build(head_config('gfl_plugin.GFLV2Head', 'gfl_plugin.'))
    guided.init_weights()
    for layer in (guided.reg_conf[0], guided.reg_conf[2]):
        assert 0.007 < layer.weight.std() < 0.013 and not layer.bias.any()
    scores, _ = guided(random_features(1, 160, 192))
    assert all(abs(s.sigmoid().mean() - 0.005) < 0.0005 for s in scores)


def test_the_quality_learns_from_the_boxes():
    guided = twins()[1]
    inputs = random_features(2, 160, 192), *random_objects((5, 3), 160, 192)
    _, gradients = losses_and_gradients(guided, *inputs)
    assert gradients['reg_conf.0.weight'].abs().sum() > 0 and gradients['reg_conf.2.weight'].abs().sum() > 0


def test_names_are_those_of_published_checkpoints():
    """In GFocalV2: gfl_cls, gfl_reg, scales, integral.project and the two layers of the predictor."""
    keys = {'reg_conf.0.weight': (64, 20, 1, 1), 'reg_conf.0.bias': (64, ), 'reg_conf.2.weight': (1, 64, 1, 1),
            'reg_conf.2.bias': (1, ), 'gfl_reg.weight': (68, 16, 3, 3), 'integral.project': (17, )}
    state = twins()[1].state_dict()
    for name, shape in keys.items():
        assert tuple(state[name].shape) == shape, name


@pytest.mark.parametrize('box', ['DiracDelta', 'GaussianDistribution'])
def test_boxes_without_probabilities_are_refused(box):
    config = ConfigDict(head_config('gfl_plugin.GFLV2Head', 'gfl_plugin.'), box=dict(type=box), loss_dfl=None,
                        reg_max=None)
    with pytest.raises(SetupError, match=f'DistributionGuidedQuality.*box={box} predicts none.*GeneralDistribution'):
        MODELS.build(config)


@pytest.mark.parametrize('options', [dict(reg_max=2), dict(reg_topk=18), dict(reg_topk=0)])
def test_more_probabilities_than_bins_are_refused(options):
    topk, reg_max = options.get('reg_topk', 4), options.get('reg_max', 16)
    with pytest.raises(SetupError, match=f'reg_topk={topk} .* {reg_max + 1} probabilities .*reg_max={reg_max}'):
        MODELS.build(head_config('gfl_plugin.GFLV2Head', 'gfl_plugin.', **options))
