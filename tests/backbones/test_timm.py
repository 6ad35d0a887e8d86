"""timm models of several families as backbones. These tests are skipped if timm is not installed."""
import math
import sys

import pytest
import torch
from data_sets import write_coco
from mmdet.registry import MODELS
from timm_setup import need_timm
from tool_runs import ROOT, parse, scalars

from gfl_plugin import engine
from gfl_plugin.backbones.timm_backbone import import_timm
from gfl_plugin.errors import SetupError

ONE_SMALL_ITERATION = [
    'train_dataloader.dataset.pipeline.2.scale=(64,64)', 'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False', 'train_cfg.max_epochs=1', 'train_cfg.val_begin=2',
    'default_hooks.logger.interval=1', 'default_hooks.checkpoint=None']
FAMILIES = ['resnet18', 'mobilenetv3_small_050', 'regnety_002', 'swin_tiny_patch4_window7_224', 'convnext_atto']


@pytest.fixture
def timm():
    need_timm()
    return import_timm()


@pytest.mark.parametrize('name', FAMILIES)
def test_feature_maps_fit_the_neck(timm, name):
    backbone = MODELS.build(dict(type='gfl_plugin.TIMMBackbone', model_name=name)).eval()
    maps = backbone(torch.randn(2, 3, 128, 160))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 128 // s, 160 // s) for c, s in zip(backbone.channels, (8, 16, 32))], \
        'maps should be NCHW, at strides 8, 16 and 32'


@pytest.mark.parametrize('name', ['mobilenetv3_small_050', 'regnety_002', 'swin_tiny_patch4_window7_224'])
def test_a_model_name_alone_selects_another_model(timm, name, tmp_path):
    """Train one iteration of the COCO config. Apart from the name, the command line only makes the data small."""
    options = parse('train', str(ROOT / 'configs/backbones/gfl_timm-resnet50_fpn_1x_coco.py'), '--data-root',
                    str(write_coco(tmp_path / 'coco')), '--work-dir', str(tmp_path / 'run'), '--no-pretrained',
                    '--cfg-options', f'model.backbone.model_name={name}', *ONE_SMALL_ITERATION)
    engine.train(options)
    logged, = scalars(tmp_path / 'run').values()
    assert 0 < logged['loss'] < math.inf


@pytest.mark.parametrize('options, said', [
    (dict(model_name='resnet1888'), 'no model .resnet1888.'),
    (dict(model_name='vit_tiny_patch16_224'), 'vit_tiny_patch16_224 .*one size.*dynamic_img_size'),
    (dict(model_name='vit_tiny_patch16_224', dynamic_img_size=True), r'at strides \[16, .*\[8, 16, 32\]'),
    (dict(model_name='resnet18', strides=(8, 16, 32, 64)), r'resnet18 .*\[2, 4, 8, 16, 32\].*\[8, 16, 32, 64\]'),
    (dict(model_name='mixer_s16_224'), 'mixer_s16_224 .*one size'),
    (dict(model_name='resnet18', out_indices=(2, 3, 4)), 'resnet18 .*by strides'),
    (dict(model_name='resnet18', frozen=['layer1', 'stage2']), "no module 'stage2' .*it has conv1, .*layer2"),
])
def test_models_that_do_not_fit_are_named(timm, options, said):
    with pytest.raises(SetupError, match=said):
        MODELS.build(dict(type='gfl_plugin.TIMMBackbone', **options))


def test_models_without_features_are_named(timm, monkeypatch):
    def create_model(name, features_only, **options):  # some models of older timm versions raise this
        raise RuntimeError('features_only not implemented for Vision Transformer models.')

    monkeypatch.setattr(timm, 'create_model', create_model)
    with pytest.raises(SetupError, match='deit_tiny_patch16_224 .*features_only not implemented'):
        MODELS.build(dict(type='gfl_plugin.TIMMBackbone', model_name='deit_tiny_patch16_224'))


def test_unused_stages_are_not_built_and_batch_norm_is_frozen(timm):
    backbone = MODELS.build(dict(type='gfl_plugin.TIMMBackbone', model_name='resnet18', strides=(8, 16),
                                 norm_eval=True)).train()
    assert not any('layer4' in name for name, _ in backbone.named_parameters()), \
        'C5 is not used, so it should not be built'
    assert not any(m.training for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_frozen_modules_do_not_learn(timm):
    backbone = MODELS.build(dict(type='gfl_plugin.TIMMBackbone', model_name='resnet18', frozen=['conv1', 'layer1']))
    sum(m.sum() for m in backbone(torch.randn(1, 3, 64, 64))).backward()
    still = {name.split('.')[1] for name, p in backbone.named_parameters() if p.grad is None}
    assert still == {'conv1', 'layer1'}


def test_a_training_starts_from_pretrained_weights(timm, monkeypatch):
    """They are requested when weights are initialized, and not before. Nothing is downloaded here."""
    backbone = MODELS.build(dict(type='gfl_plugin.TIMMBackbone', model_name='resnet18', pretrained=True))
    published, asked = timm.create_model('resnet18', features_only=True, out_indices=(2, 3, 4)), []
    monkeypatch.setattr(timm, 'create_model', lambda name, pretrained, **options: asked.append(pretrained) or published)
    backbone.init_weights()
    assert asked == [True]
    state = published.state_dict()
    assert all(value.equal(state[name]) for name, value in backbone.model.state_dict().items()) and state


def test_without_timm_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(SetupError, match='pip install timm'):
        MODELS.build(dict(type='gfl_plugin.TIMMBackbone', model_name='resnet18'))
