"""--epochs, --batch-size and --image-size: what depends on them follows."""
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import CosineAnnealingLR, LinearLR
from tool_runs import ROOT, SHAPES, parse

from gfl_plugin import engine
from gfl_plugin.engine.recipe import adapt_config, fit_schedule
from gfl_plugin.errors import SetupError

COCO, MULTISCALE = (str(ROOT / f'configs/gfl/gfl_r50_fpn_{name}_coco.py') for name in ('1x', 'ms-2x'))


def adapt(config, *arguments, tool='train'):
    options = parse(tool, config, *arguments)
    result = engine.load_config(options)
    return result, adapt_config(result, options)


def scales(config, part='train'):
    return [step.scale for step in config[f'{part}_dataloader'].dataset.pipeline if 'scale' in step]


# ---- epochs and batches ----

def test_epochs_stretch_a_schedule_in_epochs():
    config, said = adapt(COCO, '--epochs', '24')
    warm_up, steps = config.param_scheduler
    assert config.train_cfg.max_epochs == steps.end == 24 and steps.milestones == [16, 22]
    assert warm_up.end == 500 and config.train_cfg.val_interval == 1, 'neither is in terms of the epochs'
    assert said == ['--epochs 24 instead of 12: the schedule and the intervals of validations and checkpoints follow']


def test_intervals_follow_the_epochs():
    config, _ = adapt(SHAPES, '--epochs', '2', '--cfg-options', 'default_hooks.checkpoint.interval=4')
    assert config.train_cfg.val_interval == 2 and config.default_hooks.checkpoint.interval == 1


def test_epochs_need_a_config_that_counts_them(tmp_path):
    loop = "dict(_delete_=True, type='IterBasedTrainLoop', max_iters=9)"
    (tmp_path / 'config.py').write_text(f'_base_ = {COCO!r}\ntrain_cfg = {loop}')
    with pytest.raises(SetupError, match='--epochs needs a config that counts epochs'):
        adapt(str(tmp_path / 'config.py'), '--epochs', '3')


def test_a_batch_size_is_that_of_a_device():
    config, said = adapt(COCO, '--batch-size', '8')
    assert config.train_dataloader.batch_size == 8 and config.val_dataloader.batch_size == 1
    assert said == ['--batch-size 8 instead of 2 per device']


def test_without_an_option_nothing_changes():
    config, said = adapt(COCO)
    assert said == [] and 'fit_schedule' not in config and config.to_dict() == Config.fromfile(COCO).to_dict() | dict(
        launcher='none')


# ---- schedules in iterations ----

SHAPES_SCHEDULE = [dict(type='LinearLR', by_epoch=False, begin=0, end=100),
                   dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=2400, T_max=2300)]
IN_EPOCHS = dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11])
CONVERTED = [dict(type='LinearLR', begin=0, end=0.5, convert_to_iter_based=True),
             dict(type='CosineAnnealingLR', begin=0.5, end=20, T_max=19.5, convert_to_iter_based=True)]


def fit(schedules, iterations, epoch_length=10):
    config = Config(dict(param_scheduler=schedules))
    return config.to_dict()['param_scheduler'], fit_schedule(config.param_scheduler, iterations, epoch_length), config


@pytest.mark.parametrize('iterations, expected', [(2400, (100, 2400)), (240, (10, 240)), (48000, (2000, 48000)),
                                                  (12, (2, 12)), (3, (2, 3)), (1, (2, 3))])
def test_a_schedule_in_iterations_ends_with_the_training(iterations, expected):
    _, said, config = fit(SHAPES_SCHEDULE, iterations)
    warm_up, cosine = config.param_scheduler
    assert (warm_up.end, cosine.end) == expected and cosine.begin == warm_up.end, 'one should begin where one ends'
    assert cosine.T_max == cosine.end - cosine.begin, 'the curve should be whole'
    assert bool(said) == (iterations != 2400)


