"""The set of shapes that the demo trains on: the content of its files, and that they are written completely."""
import functools
import json

import numpy as np
import pytest

from gfl_plugin.datasets.shapes import OUTLINES, ShapesDataset, ensure_split, place_shape, render_image

SIZE = 64
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True),
            dict(type='mmdet.RandomFlip', prob=0.0), dict(type='mmdet.PackDetInputs')]


def build(root, split='train', num_images=6, seed=0, **kwargs):
    return ShapesDataset(split=split, num_images=num_images, image_size=SIZE, seed=seed, data_root=str(root), **kwargs)


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def images(root):
    return {name: content for name, content in files(root).items() if name.endswith('.png')}


@functools.lru_cache
def rendered(count=80, size=SIZE):
    """Lists of shapes, one for each of ``count`` images."""
    return [render_image(np.random.default_rng([7, index]), size)[1] for index in range(count)]


def test_same_arguments_give_the_same_bytes(tmp_path):
    build(tmp_path / 'a'), build(tmp_path / 'b')
    assert files(tmp_path / 'a') == files(tmp_path / 'b'), 'two runs with one seed should write the same files'


def test_another_seed_gives_other_images(tmp_path):
    build(tmp_path / 'a'), build(tmp_path / 'b', seed=1)
    first, second = images(tmp_path / 'a'), images(tmp_path / 'b')
    assert len(first) == len(second) == 6, 'each set should have the images asked for'
    assert not set(first.values()) & set(second.values()), 'sets of two seeds should share no image'


def test_a_longer_set_begins_with_the_shorter_one(tmp_path):
    build(tmp_path / 'a'), build(tmp_path / 'b', num_images=8)
    assert images(tmp_path / 'a').items() <= images(tmp_path / 'b').items(), \
        'an image should depend on its own index only'


def test_train_and_val_share_no_image(tmp_path):
    build(tmp_path, 'train'), build(tmp_path, 'val')
    train, val = images(tmp_path / 'train'), images(tmp_path / 'val')
    assert not set(train.values()) & set(val.values()), 'no held-out image should be a training image'


def test_boxes_lie_within_the_image():
    boxes = np.stack([shape.box for shapes in rendered() for shape in shapes])
    assert (boxes >= 0).all() and (boxes <= SIZE).all(), 'a box should not reach beyond the image'
    assert (boxes[:, 2:] - boxes[:, :2] > 0).all(), 'a box should have an area'
    assert (boxes == 0).any() and (boxes == SIZE).any(), 'some shapes should be cut off by the border'
    assert (boxes != boxes.round()).any(), 'boxes should not be rounded to pixels'


@pytest.mark.parametrize('index', range(120))
def test_a_box_is_the_extent_of_its_drawn_shape(index):
    shape = place_shape(np.random.default_rng(index), 128)
    rows, columns = np.nonzero(shape.mask > 0.02)
    drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    name = list(OUTLINES)[shape.label]
    assert np.abs(drawn - shape.box).max() <= 1, \
        f'the box of this {name} is {shape.box} but should be as drawn, {drawn}'


def test_every_class_occurs_and_no_shape_is_hidden():
    scenes = rendered()
    assert {shape.label for shapes in scenes for shape in shapes} == set(range(6)), 'every class should be drawn'
    for shapes in scenes:
        free = np.ones((SIZE, SIZE), np.float32)
        for shape in reversed(shapes):
            assert (shape.mask * free).sum() >= 0.3 * shape.area, 'at least 30% of each shape should be visible'
            free *= 1 - shape.mask


def test_some_images_show_nothing():
    counts = [len(shapes) for shapes in rendered(count=150, size=32)]
    assert 0 < counts.count(0) < 12, 'about one image in fifty should be empty'
    assert max(counts) == 8, 'the fullest image should show eight shapes'


def test_the_leftovers_of_a_killed_run_are_not_used(tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('gfl_plugin.datasets.shapes.json.dumps', killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path)
    assert not (tmp_path / 'train').exists(), 'a split should appear only when it is complete'
    abandoned = tmp_path / '.train-killed'  # what kill -9 leaves, since no cleanup runs
    (abandoned / 'images').mkdir(parents=True)
    assert len(build(tmp_path)) == 6, 'the next run should write the whole split despite the leftovers'


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    (tmp_path / 'train' / 'images').mkdir(parents=True)
    with pytest.raises(ValueError, match='no manifest'):
        build(tmp_path)


def test_a_split_of_other_arguments_is_refused(tmp_path):
    build(tmp_path)
    with pytest.raises(ValueError, match="'seed': 0.*'seed': 1"):
        build(tmp_path, seed=1)


def test_the_slower_of_two_writers_takes_the_split_of_the_faster(tmp_path, monkeypatch):
    folder, manifest = tmp_path / 'train', dict(num_images=0)

    def overtaken(scratch, manifest):
        (scratch / 'manifest.json').write_text('the slower one')
        folder.mkdir()
        (folder / 'manifest.json').write_text(json.dumps(manifest))

    monkeypatch.setattr('gfl_plugin.datasets.shapes.write_split', overtaken)
    ensure_split(folder, manifest)
    assert (folder / 'manifest.json').read_text() == json.dumps(manifest), 'a finished split should not be replaced'
    assert [path.name for path in tmp_path.iterdir()] == ['train'], 'the slower writer should remove its own files'


def test_an_existing_split_is_not_written_again(tmp_path):
    build(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    build(tmp_path)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    assert before == after, 'a finished split should not be touched'


def test_building_a_config_writes_nothing(tmp_path):
    build(tmp_path, lazy_init=True)
    assert not list(tmp_path.iterdir()), 'a lazy data set should write no file before it is used'


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match='minival'):
        ShapesDataset(split='minival', num_images=1)


def test_the_pipeline_delivers_what_was_drawn(tmp_path):
    dataset = build(tmp_path, num_images=20, pipeline=PIPELINE)
    coco = json.loads((tmp_path / 'train' / 'annotations.json').read_text())
    delivered = 0
    for index, sample in enumerate(dataset):
        assert sample['inputs'].shape == (3, SIZE, SIZE), 'images should have the size asked for'
        _, shapes = render_image(np.random.default_rng([0, 0, index]), SIZE)
        instances = sample['data_samples'].gt_instances
        boxes = instances.bboxes.tensor if hasattr(instances.bboxes, 'tensor') else instances.bboxes
        assert np.allclose(boxes, [shape.box for shape in shapes] or np.empty((0, 4)), atol=2e-3), \
            'the pipeline should deliver the boxes that were drawn'
        assert instances.labels.tolist() == [shape.label for shape in shapes], \
            'the labels should be those of the shapes'
        delivered += len(shapes)
    assert delivered == len(coco['annotations']) > 20, 'the pipeline should lose no annotation'
    assert [category['name'] for category in coco['categories']] == list(dataset.metainfo['classes']), \
        'the file and the data set should have the same class names'
