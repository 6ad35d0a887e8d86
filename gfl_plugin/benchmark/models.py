"""Whole models: steps of training, and inference from images to boxes."""
import contextlib
from typing import Callable, List, Sequence, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from torch import nn

from ..errors import SetupError
from .inputs import random_objects
from .timing import Row, compare_memory, compare_times, in_turn, peak_memory

OWN_TO_STOCK = {'gfl_plugin.GFLHead': 'GFLHead', 'gfl_plugin.QualityFocalLoss': 'QualityFocalLoss',
                'gfl_plugin.DistributionFocalLoss': 'DistributionFocalLoss', 'gfl_plugin.GIoULoss': 'GIoULoss',
                'gfl_plugin.ATSSAssigner': 'ATSSAssigner'}


def compare_training(config: Config, device: str, batch: int, size: Tuple[int, int], count: int, rounds: int,
                     amp: bool = False, against: str = 'same') -> List[Row]:
    """Measure whole training steps of a config, with the plugin's head and with MMDetection's.

    Args:
        config: A config of the plugin's head. The reference has the same model with MMDetection's head and losses.
        device: ``cpu`` or a CUDA device.
        batch: Number of images.
        size: Height and width of the images in pixels.
        count: Objects an image.
        rounds: Pairs to measure.
        amp: Whether the plugin's head trains in bf16.
        against: ``same`` measures both in the config's setting. ``stock`` and ``stock-amp`` measure the reference as
            MMDetection trains it (:func:`stock_optimizer`).

    Raises:
        SetupError: Half precision was asked for on a CPU.
    """
    if (amp or against == 'stock-amp') and not device.startswith('cuda'):
        raise SetupError('half precision needs a CUDA device: it is slower on a CPU')
    models = _build_models(config, device)
    torch.backends.cudnn.benchmark = config.env_cfg.cudnn_benchmark
    _lay_out(models if against == 'same' else models[:1], config)
    wrapper = config.optim_wrapper
    if amp:
        wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    wrappers = [wrapper, wrapper if against == 'same' else stock_optimizer(config, against)]
    data = _random_batch(batch, size, count, models[0].bbox_head.num_classes)
    data['inputs'] = [image.to(device) for image in data['inputs']]  # as if the loader had copied them already
    steps = _training_steps(models, wrappers, data)
    pairs = in_turn(*steps, rounds, device)
    memory = [peak_memory(step, device) for step in steps]
    return [compare_times(f'training steps, batch {batch}', pairs, batch, 'img/s'),
            compare_memory('  peak memory beyond weights, gradients and momentum', *memory)]


def compare_inference(config: Config, device: str, batch: int, size: Tuple[int, int], count: int, rounds: int,
                      amp: bool = False) -> List[Row]:
    """Measure inference, with the arguments of :func:`compare_training`; ``amp`` is bf16 autocast of both models."""
    models = _build_models(config, device)
    data = _random_batch(batch, size, count, models[0].bbox_head.num_classes)
    half = torch.autocast(device.split(':')[0], torch.bfloat16) if amp else contextlib.nullcontext()
    with torch.no_grad(), half:
        for model in models:
            model.eval()
        pairs = in_turn(*(lambda model=model: model.test_step(data) for model in models), rounds, device)
    return [compare_times(f'inference, batch {batch}', pairs, batch, 'img/s')]


def stock_model(config: Config) -> ConfigDict:
    """The model of a config, with MMDetection's head, losses and assigner instead of the plugin's."""
    def replace(node):
        if isinstance(node, dict):
            return {k: OWN_TO_STOCK.get(v, v) if k == 'type' else replace(v) for k, v in node.items()}
        return [replace(v) for v in node] if isinstance(node, (list, tuple)) else node
    return ConfigDict(replace(config.model))


def stock_optimizer(config: Config, against: str) -> ConfigDict:
    """What MMDetection trains the same schedule with: fp32 (``stock``), or its tools' ``--amp`` (``stock-amp``)."""
    optimizer = {k: v for k, v in config.optim_wrapper.optimizer.items() if k != 'fused'}
    if against == 'stock':
        return ConfigDict(type='OptimWrapper', optimizer=optimizer)
    return ConfigDict(type='AmpOptimWrapper', loss_scale='dynamic', optimizer=optimizer)


def _build_models(config: Config, device: str) -> List[nn.Module]:
    """The plugin's model and MMDetection's, with the same weights."""
    torch.manual_seed(0)
    models = [MODELS.build(model).to(device) for model in (config.model, stock_model(config))]
    models[1].load_state_dict(models[0].state_dict(), strict=True)
    return models


def _lay_out(models: Sequence[nn.Module], config: Config) -> None:
    """Lay the weights out channels-last if the config's hook does."""
    if any(hook.type == 'gfl_plugin.ChannelsLastHook' for hook in config.get('custom_hooks', [])):
        for model in models:
            model.to(memory_format=torch.channels_last)


def _training_steps(models: Sequence[nn.Module], wrappers: Sequence[ConfigDict], data: dict) -> List[Callable]:
    steps = []
    for model, wrapper in zip(models, wrappers):
        model.train()
        wrapper = build_optim_wrapper(model, wrapper)
        steps.append(lambda model=model, wrapper=wrapper: model.train_step(data, wrapper))
    return steps


def _random_batch(batch: int, size: Tuple[int, int], count: int, num_classes: int) -> dict:
    objects, metas = random_objects(batch, size, count, 'cpu', num_classes)
    samples = [DetDataSample(metainfo=dict(meta), gt_instances=gt) for gt, meta in zip(objects, metas)]
    return dict(inputs=[torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in samples], data_samples=samples)
