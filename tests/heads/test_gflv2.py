"""GFLv2: its quality predictor, and what it shares with the head it extends."""
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from reference import assert_close, head_config, losses_and_gradients, random_features, random_objects

from gfl_plugin.errors import SetupError
from gfl_plugin.heads.gflv2_head import distribution_statistics, logit_of_product


def twins():
    """GFL and GFLv2 that share all weights of the first."""
    plain, guided = (MODELS.build(head_config(name, 'gfl_plugin.'))
                     for name in ('gfl_plugin.GFLHead', 'gfl_plugin.GFLV2Head'))
    torch.nn.init.normal_(plain.gfl_cls.weight, std=0.1)
    torch.nn.init.normal_(plain.gfl_reg.weight, std=0.3)
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


def test_scores_are_the_product_of_class_and_quality():
    plain, guided = twins()
    features = random_features(2, 160, 192)
    (scores, sides), (guided_scores, guided_sides) = plain(features), guided(features)
    for score, side, joint, same in zip(scores, sides, guided_scores, guided_sides):
        assert_close(same, side, 'the boxes')
        top = side.unflatten(1, (4, 17)).softmax(2).topk(4, 2).values
        statistics = torch.cat([top, top.mean(2, keepdim=True)], 2).reshape(len(side), 20, *side.shape[2:])
        assert_close(joint.sigmoid(), score.sigmoid() * guided.reg_conf(statistics).sigmoid(), 'the joint score')


def test_losses_are_those_of_the_repository():
    """GFocalV2 applies QFL to the product as a probability; here its logit is what the sweep takes."""
    guided = twins()[1]
    direct = MODELS.build(ConfigDict(
        head_config('gfl_plugin.GFLV2Head', 'gfl_plugin.'), loss_cls=dict(type='gfl_plugin.QualityFocalLoss')))
    direct.load_state_dict(guided.state_dict())
    loss = MODELS.build(dict(type='gfl_plugin.QualityFocalLoss', activated=True))

    class OnProbabilities(torch.nn.Module):  # no forward_maps: one row a prior
        def forward(self, pred, *inputs, **named):
            return loss(pred.sigmoid().clamp(1e-7, 1 - 1e-7), *inputs, **named)

    direct.quality.loss_cls = OnProbabilities()
    inputs = random_features(2, 160, 192), *random_objects((5, 3), 160, 192)
    results = [losses_and_gradients(head, *inputs) for head in (guided, direct)]
    for ours, theirs, what in zip(*results, ('', 'the gradient of ')):
        for name in theirs:
            assert_close(ours[name], theirs[name], what + name, 1e-4)


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
    with pytest.raises(SetupError, match=f'largest probabilities.*{box}.*GFLHead'):
        MODELS.build(config)


def test_more_probabilities_than_bins_are_refused():
    with pytest.raises(SetupError, match='reg_topk=4.*reg_max=2'):
        MODELS.build(head_config('gfl_plugin.GFLV2Head', 'gfl_plugin.', reg_max=2))
