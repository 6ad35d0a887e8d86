"""Train, resume and evaluate, and the messages when something is wrong."""
import json
import os
import pickle

import numpy as np
import pytest
import torch
from tool_runs import ROOT, SHAPES, SMALL, on_shapes, parse, run, scalars

from gfl_plugin import engine
from gfl_plugin.errors import SetupError
from gfl_plugin.safe_loading import UnsafeCheckpointError, load_file
from gfl_plugin.visualization import draw_detections
from gfl_plugin.visualization.files import read_image, write_picture


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with data and with the work_dir of a run of two epochs."""
    folder = tmp_path_factory.mktemp('trained')
    engine.train(on_shapes('train', folder / 'data', '--work-dir', str(folder / 'run')))
    return folder


def test_a_run_leaves_checkpoints_logs_and_curves(trained):
    work_dir = trained / 'run'
    assert (work_dir / 'epoch_2.pth').exists() and (work_dir / 'last_checkpoint').exists(), 'checkpoints'
    assert list(work_dir.glob('*/vis_data/events.out.tfevents.*')), 'TensorBoard curves'
    assert list(work_dir.glob('*/*.log')), 'a log'
    losses = scalars(work_dir)
    assert len(losses) == 8 and {'loss_cls', 'loss_bbox', 'loss_dfl'} < losses[1].keys(), 'a line per iteration'
    assert 'eta' in next(work_dir.glob('*/*.log')).read_text(), 'progress with an ETA'


def test_resume_goes_on(trained, tmp_path):
    """A run that resumes from the first epoch's checkpoint trains the second epoch."""
    work_dir = tmp_path / 'resumed'
    runner = engine.train(on_shapes('train', trained / 'data', '--work-dir', str(work_dir),
                                    '--resume', str(trained / 'run' / 'epoch_1.pth')))
    assert runner.epoch == 2 and runner.iter == 8, 'it should end where an uninterrupted run ends'
    assert sorted(scalars(work_dir)) == [5, 6, 7, 8], 'it should go on where the checkpoint was written'
    checkpoint = load_file(work_dir / 'epoch_2.pth')
    assert checkpoint['meta']['iter'] == 8 and 'message_hub' in checkpoint, 'the checkpoint should be complete'


def test_auto_resume_takes_the_latest(trained):
    runner = engine.train(on_shapes('train', trained / 'data', '--work-dir', str(trained / 'run'), '--resume',
                                    settings=['train_cfg.max_epochs=3']))
    assert runner.epoch == 3 and (trained / 'run' / 'epoch_3.pth').exists(), 'one epoch more should have been trained'


def test_evaluate_with_pictures_detections_and_tta(trained):
    checkpoint = str(trained / 'run' / 'epoch_2.pth')
    before = {file: file.read_bytes() for file in (trained / 'run').rglob('*') if file.is_file()}
    metrics = []
    for flags in ((), ('--tta', ), ('--show-dir', 'pictures', '--out', str(trained / 'out.pkl'))):
        options = on_shapes('test', trained / 'data', checkpoint, '--work-dir', str(trained / 'run'), *flags)
        metrics.append(engine.test(options)[1])
    assert all('coco/bbox_mAP' in m for m in metrics), 'each should end with the AP'
    assert metrics[0] == metrics[2], 'pictures should not change the AP'
    assert len(pickle.loads((trained / 'out.pkl').read_bytes())) == 4, 'detections of each image should be saved'
    assert len(list((trained / 'run').glob('*/pictures/*'))) == 4, 'a picture of each image should be saved'
    assert all(file.read_bytes() == content for file, content in before.items()), \
        'an evaluation should overwrite nothing of the training'


