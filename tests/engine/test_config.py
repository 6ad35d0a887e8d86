"""From a command line to a config: keys that are misspelt, data roots, and what cannot be built."""
import re
import urllib.error

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, build_from_cfg
from tool_runs import ROOT, on_shapes, parse

from gfl_plugin import engine
from gfl_plugin.building import building
from gfl_plugin.errors import SetupError

COCO = str(ROOT / 'configs/gfl/gfl_r50_fpn_1x_coco.py')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The shapes of all runs here."""
    return tmp_path_factory.mktemp('data') / 'shapes'


def load(*arguments, config=COCO):
    return engine.load_config(parse('train', config, *arguments))


# ---- keys ----

@pytest.mark.parametrize('key, said', [
    ('train_cfg.max_epoch', 'train_cfg.max_epoch.*Did you mean train_cfg.max_epochs'),
    ('model.bbox_head.regmax', 'model.bbox_head.regmax.*Did you mean model.bbox_head.reg_max'),
    ('modle.backbone.depth', 'modle.*Did you mean model'),
    ('optimizer.lr', r'optimizer.*Did you mean optim_wrapper.optimizer\?'),
    ('max_epochs', 'max_epochs.*Did you mean train_cfg.max_epochs'),
    ('model.bbox_head.whatever', 'model.bbox_head.whatever.*not have$'),
])
def test_a_key_that_the_config_does_not_have_is_named(key, said, log):
    load('--cfg-options', f'{key}=2')
    warning, = log()
    assert re.search(said, warning), warning


def test_keys_that_are_there_or_are_the_runners_are_no_news(log):
    load('--cfg-options', 'train_cfg.max_epochs=2', 'param_scheduler.0.end=6', 'randomness.seed=3',
         'experiment_name=mine', 'env_cfg.dist_cfg.timeout=30', 'find_unused_parameters=True')
    assert log() == []


def test_only_the_first_rank_warns(log, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    load('--launcher', 'pytorch', '--cfg-options', 'train_cfg.max_epoch=2')
    assert log() == []


def test_a_key_that_cannot_be_set_is_a_mistake():
    with pytest.raises(SetupError, match='--cfg-options cannot be applied'):
        load('--cfg-options', 'param_scheduler.7.end=2')


@pytest.mark.parametrize('option, said', [('a=[1,2', r"value of 'a=\[1,2'"), ('=3', "missing in the key of '=3'"),
                                          ('model..x=3', "missing in the key of 'model..x=3'")])
def test_an_option_that_cannot_be_read_is_a_mistake(option, said):
    with pytest.raises(SetupError, match=said):
        load('--cfg-options', option)


# ---- files that are no configs ----

@pytest.mark.parametrize('name, text, said', [
    ('README.md', '# A title', 'py/yml/yaml/json'),
    ('broken.yaml', 'a: [1, 2', 'ParserError'),
    ('imports.py', "custom_imports = dict(imports=['no_such_module'])", 'no_such_module'),
    ('base.py', "_base_ = 'nopepkg::x.py'", 'ValueError.*package'),
    ('attribute.py', 'a = 1\nb = a.size', r'attribute.py, line 2\): AttributeError'),
    ('type.py', 'a = 1\n\nb = len(a)', r'type.py, line 3\): TypeError'),
])
def test_a_file_that_cannot_be_read_as_a_config_is_a_mistake(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(SetupError, match=f'{name} cannot be read.*{said}'):
        load(config=str(tmp_path / name))


# ---- configs of the package ----

@pytest.mark.parametrize('name', ['custom/gfl_r50_fpn', 'custom/gfl_r50_fpn.py', 'configs/custom/gfl_r50_fpn.py'])
def test_a_config_of_the_package_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(config=name).model.bbox_head.type == 'gfl_plugin.GFLHead'
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text('mine = True')
    assert engine.find_config(name) == name, "the user's own file should win"


def test_an_unknown_config_names_similar_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match='no config file .*/gfl_lite_fpn.py, .* Similar ones: custom/gfl_lite0_fpn'):
        load(config='gfl_lite_fpn.py')


# ---- data roots ----

def inheriting(folder, *lines):
    """A config of another data set that still has the evaluator of the COCO config it inherits from."""
    config = folder / 'mine.py'
    loader = "dict(dataset=dict(data_root=data_root, ann_file='boxes.json'))"
    config.write_text('\n'.join([f'_base_ = {COCO!r}', "data_root = 'data/mine'", f'val_dataloader = {loader}',
                                 f'test_dataloader = {loader}', *lines]))
    return str(config)


def test_a_data_root_reaches_an_evaluator_of_another_data_set(tmp_path, log):
    config = load('--data-root', 'elsewhere', config=inheriting(tmp_path))
    assert config.val_evaluator.ann_file == config.test_evaluator.ann_file == 'elsewhere/boxes.json'
    assert len(log()) == 2 and 'data/coco/annotations/instances_val2017.json' in log()[0], log()


def test_a_data_root_leaves_what_the_user_names(tmp_path):
    config = load('--data-root', 'elsewhere', '--cfg-options', 'val_evaluator.ann_file=some/file.json',
                  config=inheriting(tmp_path))
    assert config.val_evaluator.ann_file == 'some/file.json' and config.test_evaluator.ann_file.endswith('boxes.json')


def test_a_data_root_leaves_a_root_and_a_file_that_the_user_names(tmp_path):
    config = load('--data-root', 'elsewhere', '--cfg-options', 'val_dataloader.dataset.data_root=other/',
                  'val_evaluator.ann_file=data/mine/some.json', config=inheriting(tmp_path))
    assert config.val_dataloader.dataset.data_root == 'other/'
    assert config.val_evaluator.ann_file == 'data/mine/some.json'
    assert config.test_dataloader.dataset.data_root == 'elsewhere/'


def test_a_data_root_does_not_reach_a_folder_of_a_longer_name(tmp_path):
    config = load('--data-root', 'elsewhere', config=inheriting(
        tmp_path, "train_dataloader = dict(dataset=dict(ann_file='data/mine-too/boxes.json'))"))
    assert config.train_dataloader.dataset.ann_file == 'data/mine-too/boxes.json'


def test_an_evaluator_without_its_file_is_a_mistake(data, tmp_path):
    with pytest.raises(SetupError, match=r'evaluator reads nowhere.json, which does not exist.*--data-root'):
        engine.train(on_shapes('train', data, '--work-dir', str(tmp_path / 'run'),
                               settings=['val_evaluator.ann_file=nowhere.json']))


# ---- what cannot be built ----

@pytest.mark.parametrize('setting, said', [
    ('train_cfg.max_epoch=2', "a training loop: .*'max_epoch'"),
    ('val_cfg.fp32=True', "a validation loop: .*'fp32'"),
    ('model.bbox_head.regmax=7', "a model: .*'regmax'"),
    ('model.backbone.type=ResNot', 'a model: .*ResNot.*registry'),
    ('model.backbone.depth=7', 'a model: invalid depth 7'),
    ('optim_wrapper.optimizer.rate=1', "an optimizer: .*'rate'"),
    ('param_scheduler.0.ends=6', "a schedule: .*'ends'"),
])
def test_a_setting_that_nothing_takes_is_a_mistake(setting, said, data, tmp_path):
    with pytest.raises(SetupError, match=said):
        engine.train(on_shapes('train', data, '--work-dir', str(tmp_path / 'run'), settings=[setting]))


@pytest.mark.parametrize('error', [KeyError('area'), TypeError("'NoneType' object is not subscriptable")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)) as caught, building('a training loop'):
        raise error
    assert not isinstance(caught.value, SetupError)


class Mine:
    """A user's class with bugs, and with a base that takes options from the config."""

    def __init__(self, bug=None, **options):
        if bug is not None:
            bug()
        torch.nn.Conv2d(1, 1, **options)


