"""A checkpoint's card: made from a config, written as JSON, and checked when it is read."""
import json
import math

import pytest
from mmengine.config import Config, ConfigDict
from tool_runs import ROOT, SHAPES

from gfl_plugin.card import KEY, Card, describe, read_card, training_data
from gfl_plugin.errors import SetupError

CARD = Card(model=dict(type='GFL', neck=dict(type='FPN', in_channels=[8, 16]), test_cfg=dict(nms=dict(type='nms'))),
            pipeline=[dict(type='Resize', scale=[64, 64])], classes=['cat', 'Hündin'], score_thr=0.25,
            trained_on=dict(data='here', split='train'), versions=dict(torch='2.6'))


def read(text):
    return read_card({KEY: text}, 'mine.pth')


def changed(**fields):
    return json.dumps({**json.loads(CARD.to_text()), **fields})


def test_a_card_is_read_as_it_was_written():
    assert read(CARD.to_text()) == CARD
    assert read_card(dict(meta={}), 'mine.pth') is None
    bare = CARD._replace(score_thr=None, trained_on=None)
    assert read(bare.to_text()) == bare


def test_a_config_is_described():
    config = ConfigDict(
        model=dict(type='GFL', train_cfg=dict(assigner=dict(type='A')), init_cfg=dict(type='Pretrained'),
                   backbone=dict(type='ResNet', _scope_='mmdet', pretrained='a.pth', out_indices=(0, 1)),
                   bbox_head=dict(type='H', num_classes=2, quality='gfl_plugin.IoUBranch', init_cfg=None),
                   test_cfg=dict(score_thr=.05)),
        test_dataloader=dict(dataset=dict(type='Wrapper', dataset=dict(pipeline=[
            dict(type='LoadImageFromFile', backend_args=None), dict(type='mmdet.Resize', scale=(64, 32)),
            dict(type='mmdet.LoadAnnotations'), dict(type='Pad', size_divisor=32), dict(type='PackDetInputs')]))))
    card = read(describe(config, ('a', 'b'), 0.5).to_text())
    assert card.model == dict(
        type='GFL', backbone=dict(type='mmdet.ResNet', out_indices=[0, 1]),
        bbox_head=dict(type='H', num_classes=2, quality=dict(type='gfl_plugin.IoUBranch')),
        test_cfg=dict(score_thr=.05))
    assert card.pipeline == [dict(type='mmdet.Resize', scale=[64, 32]), dict(type='Pad', size_divisor=32)]
    assert card.classes == ['a', 'b'] and card.score_thr == 0.5 and card.trained_on is None
    assert card.versions.keys() == {'gfl_plugin', 'torch', 'mmdet', 'mmengine', 'python', 'date'}


@pytest.mark.parametrize('change, message', [
    (dict(model=dict(type='GFL', loss=print)), 'model.loss is not plain data'),
    (dict(model=dict(type=ConfigDict)), 'model.type is not plain data'),
    (dict(model=dict(type='GFL', scale=math.nan)), 'model.scale is not plain data'),
    (dict(pipeline=[dict(type='Lambda', function=len)]), 'pipeline.0.function is not plain data')])
def test_what_is_more_than_data_gets_no_card(change, message):
    with pytest.raises(SetupError, match=message):
        CARD._replace(**change).to_text()


@pytest.mark.parametrize('config, message', [
    (dict(), 'no model'), (dict(model=dict(type='GFL')), 'no test pipeline'),
    (dict(model=dict(type='GFL'), test_dataloader=dict(dataset=dict(pipeline=[len]))), 'no test pipeline')])
def test_a_config_without_a_model_or_a_test_is_not_described(config, message):
    with pytest.raises(SetupError, match=message):
        describe(config, ['a'])


@pytest.mark.parametrize('train, expected', [
    (dict(type='gfl_plugin.FolderDataset', path='/pictures', split='train', val_share=.1),
     dict(data='/pictures', split='train', val_share=.1)),
    (dict(type='CocoDataset', data_root='/data', ann_file='a.json', data_prefix=dict(img='images/')),
     dict(data='/data/a.json', images='/data/images')),
    (dict(type='CocoDataset', data_root='s3://data/', ann_file='a.json'),
     dict(data='s3://data/a.json', images='s3://data/'))])
def test_training_images_can_be_found_again(train, expected):
    for dataset in (train, dict(type='RepeatDataset', dataset=train)):
        assert training_data(ConfigDict(train_dataloader=dict(dataset=dataset))) == dict(type=train['type'], **expected)


