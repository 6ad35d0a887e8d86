"""A detector whose neck takes its channels from the backbone."""
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from reference import head_config

from gfl_plugin.errors import SetupError
from gfl_plugin.registry import MODELS as OWN


class Pyramid(BaseModule):
    """A backbone of pooled images, with twice the channels at each level."""
    channels = (3, 6, 12)

    def forward(self, x):
        return [torch.nn.functional.avg_pool2d(x, 8 * 2**i).repeat(1, 2**i, 1, 1) for i in range(3)]


@pytest.fixture(autouse=True)
def registered():
    OWN.register_module(module=Pyramid)
    yield
    del OWN._module_dict['Pyramid']


def config(backbone='gfl_plugin.Pyramid', **neck):
    head = head_config('gfl_plugin.GFLHead', 'gfl_plugin.')
    return dict(type='gfl_plugin.SingleStageDetector', backbone=dict(type=backbone), bbox_head=head,
                neck=dict(type='FPN', out_channels=16, add_extra_convs='on_output', num_outs=5, **neck),
                train_cfg=head.pop('train_cfg'), test_cfg=head.pop('test_cfg'))


@pytest.mark.parametrize('neck', [dict(), dict(in_channels=None), dict(in_channels=[3, 6, 12])])
def test_channels_of_the_neck(neck):
    detector = MODELS.build(config(**neck))
    assert detector.neck.in_channels == [3, 6, 12]
    assert len(detector.extract_feat(torch.randn(1, 3, 128, 128))) == 5


def test_backbones_that_do_not_give_their_channels():
    with pytest.raises(SetupError, match='Silent.*model.neck.in_channels'):
        OWN.register_module(name='Silent', module=type('Silent', (Pyramid, ), dict(channels=None)))
        try:
            MODELS.build(config('gfl_plugin.Silent'))
        finally:
            del OWN._module_dict['Silent']


def test_a_backbone_with_too_few_levels_for_the_neck():
    with pytest.raises(SetupError, match='Pyramid gives 3 levels.*FPN starts from level 3'):
        MODELS.build(config(start_level=3))
