"""The recipes of configs/custom, for small data sets of one's own."""
import math

import pytest
import torch
from data_sets import write_coco
from timm_setup import need_timm
from tool_runs import ROOT, log, parse, scalars

from gfl_plugin import engine
from gfl_plugin.engine.weights import published_weights

LITE0, R50 = (str(ROOT / f'configs/custom/gfl_{name}_fpn.py') for name in ('lite0', 'r50'))
SMALL = ['train_dataloader.dataset.pipeline.2.scale=(64,64)', 'train_dataloader.batch_size=2',
         'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False', 'train_cfg.max_epochs=2',
         'param_scheduler.1.end=2', 'param_scheduler.1.T_max=1', 'train_cfg.val_begin=9',
         'default_hooks.logger.interval=1']


def load(config, *arguments):
    return engine.load_config(parse('train', config, *arguments))


def test_lite0_trains_as_it_says(tmp_path, capsys):
    need_timm()
    engine.train(parse('train', LITE0, '--weights', 'none', '--data-root', str(write_coco(tmp_path / 'coco', images=4)),
                       '--work-dir', str(tmp_path / 'run'), '--cfg-options', *SMALL, 'experiment_name=recipe_lite0'))
    shown = capsys.readouterr().out.partition('loss_cls')[0]
    assert shown.count('\n') < 30 and 'is skipped' not in shown, shown
    assert 'conv_stem.weight is skipped since' in log(tmp_path / 'run'), 'the log file should name what is frozen'
    logged = scalars(tmp_path / 'run')
    assert all(0 < entry['loss'] < math.inf for entry in logged.values())
    rates = [entry['lr'] for _, entry in sorted(logged.items())]
    assert rates[:3] == pytest.approx([1e-5, 1e-3, 1e-3]), 'an epoch of warm-up, from a hundredth'
    assert 1e-5 < rates[3] < 1e-3, 'then a cosine'
    saved = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    assert not torch.equal(saved['state_dict']['bbox_head.gfl_reg.bias'],
                           saved['ema_state_dict']['module.bbox_head.gfl_reg.bias']), 'averaged weights are saved'


def test_r50_starts_from_the_published_weights():
    config = load(R50)
    assert config.load_from == published_weights()['gfl_r50_fpn_ms-2x_coco'], 'the name in its comment'
    assert config.model.backbone.init_cfg is None, 'one download is enough'
    assert load(R50, '--weights', 'none').load_from is None


@pytest.mark.parametrize('config', [LITE0, R50])
def test_the_schedule_ends_with_the_training(config):
    config = load(config)
    warm_up, cosine = config.param_scheduler
    assert warm_up.end == cosine.begin == 1 and cosine.end == config.train_cfg.max_epochs == cosine.T_max + 1
    assert config.train_cfg.max_epochs % config.train_cfg.val_interval == 0, 'the last epoch is evaluated'
    assert config.auto_scale_lr.base_batch_size == config.train_dataloader.batch_size
