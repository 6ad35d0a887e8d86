"""The command that writes a report: from a run or a checkpoint to a page, with the numbers of the test."""
import importlib
import json
import os
import shutil
import sys
import types

import layouts
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from tool_runs import SHAPES, TINY, parse

from gfl_plugin import engine
from gfl_plugin.card import Card
from gfl_plugin.config_bases import CONFIGS
from gfl_plugin.errors import SetupError
from gfl_plugin.inference import Detector

tool = importlib.import_module('gfl_plugin.engine.report')  # the function of this name hides the module
CARD = Card(dict(type='GFL'), [], ['a'], 0.5, None, {})


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A run on a data set in COCO's layout: its folder, and the data."""
    root = tmp_path_factory.mktemp('trained')
    data = layouts.write_coco(layouts.make_splits(root / 'parts'), root / 'data')
    engine.train(parse('train', SHAPES, '--data', str(data), '--work-dir', str(root / 'run'), '--epochs', '1',
                       '--batch-size', '2', '--image-size', '64', '--cfg-options', *TINY))
    return root


@pytest.fixture
def pages(monkeypatch):
    """The contents of the pages that were written, by their files. Drawing them is tested elsewhere."""
    found = {}

    def write_page(content, path):
        with open(path, 'w') as file:
            json.dump(content, file, allow_nan=False)
        found[str(path)] = content

    page = types.ModuleType('gfl_plugin.report.page')
    page.write_page = write_page
    monkeypatch.setitem(sys.modules, 'gfl_plugin.report.page', page)
    return found


def report(*arguments):
    return engine.report(parse('report', *map(str, arguments)))


# ---- the numbers ----

def test_a_report_has_the_numbers_of_the_test(trained, pages, tmp_path):
    run = trained / 'run'
    best = next(run.glob('best_*.pth'))
    text = report(run)
    content = pages[str(run / 'report.html')]
    runner, metrics = engine.test(parse('test', str(run / 'gfl_r18_fpn_shapes.py'), str(best), '--work-dir',
                                        str(tmp_path)))
    expected = {name.removeprefix('coco/bbox_'): None if value == -1 else value for name, value in metrics.items()
                if 'bbox_' in name}
    assert expected['mAP'] is not None and {name: content['metrics'][name] for name in expected} == expected
    metric, = runner.test_evaluator.metrics
    assert {one['name']: one['AP'] for one in content['classes']} == pytest.approx(
        {name: None if value != value else value for name, value in metric.class_precision.items()})
    about = content['about']
    assert (about['checkpoint'], about['run'], about['config']) == (str(best), str(run), 'gfl_r18_fpn_shapes')
    assert (about['data'], about['split'], about['images'], about['epochs']) == (str(trained / 'data'), 'val', 2, 1)
    assert about['classes'] == list(layouts.CLASSES) and about['score_thr'] == Detector(str(best)).score_thr
    assert content['training']['val']['mAP'] == [expected['mAP']] and content['verdict']['kind'] == 'unknown'
    assert content['uncertainty'] is not None and not content['notes']
    assert text.endswith(f'Written: {run}/report.html') and 'validated once' in text


def test_images_that_trained_the_model_are_named(trained, pages, tmp_path):
    checkpoint = shutil.copy(next((trained / 'run').glob('best_*.pth')), tmp_path)
    text = report(checkpoint, '--split', 'train', '--score-thr', 0.9)
    content = pages[str(tmp_path / 'report.html')]
    assert content['notes'][0].startswith('4 of the 4 images trained the model (')
    assert content['notes'][0].endswith('so the numbers of this page are too good.') and content['notes'][0] in text
    about = content['about']
    assert (about['split'], about['run'], about['config'], about['score_thr']) == ('train', None, None, 0.9)
    assert content['training'] is None and all(one['score'] >= 0.9 for image in content['images']
                                               for one in image['found'])


def test_data_of_ones_own_and_a_page_elsewhere(trained, pages, tmp_path):
    copy = shutil.copytree(trained / 'data', tmp_path / 'copy')
    os.remove(copy / 'val2017/v.jpg')
    text = report(trained / 'run', '--data', copy, '--out', tmp_path / 'new/page.html')
    content = pages[str(tmp_path / 'new/page.html')]
    assert content['about']['data'] == str(copy) and content['about']['images'] == 1
    assert '1 of the 2 images cannot be read (v.jpg)' in text
    with pytest.raises(SetupError, match='has no test split'):
        report(trained / 'run', '--data', copy, '--split', 'test', '--out', tmp_path / 'page.html')


def test_a_demo_ends_by_naming_the_report_or_says_why_there_is_none(trained, pages, monkeypatch):
    assert tool.report_on_run(str(trained / 'run')) == str(trained / 'run/report.html')
    monkeypatch.setattr(tool, 'EXTRA', ('jinja2', 'no_such_package'))
    assert tool.report_on_run(str(trained / 'run')).startswith('none (A report needs no_such_package, which is not')


