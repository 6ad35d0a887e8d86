"""Every config in configs/ is built and computes one loss, and so is every row of a table that sets a number."""
import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from reference import random_objects, summed
from timm_setup import need_timm
from tool_runs import ROOT, parse
from torch.utils.flop_counter import FlopCounterMode

from gfl_plugin import engine
from gfl_plugin.engine.reproduce import TABLES

CONFIGS = sorted(str(file.relative_to(ROOT / 'configs')) for file in (ROOT / 'configs').rglob('*.py')
                 if '_base_' not in file.parts)

LOSSES_OF_KINDS = {'CenternessBranch': {'loss_centerness'}, 'IoUBranch': {'loss_iou'},
                   'GeneralDistribution': {'loss_dfl'}, 'GaussianDistribution': {'loss_nll'}}


def load(name, *arguments):
    return engine.load_config(parse('train', str(ROOT / 'configs' / name), '--no-pretrained', *arguments))


@pytest.mark.parametrize('name', CONFIGS)
def test_computes_a_loss(name):
    model = load(name).model
    if model.backbone.type == 'gfl_plugin.TIMMBackbone':
        need_timm()
    compute_loss(model)


@pytest.mark.parametrize('row', [row for rows in TABLES.values() for row in rows if row.settings], ids=lambda r: r.name)
def test_a_row_that_sets_a_number_computes_a_loss(row):
    compute_loss(load(f'ablation/{row.config}.py', '--cfg-options', *row.settings).model)


def compute_loss(config):
    model = MODELS.build(config)
    height, width = 128, 160
    objects, metas = random_objects((3, 0), height, width, model.bbox_head.num_classes)
    samples = [DetDataSample(metainfo=meta, gt_instances=gt) for gt, meta in zip(objects, metas)]
    losses = summed(model.loss(torch.randn(2, 3, height, width), samples))
    head = model.bbox_head
    own = LOSSES_OF_KINDS.get(type(head.quality).__name__, set()) | LOSSES_OF_KINDS.get(type(head.box).__name__, set())
    assert set(losses) == {'loss_cls', 'loss_bbox'} | own
    switched_off = {'loss_dfl'} if config.bbox_head.get('loss_dfl') and not head.box.loss_dfl.loss_weight else set()
    assert all(loss.isfinite() and (loss == 0 if name in switched_off else loss > 0)
               for name, loss in losses.items()), losses
    sum(losses.values()).backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused, f'every parameter should be trained, but {unused} are not'


def test_the_head_of_the_mobile_config_is_light():
    """Neck and head together take less than twice the multiplications of the backbone."""
    need_timm()
    model = MODELS.build(load('backbones/gfl_timm-mobilenetv3_fpn_1x_coco.py').model).eval()
    image, costs = torch.randn(1, 3, 320, 320), []
    for part in (model.backbone, model.neck, model.bbox_head):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            image = part(image)
        costs.append(counter.get_total_flops())
    assert sum(costs[1:]) < 2 * costs[0], costs


@pytest.mark.parametrize('name', CONFIGS)
def test_data_root_is_set_in_one_place(name, tmp_path):
    """--data-root replaces the root of the file everywhere, and so does --cfg-options data_root=."""
    for arguments in (('--data-root', str(tmp_path)), ('--cfg-options', f'data_root={tmp_path}')):
        config = load(name, *arguments)
        assert load(name).data_root not in config.pretty_text.replace(config.data_root, ''), arguments
        datasets = [config[f'{split}_dataloader'].dataset for split in ('train', 'val', 'test')]
        assert all(d.data_root == f'{tmp_path}/' for d in datasets), arguments
        assert config.val_evaluator.ann_file.startswith(f'{tmp_path}/'), arguments


def test_paper_setting():
    """The schedule is that of the paper and of MMDetection's config of this name."""
    config = load('gfl/gfl_r50_fpn_1x_coco.py')
    assert config.train_cfg.max_epochs == 12 and config.param_scheduler[1].milestones == [8, 11]
    assert config.optim_wrapper.optimizer == dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)
    assert config.auto_scale_lr.base_batch_size == 16


@pytest.mark.parametrize('name', CONFIGS)
def test_lists_classes_of_the_head(name):
    """The data set, built without reading a file, has as many classes as the head."""
    config = load(name)
    dataset = dict(config.train_dataloader.dataset, lazy_init=True)
    assert len(DATASETS.build(dataset).metainfo['classes']) == config.model.bbox_head.num_classes


def test_configs_outside_the_repository_can_inherit(tmp_path):
    file = Path(tmp_path, 'mine.py')
    file.write_text("_base_ = 'gfl_plugin::gfl/gfl_r50_fpn_1x_coco.py'\nmodel = dict(bbox_head=dict(num_classes=3))\n")
    config = engine.load_config(parse('train', str(file)))
    assert config.model.bbox_head.num_classes == 3 and config.model.bbox_head.type == 'gfl_plugin.GFLHead'


def test_the_new_backbone_of_the_readme(tmp_path):
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)
    (tmp_path / 'mine.py').write_text(next(block for block in blocks if 'RegNet' in block))
    config = engine.load_config(parse('train', str(tmp_path / 'mine.py'), '--no-pretrained'))
    assert 'RegNet' in config.model.backbone.type
    compute_loss(config.model)


@pytest.mark.parametrize('named', ['IoUBranch', 'convnext_tiny'])
def test_other_configs_of_the_readme(named, tmp_path):
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)
    (tmp_path / 'mine.py').write_text(next(block for block in blocks if named in block))
    model = engine.load_config(parse('train', str(tmp_path / 'mine.py'), '--no-pretrained')).model
    if model.backbone.type == 'gfl_plugin.TIMMBackbone':
        need_timm()
    compute_loss(model)
