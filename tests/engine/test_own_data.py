"""A user's own folder in the place of a config's data: what is found, trained, said, and left alone."""
import contextlib
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path

import layouts
import pytest
import torch
from mmengine.config import Config
from tool_runs import ROOT, SHAPES, TINY, log, parse, scalars

from gfl_plugin import engine
from gfl_plugin.datasets import folder
from gfl_plugin.engine import advice
from gfl_plugin.engine.own_data import set_data
from gfl_plugin.engine.recipe import adapt_config
from gfl_plugin.engine.summary import summarize_training
from gfl_plugin.errors import RunError, SetupError

COCO = str(ROOT / 'configs/gfl/gfl_r50_fpn_1x_coco.py')
WRITERS = dict(coco=layouts.write_coco, yolo=layouts.write_yolo, voc=layouts.write_voc)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """A set in each layout."""
    root = tmp_path_factory.mktemp('own')
    splits = layouts.make_splits(root / 'parts')
    return {name: write(splits, root / name) for name, write in WRITERS.items()}


def adapt(config, *arguments, tool='train'):
    """The config that a command line leads to, and what is said of it."""
    options = parse(tool, config, *map(str, arguments))
    result = engine.load_config(options)
    return result, adapt_config(result, options)


def train_options(data, work_dir, *arguments, settings=()):
    return parse('train', SHAPES, '--data', str(data), '--work-dir', str(work_dir), '--epochs', '1',
                 '--batch-size', '2', '--image-size', '64', *arguments, '--cfg-options', *TINY, *settings,
                 f'experiment_name=own_{os.urandom(4).hex()}')


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in [folder, *Path(folder).rglob('*')]}


# ---- configs ----

@pytest.mark.parametrize('layout', WRITERS)
@pytest.mark.parametrize('config', [SHAPES, COCO])
def test_data_take_the_place_of_those_of_a_config(folders, config, layout):
    before = Config.fromfile(config)
    after, said = adapt(config, '--data', folders[layout])
    for part, split in dict(train='train', val='val', test='val').items():
        old, new = before[f'{part}_dataloader'], after[f'{part}_dataloader']
        assert new.dataset.type == 'gfl_plugin.FolderDataset' and new.dataset.split == split
        assert new.dataset.path == str(folders[layout]) and new.dataset.metainfo.classes == layouts.CLASSES
        assert {key: new[key] for key in old if key != 'dataset'} == {key: old[key] for key in old if key != 'dataset'}
        assert new.dataset.get('filter_cfg') == old.dataset.get('filter_cfg')
        steps = [step['type'] for step in new.dataset.pipeline]
        assert [step for step in steps if step != 'Resize'] == [step['type'] for step in old.dataset.pipeline
                                                                if step['type'] != 'Resize']
        assert steps.count('Resize') == 1, 'images of any size need it, also where a config has done without'
    assert after.model.bbox_head.num_classes == 3
    for evaluator in (after.val_evaluator, after.test_evaluator):
        assert evaluator == dict(type='gfl_plugin.FolderMetric', metric='bbox', path=str(folders[layout]), split='val',
                                 val_share=0.2)
    assert after.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'
    assert said[0].splitlines()[0] == str(folders[layout]) and 'objects' in said[0], 'what was found should be said'


def test_a_dumped_config_is_the_config_of_the_run(folders, tmp_path):
    """The command at the end of a training names it; class names are of any alphabet."""
    config, _ = adapt(SHAPES, '--data', folders['yolo'], '--epochs', 3)
    config.dump(str(tmp_path / 'dumped.py'))
    dumped = Config.fromfile(str(tmp_path / 'dumped.py'))
    assert dumped.train_dataloader == config.train_dataloader and dumped.val_evaluator == config.val_evaluator
    again, _ = adapt(str(tmp_path / 'dumped.py'), '--data', folders['voc'])
    assert again.train_dataloader.dataset.path == again.val_evaluator.path == str(folders['voc'])


def test_a_share_is_held_out_where_there_is_no_validation(tmp_path):
    root = layouts.write_yolo({'train': layouts.make_splits(tmp_path / 'parts')['train']}, tmp_path / 'set')
    config, said = adapt(COCO, '--data', root, '--val-share', '0.5')
    assert config.val_dataloader.dataset.val_share == config.val_evaluator.val_share == 0.5
    assert 'training images held out, because there are no validation images: 2 (' in said[0]


