"""Pictures of a test, without a test: the hook gets what MMEngine's loop would give it."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from gfl_plugin.errors import SetupError
from gfl_plugin.hooks import PictureHook
from gfl_plugin.visualization import draw_detections
from gfl_plugin.visualization.files import read_image, write_picture

BOX = [100., 100., 200., 180.]


class DataSet:
    """As much of MMDetection's data set as the hook uses."""
    metainfo = dict(classes=('кот', 'dog'))

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        return dict(img_path=self.paths[index], instances=[dict(bbox=BOX, bbox_label=0, ignore_flag=0),
                                                           dict(bbox=[5, 5, 300, 300], bbox_label=0, ignore_flag=1)])


@pytest.fixture
def runner(tmp_path):
    paths = [str(tmp_path / 'фото' / name) for name in ('a/1.png', 'b/1.png', 'b/2.jpg')]
    for seed, path in enumerate(paths):
        write_picture(path, np.random.default_rng(seed).integers(90, 160, (400, 400, 3), dtype=np.uint8))
    return SimpleNamespace(work_dir=str(tmp_path / 'run'), timestamp='now',
                           test_dataloader=SimpleNamespace(dataset=DataSet(paths)))


def sample(path):
    """Detections of an image. Its ground truth was flipped, as test-time augmentation does."""
    found = InstanceData(bboxes=torch.tensor([[50., 50., 90., 90.], [200., 220., 300., 300.]]),
                         scores=torch.tensor([0.9, 0.35]), labels=torch.tensor([0, 1]))
    flipped = InstanceData(bboxes=torch.tensor([[200., 100., 300., 180.]]), labels=torch.tensor([0]))
    return DetDataSample(metainfo=dict(img_path=path), pred_instances=found, gt_instances=flipped)


def draw(runner, **settings):
    hook = PictureHook(**{'folder': 'pictures', **settings})
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, None, [sample(path) for path in runner.test_dataloader.dataset.paths])


def test_every_image_has_its_picture(runner, tmp_path):
    draw(runner)
    folder = tmp_path / 'run' / 'now' / 'pictures'
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob('*.*'))
    assert files == ['a/1.png', 'b/1.png', 'b/2.jpg']
    for name in ('a/1.png', 'b/1.png'):
        expected = draw_detections(read_image(str(tmp_path / 'фото' / name)), [[50, 50, 90, 90], [200, 220, 300, 300]],
                                   [0.9, 0.35], [0, 1], ('кот', 'dog'), [BOX])
        assert (read_image(str(folder / name)) == expected).all(), 'the ground truth is the data set\'s'


def test_only_scores_from_the_threshold_on_are_drawn(runner, tmp_path):
    draw(runner, score_thr=0.5, folder=str(tmp_path / 'elsewhere'))
    expected = draw_detections(read_image(str(tmp_path / 'фото' / 'a' / '1.png')), [[50, 50, 90, 90]], [0.9], [0],
                               ('кот', 'dog'), [BOX])
    assert (read_image(str(tmp_path / 'elsewhere' / 'a' / '1.png')) == expected).all()


def test_a_folder_that_cannot_be_written_is_noticed_before_the_test(runner, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SetupError, match=r'cannot be written to .*file.pictures: Not a directory$'):
        PictureHook(str(tmp_path / 'file' / 'pictures')).before_test(runner)


def test_a_picture_that_cannot_be_written(runner, tmp_path):
    (tmp_path / 'run/now/pictures/b/1.png').mkdir(parents=True)
    with pytest.raises(SetupError, match='cannot be written to .*b/1.png: Is a directory$'):
        draw(runner)
