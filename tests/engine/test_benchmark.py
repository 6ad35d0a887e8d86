"""The benchmark runs and measures what it says. No test asserts a time: the machine is not quiet."""
import json

import pytest
import torch
from mmdet.registry import MODELS
from tool_runs import SHAPES, parse

from gfl_plugin import engine
from gfl_plugin.benchmark.models import stock_model, stock_optimizer
from gfl_plugin.errors import SetupError

SMALL = ['--size', '64', '96', '--batch', '1', '--gts', '3', '--rounds', '1']


def test_head(tmp_path, capsys):
    engine.benchmark(parse('benchmark', 'head', *SMALL, '--json', str(tmp_path / 'figures.json')))
    rows = json.loads((tmp_path / 'figures.json').read_text())['rows']
    printed = capsys.readouterr().out
    assert len(rows) == 9 and all(row['name'] in printed for row in rows), 'each figure should be printed and written'
    assert 'prediction, early in training' in printed
    assert 'torch: ' in printed and 'mmcv: ' in printed and 'GB/s' in printed, 'versions belong to a figure'


@pytest.mark.parametrize('command', [['train'], ['train', '--against', 'stock'], ['infer']], ids=' '.join)
def test_whole_models(command):
    row, *memory = engine.benchmark(parse('benchmark', *command, SHAPES, *SMALL))['rows']
    assert row['unit'] == 'img/s' and row['ours'] > 0
    assert all(row['unit'] == 'MB' and row['ours'] > 0 for row in memory)
    assert len(memory) == (command[0] == 'train'), 'a training step is also measured by its memory'


def test_what_mmdetection_trains_with():
    config = engine.load_config(parse('benchmark', 'train', 'configs/gfl/gfl_r50_fpn_1x_coco_fast.py'))
    assert config.optim_wrapper.optimizer.fused, 'the setting to be compared'
    for against, type in (('stock', 'OptimWrapper'), ('stock-amp', 'AmpOptimWrapper')):
        wrapper = stock_optimizer(config, against)
        assert wrapper.type == type and wrapper.optimizer.lr == 0.01 and 'fused' not in wrapper.optimizer
        assert 'dtype' not in wrapper, 'its AMP is fp16, with a loss scale'


def test_evaluation():
    rows = engine.benchmark(parse('benchmark', 'eval', '--images', '5', '--rounds', '1'))['rows']
    assert rows[1]['ours'] < 1e-6, 'both should give the same numbers'


def test_the_reference_is_mmdetections():
    config = engine.load_config(parse('train', SHAPES))
    model = MODELS.build(stock_model(config))
    modules = [model.bbox_head, model.bbox_head.loss_cls, model.bbox_head.assigner]
    assert all(type(module).__module__.startswith('mmdet.') for module in modules)


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without CUDA')
def test_a_device_that_is_not_there():
    with pytest.raises(SetupError, match='no CUDA'):
        engine.benchmark(parse('benchmark', 'head', '--device', 'cuda'))