def test_heads_of_every_kind_get_the_number_of_classes(folders):
    head, data = dict(num_classes=80), dict(type='CocoDataset', pipeline=[])
    config = Config(dict(
        model=dict(backbone=dict(num_classes=1000), rpn_head=dict(num_classes=1),
                   roi_head=dict(bbox_head=[head, head], mask_head=head)),
        train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=data)),
        test_dataloader=dict(dataset=data),
        val_evaluator=[dict(type='mmdet.CocoMetric', ann_file='x.json', prefix='mine'), dict(type='DumpDetResults')],
        default_hooks=dict(checkpoint=dict())))
    set_data(config, str(folders['coco']), 0.2)
    model = config.model
    assert (model.backbone.num_classes, model.rpn_head.num_classes) == (1000, 1), 'these are no classes of the data'
    assert {head.num_classes for head in (*model.roi_head.bbox_head, model.roi_head.mask_head)} == {3}
    assert config.train_dataloader.dataset.times == 2, 'a wrapper should stay'
    assert config.train_dataloader.dataset.dataset.type == 'gfl_plugin.FolderDataset'
    assert [metric.type for metric in config.val_evaluator] == ['gfl_plugin.FolderMetric', 'DumpDetResults']
    assert config.default_hooks.checkpoint.save_best == 'mine/bbox_mAP'


@pytest.mark.parametrize('changes, said', [
    (dict(train_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[{}, {}]))), 'train_dataloader .* joins 2'),
    (dict(val_evaluator=dict(type='LVISMetric', ann_file='x.json')), 'LVISMetric of val_evaluator'),
])
def test_a_config_that_cannot_take_other_data(folders, changes, said):
    with pytest.raises(SetupError, match=said):
        set_data(Config(dict(dict(model={}, test_dataloader=dict(dataset={})), **changes)), str(folders['coco']), 0.2)


# ---- bad input ----

@pytest.mark.parametrize('arguments, said', [
    (('--data', '{yolo}', '--data-root', 'data'), '--data and --data-root both say where'),
    (('--val-share', '0.3'), '--val-share is the share of the images of --data'),
    (('--data', '{yolo}', '--val-share', '1.5'), 'between 0 and 1, and is 1.5'),
    (('--data', 'nowhere'), 'nowhere does not exist'),
    (('--data', '{yolo}/labels'), 'not a data set in a known layout. Looked there for: COCO: .*YOLO: .*Pascal VOC: '),
])
def test_mistakes_of_the_command(folders, arguments, said):
    with pytest.raises(SetupError, match=said):
        adapt(SHAPES, *(argument.format(**folders) for argument in arguments))


def test_each_problem_of_a_yolo_folder_is_counted_on_a_line(tmp_path, capsys):
    root = layouts.write_yolo(layouts.make_splits(tmp_path / 'parts'), tmp_path / 'set')
    labels = root / 'labels' / 'train'
    (labels / 'a.txt').write_text('0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n1 0.4 0.4 0.2 0.2\n2 0.4 0.4 0.2 0.2\n')
    (labels / 'b c.txt').unlink()
    (labels / 'left over.txt').write_text('0 0.5 0.5 0.2 0.2\n')
    (root / 'images/val/v.jpg').write_bytes((root / 'images/train/a.jpg').read_bytes())
    config, said = adapt(SHAPES, '--data', root)
    printed = capsys.readouterr().out.splitlines()
    for start in ('- label lines with a class beyond names', '- images without a label file',
                  '- label files without an image', '- images that another split has too'):
        assert sum(line.startswith(start) and ': 1 (' in line for line in printed) == 1, (start, printed)


def test_a_voc_file_without_objects_is_an_image_without_objects(tmp_path, capsys):
    root = layouts.write_voc(layouts.make_splits(tmp_path / 'parts'), tmp_path / 'set')
    (root / 'Annotations' / 'b c.xml').write_text(layouts.voc_text(48, 32, []))
    adapt(SHAPES, '--data', root)
    assert re.search(r'without objects +1 +0', capsys.readouterr().out), 'it should be counted'