# ---- which checkpoint ----

def touch(*paths):
    for age, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
        os.utime(path, (1000 + age, 1000 + age))


def test_the_best_checkpoint_of_a_run_is_taken(trained, tmp_path):
    touch(tmp_path / 'best_a_epoch_9.pth', tmp_path / 'best_a_epoch_10.pth', tmp_path / 'epoch_11.pth')
    assert tool.find_checkpoint(str(tmp_path)) == (str(tmp_path / 'best_a_epoch_10.pth'), str(tmp_path))


def test_without_a_best_checkpoint_the_last_is_taken(trained, tmp_path):
    last = shutil.copy(next((trained / 'run').glob('epoch_*.pth')), tmp_path / 'epoch_3.pth')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_3.pth')
    assert tool.find_checkpoint(str(tmp_path)) == (str(last), str(tmp_path))


def test_a_checkpoint_of_a_run_knows_its_run(trained, tmp_path):
    best = str(next((trained / 'run').glob('best_*.pth')))
    assert tool.find_checkpoint(best) == (best, str(trained / 'run'))
    copy = shutil.copy(best, tmp_path)
    assert tool.find_checkpoint(copy) == (copy, None)
    assert tool.find_checkpoint('https://host/best.pth') == ('https://host/best.pth', None)


@pytest.mark.parametrize('name, message', [
    ('folder', 'folder is not the folder of a run: it has no checkpoint'), ('gone', 'There is no checkpoint .*gone'),
    ('text.pth', 'text.pth is not whole')])
def test_what_is_no_run(name, message, tmp_path, pages):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'text.pth').write_text('no checkpoint')
    with pytest.raises(SetupError, match=message):
        report(tmp_path / name)
    assert not (tmp_path / name / 'report.html').exists() and not pages


def test_a_page_that_cannot_be_written_is_refused_before_the_detection(trained, pages, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'Detector', lambda *args, **options: pytest.fail('this should not be reached'))
    (tmp_path / 'file').write_text('')
    for out in (tmp_path / 'file/page.html', tmp_path):
        with pytest.raises(SetupError, match='cannot be written .*--out'):
            report(trained / 'run', '--out', out)
    with pytest.raises(pytest.fail.Exception):
        report(trained / 'run', '--out', tmp_path / 'new/page.html')
    assert [file.name for file in tmp_path.iterdir()] == ['file'], 'a report that fails leaves nothing'


# ---- which images ----

def options(**changes):
    return types.SimpleNamespace(**{**dict(data=None, val_share=None, split=None, config=None), **changes})


def find(card=CARD, run=None, **changes):
    return tool.find_images(options(**changes), card, tool.Found('best.pth', run and str(run)))


@pytest.fixture
def coco_run(trained, tmp_path):
    """The folder of a run on COCO's files. Its config leaves a witness if it is run."""
    data = trained / 'data'
    loaders = '\n'.join(
        f'''{loader}_dataloader = dict(
    batch_size=1,
    dataset=dict(
        ann_file='annotations/instances_{split}2017.json',
        data_prefix=dict(img='{split}2017/'),
        data_root={str(data)!r},
        pipeline=[dict(scale=(1333, 800), type='Resize'), ],
        type='gfl_plugin.CocoDataset'))''' for loader, split in (('train', 'train'), ('test', 'val')))
    touch(tmp_path / 'run/20260101_000000.py')
    (tmp_path / 'run/mine.py').write_text(f'''import os
os.system('touch {tmp_path}/witness')
x = open({str(tmp_path / 'witness')!r}, 'w')
value = dict(type=open({str(tmp_path / 'witness')!r}, 'w'))
{loaders}
''')
    return tmp_path / 'run'


def test_images_of_a_config_that_the_run_wrote(coco_run, trained, tmp_path):
    """The config is read and not run: a run's folder may come from a stranger."""
    images = find(run=coco_run)
    assert images.split.images == f'{trained}/data/val2017' and len(images.split.content['images']) == 2
    assert images.split_name == 'val' and images.data.endswith('instances_val2017.json')
    assert find(run=coco_run, split='train').split.images.endswith('train2017')
    assert not (tmp_path / 'witness').exists()
    assert tool._name_config(options(), tool.Found('best.pth', str(coco_run))) == 'mine'


@pytest.mark.parametrize('text', ['(' * 2000, 'x = = 1', 'test_dataloader = 3', 'test_dataloader = dict(dataset=5)',
                                  'test_dataloader = dict(dataset=dict(type="FolderDataset"))', '\0', 'a.b = 1',
                                  'test_dataloader = dict(**{})', '1 + 1', 'x = y = 1'])