@pytest.mark.parametrize('bug, error', [
    (lambda: torch.nn.Conv2d(3), TypeError),  # missing 2 required positional arguments
    (lambda: torch.nn.Conv2d(3, 4, 3, groups=2), ValueError),  # raised by PyTorch
    (lambda: dict([1, 2, 3]), TypeError),
    (lambda: 'a b'.index('c'), ValueError),
])
def test_a_bug_in_a_users_class_keeps_its_traceback(bug, error):
    with pytest.raises(error) as caught, building('a model'):
        build_from_cfg(dict(type=Mine, bug=bug), MODELS)
    assert not isinstance(caught.value, SetupError)


def test_an_option_that_a_users_class_hands_on_is_a_mistake():
    config = Config(dict(model=dict(type=Mine, regmax=7)))
    with pytest.raises(SetupError, match="a model: .*'regmax'"), building('a model', config):
        build_from_cfg(config.model, MODELS)


@pytest.mark.parametrize('error', [urllib.error.URLError('Name or service not known'), ConnectionError('no network')])
def test_weights_that_cannot_be_downloaded_name_the_way_out(error, data, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr('torch.hub.load_state_dict_from_url', fail)
    weights = ['type=Pretrained', 'checkpoint=https://weights.invalid/r18.pth']
    with pytest.raises(SetupError, match='weights cannot be downloaded.*(service|network).*--weights none'):
        engine.train(on_shapes('train', data, '--work-dir', str(tmp_path / 'run'),
                               settings=[f'model.backbone.init_cfg.{setting}' for setting in weights]))