# ---- runs ----

@pytest.fixture(scope='module')
def trained(folders, tmp_path_factory):
    """The folder of a training on each layout, and what the one on YOLO's has shown on the screen."""
    root, shown = tmp_path_factory.mktemp('runs'), {}
    before = {name: snapshot(path) for name, path in folders.items()}
    for name, path in folders.items():
        with contextlib.redirect_stdout(io.StringIO()) as screen:
            engine.train_and_report(train_options(path, root / name))
        shown[name] = screen.getvalue()
    assert before == {name: snapshot(path) for name, path in folders.items()}, 'nothing may change in the folders'
    return root, shown['yolo']


def test_equal_seeds_give_equal_trainings_in_every_layout(trained):
    losses = [[step['loss'] for _, step in sorted(scalars(trained[0] / name).items())] for name in WRITERS]
    assert len(losses[0]) == 2, 'four images in batches of two'
    assert losses[1] == pytest.approx(losses[0]) and losses[2] == pytest.approx(losses[0])


def test_a_training_says_what_it_found_first_and_what_to_do_last(trained, folders, capsys):
    root, printed = trained
    lines = printed.splitlines()
    assert lines[0] == str(folders['yolo']) and lines[1].startswith('YOLO format'), 'the data come before all else'
    assert 'what the schedule counts in iterations ends after 2 instead of 2,400' in printed
    assert '--epochs 1 instead of 8' in printed and '--batch-size 2 instead of 16' in printed, 'each change has a line'
    assert re.search(r'Validation after epoch 1: AP 0\.\d{3}, AP50', printed)
    assert all(re.search(rf'^  {name} +[01]\.\d{{3}}$', printed, re.M) for name in layouts.CLASSES)
    assert f'Best checkpoint: {root / "yolo" / "best_coco_bbox_mAP_epoch_1.pth"} (AP ' in printed
    text = log(root / 'yolo')
    assert 'YOLO format' in text and 'Validation after epoch 1' in text and 'Config:' in text, 'the log has all of it'

    python, tool, *arguments = shlex.split(lines[-2].partition('To test it: ')[2])
    assert (python, tool) == ('python', 'tools/test.py')
    engine.test_and_report(parse('test', *arguments, '--work-dir', str(root / 'test'), '--cfg-options',
                                 f'experiment_name=test_{os.urandom(4).hex()}'))
    scores = re.search(r'Validation after epoch 1: (.*)', printed)[1]
    assert f'Test: {scores}' in capsys.readouterr().out, 'the command should give the scores of the training'

    python, tool, *arguments, images = shlex.split(lines[-1].partition('To predict with it: ')[2])
    assert (python, tool, images) == ('python', 'tools/predict.py', 'IMAGES')
    found = engine.predict(parse('predict', *arguments, str(folders['coco'] / 'val2017'), '--json'))
    assert [Path(image['file']).name for image in found.content['images']] == ['v.jpg', 'w.jpg']


def test_the_screen_shows_little_before_the_first_loss(trained):
    root, shown = trained
    before = shown[:shown.index('loss_cls')]
    assert before.count('\n') < 30, before
    titles = ('Config:', 'System environment', 'Hooks will be', 'paramwise_options')
    assert all(title not in shown and title in log(root / 'yolo') for title in titles), 'the log file should have them'


def test_resume_finds_the_data_again(trained, folders, monkeypatch):
    runner = engine.train(train_options(folders['coco'], trained[0] / 'coco', '--resume', '--epochs', '2'))
    assert runner.epoch == 2 and runner.iter == 4
    assert folder._read.cache_info().currsize == 0, 'the annotations should not stay in memory during a training'
    monkeypatch.setattr(sys, 'argv', ['gfl train'])
    assert '\nTo test it: gfl test ' in summarize_training(runner), 'whoever has started gfl may have no tools/'