@pytest.mark.parametrize('iterations, end', [(90000, 500), (5000, 500), (1000, 100), (10, 2)])
def test_a_warm_up_alone_takes_a_tenth_at_most(iterations, end):
    before = [dict(type='LinearLR', by_epoch=False, begin=0, end=500), IN_EPOCHS]
    _, said, config = fit(before, iterations)
    assert config.param_scheduler[0].end == end and config.param_scheduler[1] == IN_EPOCHS
    assert bool(said) == (end != 500)


def test_epochs_that_become_iterations_are_as_many():
    _, said, config = fit(CONVERTED, 740, epoch_length=37)
    warm_up, cosine = config.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.end, cosine.T_max) == (18, 18, 740, 722)
    assert said == '' and not warm_up.by_epoch and not cosine.by_epoch


@pytest.mark.parametrize('iterations', [1, 2, 3, 7, 40, 5000])
@pytest.mark.parametrize('schedules', [SHAPES_SCHEDULE, CONVERTED], ids=['in_iterations', 'converted'])
def test_a_training_of_any_length_warms_up_and_cools_down(schedules, iterations):
    """MMEngine refuses empty intervals, and never ends a warm-up of one step."""
    _, _, config = fit(schedules, iterations, epoch_length=max(iterations // 20, 1))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    built = [dict(LinearLR=LinearLR, CosineAnnealingLR=CosineAnnealingLR)[each.pop('type')](
        optimizer, **dict(dict(start_factor=0.01) if index == 0 else {}, **each))
        for index, each in enumerate(map(dict, config.param_scheduler))]
    rates = []
    for _ in range(max(iterations, 20)):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for each in built:
            each.step()
    assert rates[0] < 0.02 and (iterations < 3 or max(rates) > 0.8) and (iterations < 40 or rates[-1] < 0.1), rates


# ---- image size ----

def test_an_image_size_is_that_of_a_square():
    config, said = adapt(COCO, '--image-size', '640')
    assert scales(config) == scales(config, 'val') == scales(config, 'test') == [(640, 640)]
    assert all(step.keep_ratio for step in config.train_dataloader.dataset.pipeline if 'scale' in step)
    assert said == ['--image-size 640: images are resized into 640 x 640 pixels instead of 1333 x 800']


def test_a_range_keeps_its_proportions():
    config, _ = adapt(MULTISCALE, '--image-size', '640')
    assert scales(config) == [[(384, 384), (640, 640)]] and scales(config, 'test') == [(640, 640)]


@pytest.mark.parametrize('step, expected', [
    (dict(type='RandomResize', scale=(1600, 800), ratio_range=(0.8, 1)), dict(scale=(320, 320), ratio_range=(0.8, 1))),
    (dict(type='RandomChoiceResize', scales=[(400, 400), (800, 800)]), dict(scales=[(160, 160), (320, 320)])),
    (dict(type='RandomCrop', crop_size=(400, 400)), dict(crop_size=(160, 160))),
    (dict(type='RandomCrop', crop_type='relative_range', crop_size=(0.6, 0.6)), dict(crop_size=(0.6, 0.6))),
    (dict(type='Resize', scale=800), dict(scale=320)),
    (dict(type='RandomChoice', transforms=[[dict(type='Resize', scale=(400, 400))]]),
     dict(transforms=[[dict(type='Resize', scale=(160, 160))]])),
])
def test_every_size_in_pixels_follows(step, expected):
    options = parse('train', COCO, '--image-size', '320')
    config = engine.load_config(options)
    config.train_dataloader.dataset.pipeline.insert(2, Config(dict(step=step)).step)
    adapt_config(config, options)
    found = config.to_dict()['train_dataloader']['dataset']['pipeline'][2]
    assert {key: found[key] for key in expected} == expected


def test_an_image_size_for_a_test_too():
    config, _ = adapt(SHAPES, 'a.pth', '--image-size', '192', tool='test')
    assert scales(config, 'test') == [(192, 192)]


def test_training_resizes_if_the_test_does_so_anew():
    config, _ = adapt(SHAPES, '--image-size', '192')
    assert [step['type'] for step in config.train_dataloader.dataset.pipeline][:3] == [
        'LoadImageFromFile', 'LoadAnnotations', 'Resize'] and scales(config) == [(192, 192)]