def test_a_config_that_is_none_names_no_images(text, tmp_path):
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(SetupError, match='not known which images best.pth was validated on.*--data'):
        find(run=tmp_path)


def test_images_of_a_config_beside_the_checkpoint(coco_run, trained, tmp_path):
    text = (coco_run / 'mine.py').read_text()
    (tmp_path / 'own.py').write_text(text[text.index('train_dataloader'):])
    assert find(config=str(tmp_path / 'own.py')).split.images == f'{trained}/data/val2017'
    assert tool._name_config(options(config=str(tmp_path / 'own.py')), tool.Found('best.pth', None)) == 'own'


def test_images_that_a_card_knows(trained, tmp_path):
    of_folder = dict(type='gfl_plugin.FolderDataset', data=str(trained / 'data'), split='train', val_share=0.2)
    images = find(CARD._replace(trained_on=of_folder))
    assert (images.data, images.split_name, len(images.split.content['images'])) == (str(trained / 'data'), 'val', 2)
    (tmp_path / 'val').mkdir()
    shutil.copy(trained / 'data/annotations/instances_val2017.json', tmp_path / 'val/annotations.json')
    of_shapes = dict(type='gfl_plugin.ShapesDataset', data=str(tmp_path), split='train')
    assert find(CARD._replace(trained_on=of_shapes)).split.images == str(tmp_path / 'val/images')


@pytest.mark.parametrize('trained_on', [
    None, dict(type='FolderDataset', data='/gone'), dict(type='CocoDataset', data='/gone', images='/gone'),
    dict(type='ShapesDataset', data='a\0b'), dict(type='ShapesDataset', data='/etc'), {}])
def test_images_that_nobody_knows(trained_on):
    with pytest.raises(SetupError, match='not known which images'):
        find(CARD._replace(trained_on=trained_on))


def test_a_split_without_images(tmp_path):
    (tmp_path / 'val').mkdir()
    (tmp_path / 'val/annotations.json').write_text('{"images": [], "categories": []}')
    with pytest.raises(SetupError, match='The val split of .* has no images'):
        find(CARD._replace(trained_on=dict(type='ShapesDataset', data=str(tmp_path))))


def test_a_checkpoint_without_a_card_needs_its_config(trained, tmp_path, pages):
    content = torch.load(next((trained / 'run').glob('best_*.pth')), weights_only=False)
    del content['gfl_plugin']
    torch.save(content, tmp_path / 'old.pth')
    with pytest.raises(SetupError, match='--config CONFIG'):
        report(tmp_path / 'old.pth', '--data', trained / 'data')
    config = str(trained / 'run/gfl_r18_fpn_shapes.py')
    report(tmp_path / 'old.pth', '--config', config)
    content = pages[str(tmp_path / 'report.html')]
    assert content['about']['config'] == 'gfl_r18_fpn_shapes' and content['about']['images'] == 2
    assert content['about']['score_thr'] == 0.3, 'nothing recommends another one'


@pytest.mark.parametrize('change', [dict(type='mmdet.GFLHead'), dict(box='DiracDelta', loss_dfl=None, reg_max=None)])
def test_a_head_without_distributions_has_a_page_without_them(change, trained, tmp_path, pages):
    config = Config.fromfile(str(trained / 'run/gfl_r18_fpn_shapes.py'))
    config.model.bbox_head.update(change)
    config.dump(str(tmp_path / 'own.py'))
    torch.save(MODELS.build(config.model).state_dict(), tmp_path / 'own.pth')
    report(tmp_path / 'own.pth', '--config', tmp_path / 'own.py', '--score-thr', 0)
    content = pages[str(tmp_path / 'report.html')]
    assert content['uncertainty'] is None and content['doubtful'] == [] and content['worst']
    assert any('does not say how far each side' in note for note in content['notes'])
    assert all(one['std'] is one['places'] is None for image in content['images'] for one in image['found'])
    assert content['metrics']['mAP'] is not None and any(image['found'] for image in content['images'])


def test_the_settings_of_every_config_are_read_as_mmengine_reads_them(tmp_path):
    """As far as they are plain data, which all that is needed here is."""
    for name in ('demo/gfl_r18_fpn_shapes.py', 'gfl/gfl_r50_fpn_1x_coco.py', 'custom/gfl_lite0_fpn.py'):
        config = Config.fromfile(os.path.join(CONFIGS, name))
        config.dump(str(tmp_path / 'dumped.py'))
        found = tool.read_settings(str(tmp_path / 'dumped.py'))
        for key in ('train_dataloader', 'test_dataloader'):
            assert json.dumps(found[key], sort_keys=True) == json.dumps(config[key].to_dict(), sort_keys=True), name
