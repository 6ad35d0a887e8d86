"""What a training starts from: --weights NAME, FILE, URL or none. Downloads end at the function that would do them."""
import urllib.error

import pytest
import torch
from mmdet.registry import MODELS
from tool_runs import ROOT, log, on_shapes, parse

from gfl_plugin import engine
from gfl_plugin.engine import weights
from gfl_plugin.errors import SetupError

COCO = str(ROOT / 'configs/gfl/gfl_r50_fpn_1x_coco.py')
DOWNLOAD = 'torch.hub.load_state_dict_from_url'
NOT_TRAINED = ['optim_wrapper.optimizer.lr=0', 'train_cfg.max_epochs=1', 'train_cfg.val_begin=9']


def load(*arguments, config=COCO):
    return engine.load_config(parse('train', config, *arguments))


@pytest.fixture
def checkpoint(tmp_path):
    """The state dict of a small model of two classes, where the shapes have six."""
    config = engine.load_config(on_shapes('train', tmp_path, settings=['model.bbox_head.num_classes=2']))
    return {name: tensor + 1 if tensor.is_floating_point() else tensor
            for name, tensor in MODELS.build(config.model).state_dict().items()}


def assert_started_from(checkpoint, work_dir):
    trained = torch.load(work_dir / 'epoch_1.pth', weights_only=False)
    for kept in ('state_dict', 'ema_state_dict'):
        own = {name.removeprefix('module.'): tensor for name, tensor in trained[kept].items()}
        assert own['backbone.conv1.weight'].allclose(checkpoint['backbone.conv1.weight']), kept
        assert own['bbox_head.gfl_reg.weight'].allclose(checkpoint['bbox_head.gfl_reg.weight']), kept
        assert len(own['bbox_head.gfl_cls.weight']) == 6, kept
    number = len(checkpoint)
    lines = [line.partition('INFO - ')[2] for line in log(work_dir).splitlines() if 'stay new' in line]
    assert lines == [f'2 of {number} tensors stay new: bbox_head.gfl_cls.bias, bbox_head.gfl_cls.weight']
    assert 'size mismatch' not in log(work_dir), 'the line above has said it'


# ---- what a name means ----

def test_published_names_are_those_of_mmdetection():
    published = weights.published_weights()
    assert {'gfl_r50_fpn_1x_coco', 'gfl_r50_fpn_ms-2x_coco', 'gfl_x101-32x4d_fpn_ms-2x_coco'} <= set(published)
    assert all(url.startswith('https://') and url.endswith('.pth') for url in published.values())


def test_a_published_name_is_the_only_download():
    config = load('--weights', 'gfl_r50_fpn_ms-2x_coco')
    assert config.load_from == weights.published_weights()['gfl_r50_fpn_ms-2x_coco']
    assert config.model.backbone.init_cfg is None, 'the checkpoint brings the backbone'


@pytest.mark.parametrize('choice', ['https://weights.invalid/mine.pth', 'somewhere/mine', 'mine.pth'])
def test_files_and_urls_are_taken_as_they_are(choice):
    assert load('--weights', choice).load_from == choice


def test_a_file_without_an_ending_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine').touch()
    assert load('--weights', 'mine').load_from == 'mine'


def test_an_unknown_name_lists_the_known_ones(monkeypatch):
    with pytest.raises(SetupError, match='--weights gfl_r18 is unknown.* gfl_r50_fpn_1x_coco, gfl_r50_fpn_ms-2x_coco,'):
        load('--weights', 'gfl_r18')
    monkeypatch.setattr(weights, 'METAFILE', 'nowhere/metafile.yml')
    with pytest.raises(SetupError, match='MMDetection lists them in nowhere/metafile.yml, which does not exist'):
        load('--weights', 'gfl_r50_fpn_1x_coco')


