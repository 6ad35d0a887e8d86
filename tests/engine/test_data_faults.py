"""What a user sees of bad data: train and test end with a paragraph and status 2, or go on."""
import shutil

import pytest
from tool_runs import ROOT, SHAPES, SMALL, on_shapes, run

from gfl_plugin import engine


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    """A folder with 16 training and 4 validation images, and the work_dir of an epoch on them."""
    folder = tmp_path_factory.mktemp('shapes')
    engine.train(on_shapes('train', folder / 'data', '--work-dir', str(folder / 'run'),
                           settings=['train_cfg.max_epochs=1']))
    return folder


@pytest.fixture
def data(shapes, tmp_path):
    return shutil.copytree(shapes / 'data', tmp_path / 'data')


def train(data, *settings):
    """As a user does, with worker processes."""
    return run(str(ROOT / 'tools/train.py'), SHAPES, '--data-root', str(data), '--work-dir', str(data / 'run'),
               '--cfg-options', *SMALL, 'train_cfg.max_epochs=1', 'train_dataloader.num_workers=2', *settings)


def test_a_training_goes_on_without_a_broken_image(data):
    broken = data / 'train' / 'images' / '000003.png'
    broken.write_bytes(broken.read_bytes()[:500])
    done = train(data, 'train_dataloader.dataset.max_unreadable=0.1')
    assert done.returncode == 0, done.stderr
    log = next((data / 'run').glob('*/*.log')).read_text()
    assert log.count('000003.png (image 3') == 1 and 'truncated. Training skips it' in log, \
        'the log should name it, once'
    assert (data / 'run' / 'epoch_1.pth').exists(), 'and the training reach its end'


def test_a_training_ends_with_a_paragraph(data):
    broken = data / 'train' / 'images' / '000003.png'
    broken.write_bytes(b'')
    done = train(data)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('error: 1 of the 16 images of') and '000003.png' in last and 'empty' in last, done.stderr
    assert 'Traceback' not in done.stderr, 'a bad file is no bug'


def test_an_evaluation_ends_with_a_paragraph(shapes, data):
    broken = data / 'val' / 'images' / '000002.png'
    broken.write_bytes(broken.read_bytes()[:500])
    done = run(str(ROOT / 'tools/test.py'), SHAPES, str(shapes / 'run' / 'epoch_1.pth'), '--data-root', str(data),
               '--work-dir', str(data / 'run'), '--cfg-options', *SMALL)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('error: ') and '000002.png (image 2' in last and 'evaluation' in last, done.stderr
    assert 'Traceback' not in done.stderr, 'a bad file is no bug'