def test_classes_in_another_order_are_no_silent_error(trained, folders, tmp_path):
    root, _ = trained
    options = parse('test', SHAPES, str(root / 'yolo/best_coco_bbox_mAP_epoch_1.pth'), '--data', str(folders['yolo']),
                    '--work-dir', str(tmp_path), '--cfg-options', *TINY, 'experiment_name=order')
    classes = ', '.join(layouts.CLASSES[::-1])
    config = engine.load_config(options)
    adapt_config(config, options)
    for part in ('val', 'test'):
        config[f'{part}_dataloader'].dataset.metainfo.classes = layouts.CLASSES[::-1]
    config.dump(str(tmp_path / 'other.py'))
    options.config, options.data, options.cfg_options = str(tmp_path / 'other.py'), None, None
    with pytest.raises(SetupError, match=f'the data have them in another order: {classes}'):
        engine.test(options)


# ---- advice ----

def test_a_learning_rate_for_another_batch_size(folders):
    config, _ = adapt(COCO, '--data', folders['coco'], '--batch-size', 4)
    assert any('0.01 is for 16 images a batch, and this run has 4: --auto-scale-lr makes it 0.0025' in line
               for line in advice.advise(config))
    config, _ = adapt(COCO, '--data', folders['coco'], '--batch-size', 16)
    assert not any('learning rate' in line for line in advice.advise(config)), 'it is for just that'
    config, _ = adapt(SHAPES, '--batch-size', 4)
    assert any('0.0015 is for 16 images a batch, and this run has 4: --auto-scale-lr makes it 0.000375' in line
               for line in advice.advise(config)), 'what a config does not say follows from its batch size'


def test_objects_that_are_too_large_for_the_bins(tmp_path):
    """The shapes' coarsest level has stride 32, and reg_max 16 ends at 512 pixels from a prior."""
    splits = layouts.make_splits(tmp_path / 'parts')
    for part in splits.values():
        for box in part.content['annotations']:
            box['bbox'] = [0.0, 0.0, 48.0, 32.0]
    root = layouts.write_coco(splits, tmp_path / 'set')
    small, large = (adapt(SHAPES, '--data', root, '--image-size', size)[0] for size in (128, 2048))
    assert advice.advise(small) == []
    line, = advice.advise(large)
    assert 'reg_max = 16 cuts off more than 1%' in line and '--image-size' in line
    needed = int(re.search(r'model.bbox_head.reg_max=(\d+)', line)[1])
    large.model.bbox_head.reg_max = needed
    assert 16 < needed <= 64 and advice.advise(large) == [], 'the advice should help'


def test_a_batch_that_memory_does_not_hold(folders):
    config, _ = adapt(SHAPES, '--data', folders['coco'], '--batch-size', 64)
    with pytest.raises(RunError, match='hold a batch of 64 images .* smaller --batch-size or --image-size'), \
            advice.explaining_memory(config, 'train'):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 GiB')


# ---- check ----

@pytest.mark.parametrize('layout', WRITERS)
def test_check_finds_and_draws_every_split(folders, layout, tmp_path):
    before = snapshot(folders[layout])
    found = engine.check_dataset(parse('check_dataset', '--data', str(folders[layout]), '--show',
                                       str(tmp_path / 'sheets'), '--json', str(tmp_path / 'report.json')))
    assert found.text.startswith(str(folders[layout])) and 'train: 4 images, 9 annotations' in found.text
    assert not found.suffers and snapshot(folders[layout]) == before
    assert sorted(file.name for file in (tmp_path / 'sheets').iterdir()) == ['train.jpg', 'val.jpg']
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['classes'] == list(layouts.CLASSES) and report['splits']['val']['counts']['images'] == 2


def test_check_names_the_image_of_a_problem(tmp_path):
    root = layouts.write_yolo(layouts.make_splits(tmp_path / 'parts'), tmp_path / 'set')
    file = root / 'images/train/b c.jpg'
    file.write_bytes(file.read_bytes()[:-40])
    found = engine.check_dataset(parse('check_dataset', '--data', str(root)))
    assert found.suffers and 'b c.jpg has the file' in found.text and 'truncated' in found.text


def test_check_needs_data():
    for arguments in ((), ('a.json', ), ('--data', 'x', '--images', 'y'), ('a.json', '--images', 'y', '--show', 'z')):
        with pytest.raises(SystemExit):
            parse('check_dataset', *arguments)