@pytest.mark.parametrize('option', [['--weights', 'none'], ['--no-pretrained']])
def test_none_starts_from_scratch(option, tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text(f"_base_ = {COCO!r}\nload_from = 'https://weights.invalid/mine.pth'\n")
    config = load(*option, config=str(file))
    assert config.load_from is None and config.model.backbone.init_cfg is None
    assert load(*option, '--cfg-options', 'load_from=own.pth', config=str(file)).load_from == 'own.pth'


def test_none_needs_no_package(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text(f"_base_ = {str(ROOT / 'configs/backbones/gfl_timm-resnet50_fpn_1x_coco.py')!r}\n"
                    "model = dict(backbone=dict(pretrained='some-package'))\n")
    assert not load('--weights', 'none', config=str(file)).model.backbone.pretrained


def test_none_drops_the_weights_of_mmdetections_backbones_in_both_spellings(tmp_path):
    """MMDetection's ResNet refuses a ``pretrained`` that is neither a name nor None."""
    file = tmp_path / 'mine.py'
    file.write_text(f"_base_ = {COCO!r}\nmodel = dict(backbone=dict(init_cfg=None, pretrained='torchvision://resnet50'),"
                    "neck=dict(init_cfg=[dict(type='Xavier', layer='Conv2d'), dict(type='Pretrained', "
                    "checkpoint='https://weights.invalid/neck.pth')]))\n")
    model = load('--weights', 'none', config=str(file)).model
    assert MODELS.build(model.backbone).init_cfg[0]['type'] == 'Kaiming'
    assert [init['type'] for init in model.neck.init_cfg] == ['Xavier']


def test_the_two_options_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        parse('train', COCO, '--weights', 'mine.pth', '--no-pretrained')
    assert 'not allowed with' in capsys.readouterr().err


# ---- what becomes of the weights ----

def test_a_plain_state_dict_of_other_classes(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / 'weights.pth')
    engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), '--weights',
                           str(tmp_path / 'weights.pth'), settings=NOT_TRAINED))
    assert_started_from(checkpoint, tmp_path / 'run')


def test_a_published_checkpoint(checkpoint, tmp_path, monkeypatch):
    """It is made up here, and its tensors have the names that a parallel training gives them."""
    asked = []
    published = dict(meta={}, state_dict={f'module.{name}': tensor for name, tensor in checkpoint.items()})
    monkeypatch.setattr(DOWNLOAD, lambda url, **kwargs: asked.append((url, kwargs['weights_only'])) or published)
    engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), '--weights',
                           'gfl_r50_fpn_1x_coco', settings=NOT_TRAINED))
    assert asked == [(weights.published_weights()['gfl_r50_fpn_1x_coco'], True)]
    assert_started_from(checkpoint, tmp_path / 'run')


def test_a_download_that_fails_is_a_sentence(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise urllib.error.URLError('Name or service not known')

    monkeypatch.setattr(DOWNLOAD, fail)
    with pytest.raises(SetupError, match='gfl_r50.*pth cannot be downloaded .Name or service.*--weights none.*file'):
        engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), '--weights',
                               'gfl_r50_fpn_1x_coco'))


def test_a_checkpoint_to_resume_that_cannot_be_downloaded_names_no_weights(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise urllib.error.URLError('Name or service not known')

    monkeypatch.setattr(DOWNLOAD, fail)
    with pytest.raises(SetupError, match='epoch_3.pth cannot be downloaded .Name or service') as caught:
        engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), '--resume',
                               'https://weights.invalid/epoch_3.pth'))
    assert '--weights' not in str(caught.value)


def test_a_test_that_cannot_download_names_no_option_of_the_training(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise urllib.error.URLError('Name or service not known')

    monkeypatch.setattr(DOWNLOAD, fail)
    with pytest.raises(SetupError, match='mine.pth cannot be downloaded .Name or service.*download the file') as caught:
        engine.test(on_shapes('test', tmp_path / 'data', 'https://weights.invalid/mine.pth', '--work-dir',
                              str(tmp_path / 'run')))
    assert '--weights' not in str(caught.value)


def test_a_file_that_is_not_there_takes_no_folder(tmp_path):
    with pytest.raises(SetupError, match='no checkpoint .*nowhere.pth'):
        engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), '--weights',
                               'nowhere.pth'))
    assert not (tmp_path / 'run').exists()