def test_pictures_have_the_ground_truth_where_it_is(trained, tmp_path):
    """Under test-time augmentation too, which flips the pipeline's; and each image has its picture."""
    names, boxes = ('é/1.png', 'b/1.png'), [[4 + 9 * label, 5 + 6 * label, 8, 20] for label in range(6)]
    for seed, name in enumerate(names):
        write_picture(str(tmp_path / 'data' / 'train' / name), np.random.default_rng(seed).integers(
            90, 160, (64, 64, 3), dtype=np.uint8))
    content = dict(images=[dict(id=index, file_name=name, width=64, height=64) for index, name in enumerate(names)],
                   categories=[dict(id=label, name=name) for label, name in enumerate(('猫', 'a', 'b', 'c', 'd', 'e'))],
                   annotations=[dict(id=6 * index + label, image_id=index, category_id=label, bbox=box, area=160,
                                     iscrowd=0) for index in range(2) for label, box in enumerate(boxes)])
    (tmp_path / 'data' / 'annotations').mkdir()
    for split in ('train', 'val'):
        (tmp_path / 'data' / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
    os.symlink('train', tmp_path / 'data' / 'val')
    engine.test(parse('test', SHAPES, str(trained / 'run' / 'epoch_2.pth'), '--data', str(tmp_path / 'data'), '--tta',
                      '--work-dir', str(tmp_path / 'run'), '--show-dir', 'pictures', '--cfg-options', *SMALL,
                      'default_hooks.visualization.score_thr=1.1', 'test_dataloader.num_workers=0',
                      'test_dataloader.persistent_workers=False'))
    folder, = (tmp_path / 'run').glob('*/pictures')
    corners = [[x, y, x + width, y + height] for x, y, width, height in boxes]
    for name in names:
        image = read_image(str(tmp_path / 'data' / 'train' / name))
        expected = draw_detections(image, [], [], [], [], corners)
        assert (read_image(str(folder / name)) == expected).all(), name


def test_a_new_run_overwrites_nothing(trained, tmp_path, monkeypatch):
    with pytest.raises(SetupError, match='--resume'):
        engine.train(on_shapes('train', trained / 'data', '--work-dir', str(trained / 'run')))
    monkeypatch.chdir(tmp_path)  # with the default folder
    folders = [engine.train(on_shapes('train', trained / 'data', settings=['train_cfg.max_epochs=1'])).work_dir
               for _ in range(2)]
    assert [f.rsplit('/')[-1] for f in folders] == ['gfl_r18_fpn_shapes', 'gfl_r18_fpn_shapes-2'], folders
    resumed = engine.train(on_shapes('train', trained / 'data', '--resume')).work_dir
    assert resumed == folders[1], 'without a name the latest run should go on'


def test_demo(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine.demo(on_shapes('demo', tmp_path / 'data'))
    last_lines = capsys.readouterr().out.strip().splitlines()[-4:]
    assert 'AP ' in last_lines[0] and 'AP50' in last_lines[0], last_lines
    page = tmp_path / last_lines[1].split()[-1]
    assert page.name == 'report.html' and page.stat().st_size > 10_000, last_lines
    sheet = tmp_path / last_lines[2].split()[-1]
    assert sheet.exists() and len(list(sheet.parent.glob('*.png'))) == 5, 'four pictures and their sheet'


# ---- mistakes ----

def test_missing_data_root(tmp_path):
    config = str(ROOT / 'configs/gfl/gfl_r50_fpn_1x_coco.py')
    with pytest.raises(SetupError, match=r'nowhere/annotations/instances_train2017.json does not exist.*--data-root'):
        engine.train(parse('train', config, '--work-dir', str(tmp_path), '--data-root', str(tmp_path / 'nowhere'),
                           '--no-pretrained'))


def test_a_mistake_is_one_paragraph_and_a_status(tmp_path):
    """It runs in a process of its own, to see what a user sees."""
    for arguments, said in ((['configs/none.py'], 'There is no config file'),
                            (['configs/gfl/gfl_r50_fpn_1x_coco.py', '--no-pretrained', '--data-root', 'nowhere',
                              '--work-dir', str(tmp_path / 'a')], 'nowhere/annotations'),
                            ([SHAPES, '--cfg-options', 'model.bbox_head.reg_max=0',
                              '--work-dir', str(tmp_path / 'b')], 'reg_max=0')):
        done = run('tools/train.py', *arguments)
        error = done.stderr[done.stderr.index('error: '):] if 'error: ' in done.stderr else done.stderr
        assert done.returncode == 2 and said in error, done.stderr[-2000:]
        assert len(error.strip().splitlines()) == 1 and 'Traceback' not in done.stderr, 'one paragraph, no traceback'
        assert 'OneDL' not in done.stdout, 'an import should print nothing'


@pytest.mark.parametrize('settings, said', [
    (['model.bbox_head.reg_max=0'], 'reg_max=0'),
    (['model.bbox_head.num_classes=80'], r'6 classes.*num_classes=80'),
    (['train_dataloader.dataset.metainfo.classes=("ellipse","zebra")'], r'1 of the 2 classes.*\(zebra\).*6 categories'),
    (['train_dataloader.dataset.num_images=0'], 'no image'),
    (['nonsense'], '"="'),
])
def test_mistakes_in_the_config(tmp_path, settings, said):
    with pytest.raises(SetupError, match=said):
        engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(tmp_path / 'run'), settings=settings))