def test_training_images_of_shapes_and_of_unknown_data():
    found = training_data(Config.fromfile(SHAPES))
    assert found['num_images'] == 4800 and found['split'] == 'train' and found['data'].startswith('/')
    assert training_data(ConfigDict(train_dataloader=dict(dataset=dict(type='Mine')))) is None
    assert training_data(dict()) is None


def test_the_configs_of_coco_name_their_annotations():
    found = training_data(Config.fromfile(ROOT / 'configs/gfl/gfl_r50_fpn_1x_coco.py'))
    assert found['data'].endswith('data/coco/annotations/instances_train2017.json')
    assert found['images'].endswith('data/coco/train2017')


@pytest.mark.parametrize('text, message', [
    (b'{}', 'a bytes, not a text'), (['GFL'], 'a list, not a text'), ('no JSON', 'not JSON'), ('', 'not JSON'),
    ('[1]', 'a JSON list'), ('null', 'a JSON NoneType'), ('[' * 100_000, 'not JSON'), ('"' + 'a' * 2**20, 'characters'),
    ('{"format": 1}', 'no model, pipeline'), (changed(format=2), "format '2'.*newer"), (changed(format=True), 'format'),
    (changed(model='GFL'), 'its model should be'), (changed(model={}), 'its model should be'),
    (changed(pipeline={}), 'its pipeline should be'), (changed(pipeline=['Resize']), 'its pipeline should be'),
    (changed(pipeline=[dict(type='Pad')] * 21), 'its pipeline should be a list of up to 20'),
    (changed(classes='cat'), 'its classes'), (changed(classes=[1]), 'its classes'),
    (changed(classes=[]), 'its classes'),
    (changed(score_thr='0.5'), 'its score_thr'), (changed(score_thr=True), 'its score_thr'),
    (changed(score_thr=1.5), 'its score_thr'), (changed(score_thr=math.nan), 'the number NaN'),
    (changed(score_thr=math.inf), 'the number Infinity'), (CARD.to_text().replace('0.25', '1e999'), 'the number 1e999'),
    (CARD.to_text().replace('0.25', '9' * 100_000), 'the number 999'), (changed(trained_on=[]), 'its trained_on'),
    *((changed(trained_on=wrong), 'its trained_on should be null, or an object in which type, data, .* are texts')
      for wrong in (dict(type=5), dict(data=['a']), dict(split=None), dict(images=1), dict(val_share='x'),
                    dict(val_share=2), dict(val_share=True))),
    (changed(versions=dict(torch=2)), 'its versions'), (changed(versions=[]), 'its versions')])
def test_a_malformed_card_is_refused(text, message):
    with pytest.raises(SetupError, match=rf'^The card of mine\.pth cannot be used: .*{message}'):
        read(text)


def nested(levels):
    return {'a': nested(levels - 1)} if levels else {}


@pytest.mark.parametrize('extra, message', [
    (dict(init_cfg=None), r'model.init_cfg is a key that a card must not have \(files, code, training\)'),
    (dict(a=[dict(b=dict(pretrained='x'))]), 'pretrained is a key'),
    (dict(_scope_='os'), '_scope_'), (dict(a=dict(custom_imports=dict(imports=['os']))), 'custom_imports'),
    (dict(teacher_config='a.py'), 'teacher_config'), (dict(a=dict(type='os.path.join')), 'name of a type'),
    (dict(a=dict(type=['os'])), 'name of a type'), (dict(a=dict(type='__import__("os")')), 'name of a type'),
    (dict(test_cfg=dict(nms=dict(type='exec'))), 'one of nms, soft_nms'),
    (dict(a=dict(nms_cfg=dict(b=dict(type='quit')))), 'one of nms, soft_nms'),
    (dict(model_name='hf-hub:a/b'), 'name of a model'), (dict(model_name='../a'), 'name of a model'),
    (dict(depth=10**9), 'at most 100,000'), (dict(a=[[1, -10**9]]), 'at most 100,000'),
    (dict(data_preprocessor=dict(pad_size_divisor=10_000)), 'at most 1,024'), (nested(60), 'more than 40 levels')])
def test_a_model_that_asks_for_files_code_or_memory_is_refused(extra, message):
    with pytest.raises(SetupError, match=message):
        read(changed(model=dict(type='GFL', **extra)))


@pytest.mark.parametrize('step', [dict(scale=[10**5, 9]), dict(scale_factor=2), dict(size_divisor=2000)])
def test_a_transform_that_asks_for_memory_is_refused(step):
    with pytest.raises(SetupError, match='a card may say at most'):
        read(changed(pipeline=[dict(type='Resize', **step)]))
