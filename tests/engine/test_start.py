"""Where a run writes, and what it goes on from."""
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tool_runs import SHAPES, on_shapes, parse

from gfl_plugin import engine
from gfl_plugin.engine import run_folders, start
from gfl_plugin.errors import SetupError


def folder(*arguments):
    """The folder that a new run writes to."""
    options = parse('train', SHAPES, *arguments)
    return run_folders.training_folder(options, engine.load_config(options))


def test_runs_that_start_together_share_no_folder(tmp_path, monkeypatch):
    """Each has chosen its folder before the others have written anything."""
    monkeypatch.chdir(tmp_path)
    assert [Path(folder()).name for _ in range(3)] == ['gfl_r18_fpn_shapes', 'gfl_r18_fpn_shapes-2',
                                                       'gfl_r18_fpn_shapes-3']
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(run_folders.claim, ['another'] * 32)) == 1


@pytest.mark.parametrize('exists', [False, True])
def test_a_folder_that_was_asked_for_is_taken_once(exists, tmp_path):
    asked = tmp_path / 'run'
    if exists:
        asked.mkdir()
    assert folder('--work-dir', str(asked)) == str(asked)
    with pytest.raises(SetupError, match='holds an earlier run'):
        folder('--work-dir', str(asked))


@pytest.mark.parametrize('below', ['', 'run'])
def test_a_file_is_no_folder(below, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SetupError, match='file is not a folder'):
        folder('--work-dir', str(tmp_path / 'file' / below))


def test_a_test_takes_no_file_for_a_folder(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SetupError, match='file is not a folder. Name another --work-dir'):
        engine.test(parse('test', SHAPES, 'some.pth', '--work-dir', str(tmp_path / 'file')))


def test_a_file_in_the_place_of_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'work_dirs').touch()
    with pytest.raises(SetupError, match='work_dirs is not a folder'):
        folder()


def test_a_mistake_takes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (['--cfg-options', 'load_from=nowhere.pth'], ['--auto-scale-lr']):
        with pytest.raises(SetupError):
            engine.train(parse('train', SHAPES, *arguments))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize('setting', ['custom_hooks=[dict(type="NoSuchHook")]', 'train_cfg.max_epoch=2'])
def test_a_mistake_gives_the_folder_back(setting, tmp_path):
    asked = str(tmp_path / 'run')
    with pytest.raises(SetupError, match='The config does not give'):
        engine.train(on_shapes('train', tmp_path / 'data', '--work-dir', asked, settings=[setting]))
    assert folder('--work-dir', asked) == asked


def test_a_run_that_has_saved_keeps_its_folder(tmp_path):
    run = write_run(tmp_path / 'run', 'epoch_1.pth', run_folders.LAUNCH, Path(SHAPES).name)
    written = sorted(os.listdir(run))
    with pytest.raises(SetupError), run_folders.giving_back(str(run), engine.load_config(parse('train', SHAPES))):
        raise SetupError('a mistake')
    assert sorted(os.listdir(run)) == written


@pytest.mark.parametrize('content', [b'', b'PKjunkjunk', b'\x80\x02junk', 'truncated'])
def test_a_damaged_checkpoint_is_a_mistake(content, tmp_path, monkeypatch):
    """For a test and for the weights to start from. A training takes no folder."""
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=dict(weight=torch.ones(99))), 'mine.pth')
    whole = Path('mine.pth').read_bytes()
    Path('mine.pth').write_bytes(whole[:-200] if content == 'truncated' else content)
    for tool, arguments in (('test', ['mine.pth']), ('train', ['--cfg-options', 'load_from=mine.pth'])):
        with pytest.raises(SetupError, match=r'mine\.pth is not whole .*again') as caught:
            getattr(engine, tool)(parse(tool, SHAPES, *arguments))
        assert 'trust' not in str(caught.value)
    assert os.listdir() == ['mine.pth']


def write_run(folder, *names):
    """A run's folder; the last checkpoint is the one that it names, by an absolute path."""
    folder.mkdir()
    for index, name in enumerate(names):
        (folder / name).write_bytes(b'PK\x05\x06' + bytes(18))  # a zip file of nothing, which is whole
        os.utime(folder / name, (index, index))
    (folder / 'last_checkpoint').write_text(str(folder / names[-1]))
    return folder


def test_a_copied_run_goes_on_from_its_own_checkpoint(tmp_path, monkeypatch):
    original = write_run(tmp_path / 'original', 'epoch_1.pth', 'epoch_2.pth')
    copy = shutil.copytree(original, tmp_path / 'copy')
    monkeypatch.chdir(tmp_path)
    assert start.newest_whole('copy').path == str(copy / 'epoch_2.pth'), 'its whole path, as the log names it'
    (copy / 'epoch_2.pth').write_bytes(b'')
    assert start.newest_whole(str(copy)).path == str(copy / 'epoch_1.pth'), 'the one before is its own, too'


def test_checkpoints_in_a_folder_of_their_own_are_found(tmp_path):
    """CheckpointHook(out_dir=...): the run's folder names them, and has none."""
    elsewhere = write_run(tmp_path / 'checkpoints', 'epoch_1.pth')
    run = tmp_path / 'run'
    run.mkdir()
    shutil.copy(elsewhere / 'last_checkpoint', run)
    assert start.newest_whole(str(run)).path == str(elsewhere / 'epoch_1.pth')