def test_checkpoint_of_another_architecture(trained):
    checkpoint = str(trained / 'run' / 'epoch_2.pth')
    with pytest.raises(SetupError, match=r'another architecture.*keys are missing \(.*cls_convs\.1'):
        engine.test(on_shapes('test', trained / 'data', checkpoint, '--work-dir', str(trained / 'other'),
                              settings=['model.bbox_head.stacked_convs=2']))
    with pytest.raises(SetupError, match=r'of another shape \(bbox_head.gfl_reg'):
        engine.train(on_shapes('train', trained / 'data', '--resume', checkpoint, '--work-dir', str(trained / 'other'),
                               settings=['model.bbox_head.reg_max=7']))


def test_weights_to_start_from_may_lack_a_head(trained):
    engine.train(on_shapes('train', trained / 'data', '--work-dir', str(trained / 'tuned'), settings=[
        f'load_from={trained / "run" / "epoch_2.pth"}', 'model.bbox_head.reg_max=7', 'train_cfg.max_epochs=1']))


def test_a_strangers_checkpoint_is_refused(trained):
    class Stranger:

        def __reduce__(self):
            return print, ('this should never be seen', )

    torch.save(dict(state_dict={}, meta=Stranger()), trained / 'stranger.pth')
    for tool, arguments in (('test', [str(trained / 'stranger.pth')]),
                            ('train', ['--resume', str(trained / 'stranger.pth')])):
        with pytest.raises(UnsafeCheckpointError, match='print.*--trust-checkpoint'):
            getattr(engine, tool)(on_shapes(tool, trained / 'data', *arguments, '--work-dir', str(trained / 'none')))


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    """Root may write anywhere, so the test raises the error itself."""
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, 'Permission denied', path)

    monkeypatch.setattr('mmengine.runner.runner.mmengine.mkdir_or_exist', refuse)
    with pytest.raises(SetupError, match=rf'no access to {tmp_path}/run.*Permission denied.*--work-dir'):
        engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(tmp_path / 'run')))


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(SetupError, match='no checkpoint .*nowhere.pth'):
        engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', str(tmp_path / 'run'),
                               settings=['load_from=nowhere.pth']))


def test_out_must_be_a_pickle(trained):
    with pytest.raises(SetupError, match='.pkl'):
        engine.test(on_shapes('test', trained / 'data', 'x.pth', '--out', 'detections.json'))


@pytest.mark.parametrize('tool', ['train', 'test', 'demo'])
def test_help_needs_no_torch(tool):
    code = ('import runpy, sys\n'
            f'sys.argv = ["{tool}.py", "--help"]; sys.path.insert(0, "tools")\n'
            f'try: runpy.run_path("tools/{tool}.py", run_name="__main__")\n'
            'except SystemExit: print("torch" in sys.modules, "numpy" in sys.modules)')
    printed = run('-c', code).stdout
    assert 'usage' in printed and printed.endswith('False False\n'), 'parse before importing what takes seconds'


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without CUDA')
def test_amp_without_cuda(tmp_path):
    with pytest.raises(SetupError, match='CUDA'):
        engine.train(on_shapes('train', tmp_path / 'data', '--amp', '--work-dir', str(tmp_path / 'run')))


def test_auto_scale_lr_needs_a_base(tmp_path):
    with pytest.raises(SetupError, match='base_batch_size'):
        engine.train(on_shapes('train', tmp_path / 'data', '--auto-scale-lr', '--work-dir', str(tmp_path / 'run')))
