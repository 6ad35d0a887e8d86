"""Unreadable images: training skips, counts and names them; evaluation raises an error."""
import gc

import cv2
import pytest
import torch
from data_sets import DAMAGE, TRAIN, build, write_set
from mmdet.registry import TRANSFORMS
from mmengine.dataset import RepeatDataset, pseudo_collate
from torch.utils.data import DataLoader

from gfl_plugin.errors import SetupError

HALF = dict(max_unreadable=0.5)


@pytest.fixture
def impatient(monkeypatch):
    """Shorten the 5 s that PyTorch waits for each worker when a loader that failed is garbage-collected."""
    monkeypatch.setattr('torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL', 0.2)
    yield
    gc.collect()


def unreadable(dataset):
    return int((dataset._known == 2).sum())


@pytest.mark.parametrize('kind', [*DAMAGE, 'missing'])
def test_an_unreadable_image_is_replaced_and_named(tmp_path, log, kind):
    dataset = build(write_set(tmp_path, damaged={1: kind}), **HALF)
    drawn = [dataset[index]['data_samples'].img_id for index in range(4)]
    assert drawn[0] == 10 and drawn[2:] == [12, 13], 'readable images should not be replaced'
    assert drawn[1] in (10, 12, 13), 'another image should take the place of the unreadable one'
    said = [line for line in log() if '1.jpg' in line and 'cannot be read' in line]
    assert len(said) == 1 and 'image 11' in said[0] and '1 of 4 images' in said[0], 'the log should name and count it'


def test_an_image_counts_once_however_often_it_is_drawn(tmp_path, log):
    dataset = build(write_set(tmp_path, damaged={1: 'half'}), **HALF)
    for _ in range(20):
        dataset[1]
    assert unreadable(dataset) == 1, 'a broken image that is drawn twenty times should count once'
    assert len([line for line in log() if 'cannot be read' in line]) == 1, 'the log should name it once'


def test_worker_processes_count_together(tmp_path, impatient, context='fork'):  # tests/soak runs the slower 'spawn'
    """6 of 12 images are broken, and each of 3 workers reads 2 of them: no worker alone exceeds the limit of 4."""
    dataset = build(write_set(tmp_path, images=12, damaged={i: 'half' for i in range(6)}), max_unreadable=4 / 12,
                    serialize_data=True)
    loader = DataLoader(dataset, num_workers=3, collate_fn=pseudo_collate, multiprocessing_context=context)
    with pytest.raises(SetupError, match=r'[56] of the 12 images .* cannot be read') as raised:
        list(loader)
    message = str(raised.value)
    assert 'Traceback' not in message and '\n' not in message, 'the error of a worker should arrive as one paragraph'
    assert 'truncated' in message and 'max_unreadable=0.333' in message, \
        'the error should give the reason and the limit'


def test_the_count_outlives_an_epoch_of_workers(tmp_path):
    dataset = build(write_set(tmp_path, images=8, damaged={2: 'empty', 5: 'missing'}), **HALF)
    for workers in (2, 0):
        loader = DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=pseudo_collate)
        assert sum(len(batch['inputs']) for batch in loader) == 8, 'an epoch should keep its full length'
        assert unreadable(dataset) == 2, 'the main process should know what its workers found, counted once'


def test_training_ends_past_the_share(tmp_path):
    root = write_set(tmp_path, images=200, damaged={7: 'half', 8: 'half'})
    dataset = build(root)
    for index in range(200):
        dataset[index]
    assert unreadable(dataset) == 2, '2 of 200 is 1%, which does not exceed the limit'
    (root / 'images' / '9.jpg').write_bytes(b'')
    with pytest.raises(SetupError, match=r'3 of the 200 images of .*boxes.json cannot be read \(7.jpg, 8.jpg, 9.jpg\)'
                                         r'\. The last one: .*9.jpg.*: empty\. .*max_unreadable=0\.01'):
        dataset[9]


def test_nothing_readable_ends_any_training(tmp_path):
    dataset = build(write_set(tmp_path, damaged={i: 'empty' for i in range(4)}), max_unreadable=1)
    with pytest.raises(SetupError, match='4 of the 4 images'):
        dataset[0]


@pytest.mark.parametrize('share', [-0.1, 1.5, float('nan')])
def test_the_share_must_be_between_0_and_1(tmp_path, share):
    with pytest.raises(SetupError, match='from 0 to 1'):
        build(write_set(tmp_path), max_unreadable=share)


def test_a_rank_counts_relative_to_the_images_it_has_read(tmp_path, monkeypatch):
    """One of four ranks reads a quarter of the images per epoch: 3 of 25 exceed the limit, and 3 of 100 do not."""
    dataset = build(write_set(tmp_path, images=100, damaged={i: 'half' for i in range(3)}), max_unreadable=0.1)
    monkeypatch.setattr(dataset, '_ranks', 4)
    with pytest.raises(SetupError, match='3 of the 100 images'):
        [dataset[index] for index in range(3)]
    dataset._reset_count()
    for index in range(100):
        dataset[index]
    assert unreadable(dataset) == 3, 'a rank that has read all images should continue'


@pytest.mark.parametrize('kind, workers', [(kind, 0) for kind in DAMAGE] + [('half', 1)])
def test_evaluation_refuses_an_unreadable_image(tmp_path, impatient, kind, workers):
    dataset = build(write_set(tmp_path, damaged={1: kind}), test_mode=True, max_unreadable=1)
    said = r'1\.jpg \(image 11 of .*boxes\.json\) cannot be read: .*evaluation'
    with pytest.raises(SetupError, match=said) as raised:
        list(DataLoader(dataset, num_workers=workers, collate_fn=pseudo_collate))
    assert '\n' not in str(raised.value), 'the reason should be one paragraph'


def test_missing_files_are_found_before_the_first_iteration(tmp_path, log):
    root = write_set(tmp_path, images=10, damaged={1: 'missing', 2: 'missing'})
    with pytest.raises(SetupError, match=r'2 of the 10 image files .* are missing \(1\.jpg, 2\.jpg\)'):
        build(root)
    with pytest.raises(SetupError, match='2 of the 10 image files .* are missing'):
        build(root, test_mode=True, max_unreadable=1)
    build(root, max_unreadable=0.2)
    assert any('2 of the 10 image files' in line for line in log()), \
        'missing files within the share should cause a warning'
    assert len(build(root, pipeline=[])) == 10, 'without a pipeline, the boxes should load without the images'
    assert len(build(root, indices=[0, 3])) == 2, 'a part of the set should load without the other images'


def test_a_bug_in_the_pipeline_is_not_blamed_on_the_image(tmp_path):
    def fail(results):
        raise ZeroDivisionError('a bug')

    for pipeline in ([fail, *TRAIN], [*TRAIN[:2], fail]):
        dataset = build(write_set(tmp_path), pipeline=pipeline, max_unreadable=1)
        with pytest.raises(ZeroDivisionError, match='a bug'):
            dataset[0]
        assert unreadable(dataset) == 0, 'no image should be blamed for a bug'


def test_a_pipeline_that_gives_none_draws_another_image(tmp_path):
    """An augmentation may reject an image by returning None, and MMEngine then draws another one."""
    dataset = build(write_set(tmp_path),
                    pipeline=[*TRAIN, lambda data: data if data['data_samples'].img_id != 10 else None])
    assert dataset[0]['data_samples'].img_id in (11, 12, 13), 'another image should be drawn'
    assert unreadable(dataset) == 0, 'the file is fine and should not be counted'


def test_a_pipeline_that_fails_with_an_image_of_another_size_blames_the_file(tmp_path):
    def fail(results):
        assert results['img'].shape[:2] == (results['height'], results['width']), 'wrong size'
        return results

    root = write_set(tmp_path, images=3)
    cv2.imwrite(str(root / 'images' / '1.jpg'), cv2.imread(str(root / 'images' / '1.jpg'))[:7])
    dataset = build(root, pipeline=[TRAIN[0], fail, *TRAIN[1:]], **HALF)
    assert dataset[1]['data_samples'].img_id in (10, 12) and unreadable(dataset) == 1, 'the image should be skipped'


def test_wrappers_and_subsets_count(tmp_path):
    root = write_set(tmp_path, images=6, damaged={1: 'half'})
    dataset = build(root, serialize_data=True, **HALF)
    RepeatDataset(dataset, times=3)[7]
    assert unreadable(dataset) == 1, 'a repeated set should count its broken image'
    part = dataset.get_subset([1, 2])
    part[0]
    assert len(part._known) == 2 and unreadable(part) == 1, 'a subset should have its own count'
    dataset.get_subset_([0, 2, 3])
    assert len(dataset._known) == 3 and unreadable(dataset) == 0, \
        'a set that is reduced to a subset should start a new count'
    assert dataset._known.is_shared() and part._known.is_shared(), 'both counts should be in memory that workers share'


def test_ignore_empty_loaders_are_seen_through(tmp_path):
    """MMCV's ignore_empty returns None for a missing file, which should be counted all the same."""
    loader = TRANSFORMS.build(dict(type='LoadImageFromFile', ignore_empty=True))
    dataset = build(write_set(tmp_path, damaged={1: 'missing'}), pipeline=[loader, *TRAIN[1:]], **HALF)
    dataset[1]
    assert unreadable(dataset) == 1, 'the missing file should be counted'


def test_real_images_pass(tiny_coco):
    """No real image is taken for a broken one."""
    from gfl_plugin.datasets import CocoDataset
    for split in ('train', 'val'):
        dataset = CocoDataset(data_root=tiny_coco, ann_file=f'annotations/instances_{split}2017.json',
                              data_prefix=dict(img=f'{split}2017/'), pipeline=TRAIN, max_unreadable=0)
        shapes = [dataset[index]['inputs'].shape for index in range(len(dataset))]
        assert len(shapes) == 50 and torch.all(dataset._known == 1), 'every image should be read'
