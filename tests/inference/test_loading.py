"""A detector is built from its checkpoint alone, or with a config beside it."""
import ast
import copy
import importlib
import inspect
import json
import os
import threading

import mmdet
import pytest
import torch
from mmdet.registry import MODELS, TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope, Registry
from timm_setup import need_timm
from tool_runs import ROOT, SHAPES, SMALL

from gfl_plugin.card import KEY, describe
from gfl_plugin.conformal import Calibration
from gfl_plugin.errors import SetupError
from gfl_plugin.inference.folding import fold_batch_norms
from gfl_plugin.inference.loading import build_transforms, load_model
from gfl_plugin.inference.safe_building import ALLOWED_MODULES, MemoryLimit, building_only_allowed
from gfl_plugin.registry import MODELS as OWN
from gfl_plugin.safe_loading import UnsafeCheckpointError

NAMES = tuple('abcdef')


def small_config(config=SHAPES, **backbone):
    config = Config.fromfile(config)
    config.merge_from_dict({key: json.loads(value) for key, value in (option.split('=') for option in SMALL)
                            if key.startswith('model')})
    config.model.backbone.update(backbone)
    return config


def save(path, config, **extra):
    """Save a model with random weights whose scores are about a half."""
    model = MODELS.build(config.model)
    head = model.bbox_head
    torch.nn.init.zeros_(getattr(head, head.quality.cls_layer).bias)
    names = [str(index) for index in range(head.num_classes)]
    content = {'state_dict': model.state_dict(), KEY: describe(config, names, .25).to_text(), **extra}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return model.eval()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'mine.pth')


def outputs(model, side=64):
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    sample = DetDataSample(metainfo=dict(img_shape=(side, side), ori_shape=(side, side), pad_shape=(side, side),
                                         scale_factor=(1., 1.)))
    with torch.no_grad():
        found = model(image, [sample], mode='predict')[0].pred_instances
        return [*(level for maps in model(image, mode='tensor') for level in maps), found.bboxes, found.scores]


def assert_equal(first, second, **options):
    for mine, theirs in zip(outputs(first, **options), outputs(second, **options), strict=True):
        assert mine.numel() and torch.equal(mine, theirs)


# ---- from the checkpoint alone ----

@pytest.mark.parametrize('name', ['demo/gfl_r18_fpn_shapes', 'ablation/joint_dirac', 'ablation/centerness_gaussian',
                                  'ablation/iou_dirac', 'ablation/gflv2', 'ablation/yolov8'])
def test_a_checkpoint_is_enough(name, path):
    model = save(path, small_config(str(ROOT / f'configs/{name}.py')))
    random_state = torch.get_rng_state()
    loaded, card = load_model(path)
    assert_equal(model, loaded)
    assert not loaded.training and card.classes == list('012345') and card.score_thr == .25
    assert torch.equal(torch.get_rng_state(), random_state), 'random numbers should go on as before'


def test_deformable_convolutions(path):
    config = small_config(depth=50, dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
                          stage_with_dcn=(False, True, True, True))
    config.model.neck.in_channels = [32, 64, 128, 256]
    assert_equal(save(path, config), load_model(path).model)


def test_a_backbone_of_timm(path):
    need_timm()
    model = save(path, Config.fromfile(ROOT / 'configs/custom/gfl_lite0_fpn.py'))
    assert_equal(model, load_model(path).model, side=96)


def test_the_transforms_of_a_card(path):
    save(path, small_config())
    card = load_model(path).card
    resize, = build_transforms(card.pipeline, path)
    assert type(resize) is TRANSFORMS.get('mmdet.Resize') and resize.scale == (128, 128), 'transforms ask for tuples'


def test_an_unknown_default_scope_changes_nothing(path):
    model = save(path, small_config())
    with DefaultScope.overwrite_default_scope('mmengine'):
        assert_equal(model, load_model(path).model)
        assert DefaultScope.get_current_instance().scope_name == 'mmengine'


# ---- with a config ----

def test_a_checkpoint_without_a_card_needs_its_config(path, tmp_path):
    config = small_config()
    config.test_dataloader.dataset.metainfo = dict(classes=NAMES)
    model = save(path, config, **{KEY: None})
    config.dump(tmp_path / 'mine.py')
    with pytest.raises(SetupError, match=r'mine\.pth does not say how.*--config CONFIG'):
        load_model(path)
    loaded, card = load_model(path, str(tmp_path / 'mine.py'))
    assert_equal(model, loaded)
    assert card.classes == list(NAMES) and card.pipeline[0]['scale'] == (128, 128) and card.score_thr is None


@pytest.mark.parametrize('meta, expected', [
    (dict(dataset_meta=dict(classes=NAMES)), list(NAMES)), (dict(CLASSES=NAMES), list(NAMES)),
    (dict(dataset_meta='?'), [f'class {index}' for index in range(6)]), ('?', [f'class {i}' for i in range(6)])])
def test_classes_of_a_checkpoint_without_a_card(meta, expected, path, tmp_path):
    config = small_config()
    save(path, config, meta=meta, **{KEY: None})
    config.dump(tmp_path / 'mine.py')
    assert load_model(path, str(tmp_path / 'mine.py')).card.classes == expected


def test_80_classes_without_names_are_those_of_coco(path, tmp_path):
    config = small_config()
    config.model.bbox_head.num_classes = 80
    save(path, config, **{KEY: None})
    config.dump(tmp_path / 'mine.py')
    assert load_model(path, str(tmp_path / 'mine.py')).card.classes[:2] == ['person', 'bicycle']


def test_a_config_replaces_the_card_but_keeps_what_was_measured(path, tmp_path):
    config = small_config()
    calibration = Calibration(0.9, 1.0, 1.5, 3.0, 4.0, 1.0, 90, 30, 0.0).to_dict()
    card = describe(config, NAMES, 0.25)._replace(calibration=calibration)
    save(path, config, **{KEY: card.to_text()})
    config.merge_from_dict({'model.test_cfg.score_thr': 0.125})
    config.dump(tmp_path / 'mine.py')
    loaded, card = load_model(path, str(tmp_path / 'mine.py'))
    assert loaded.bbox_head.test_cfg.score_thr == 0.125
    assert card.score_thr == 0.25 and card.calibration == calibration


def mmdet_config(name):
    """A config of MMDetection, with a network small enough for a test."""
    config = Config.fromfile(os.path.join(mmdet.__path__[0], '.mim', 'configs', name))
    config.model.backbone.update(depth=18, base_channels=8)
    config.model.neck.update(in_channels=[8, 16, 32, 64], out_channels=8)
    for head in ('bbox_head', 'rpn_head'):
        if head in config.model:
            config.model[head].update(in_channels=8, feat_channels=8)
    if 'bbox_head' in config.model and config.model.bbox_head.type == 'ATSSHead':
        config.model.bbox_head.norm_cfg = dict(type='GN', num_groups=2)
    if 'roi_head' in config.model:
        config.model.roi_head.bbox_roi_extractor.out_channels = 8
        config.model.roi_head.bbox_head.update(in_channels=8, fc_out_channels=8)
    return config


def save_with_config(path, config):
    """Save a checkpoint without a card, and its config beside it."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(copy.deepcopy(config.model))
    torch.save(dict(state_dict=model.state_dict()), path)
    file = path.replace('.pth', '.py')
    config.dump(file)
    return model.eval(), file


def assert_same_weights(first, second):
    for (name, mine), (theirs_name, theirs) in zip(first.state_dict().items(), second.state_dict().items(),
                                                   strict=True):
        assert name == theirs_name and torch.equal(mine, theirs), name


@pytest.mark.parametrize('name', ['retinanet/retinanet_r50_fpn_1x_coco.py', 'atss/atss_r50_fpn_1x_coco.py'])
def test_one_stage_detectors_of_mmdetection(name, path):
    model, file = save_with_config(path, mmdet_config(name))
    loaded, card = load_model(path, file)
    assert_same_weights(model, loaded)
    assert card.classes[0] == 'person' and len(card.pipeline) == 1
    assert fold_batch_norms(loaded) > 0


def test_a_two_stage_detector_of_mmdetection(path):
    """Its constructor reads train_cfg. It computes no maps without data samples, so nothing is folded."""
    model, file = save_with_config(path, mmdet_config('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'))
    loaded, card = load_model(path, file)
    assert_same_weights(model, loaded)
    assert len(card.classes) == 80 and 'train_cfg' not in card.model
    layers = dict(loaded.named_modules())
    assert fold_batch_norms(loaded) == 0
    assert dict(loaded.named_modules()) == layers


def test_a_config_loads_no_pretrained_weights(path, tmp_path):
    class Downloads(MODELS.get('mmdet.ResNet')):
        def __init__(self, pretrained=True, init_cfg=None, **options):
            assert not pretrained and init_cfg is None, 'it would download'
            super().__init__(**options)

    OWN.register_module(module=Downloads)
    try:
        config = small_config()
        save(path, config)
        config.model.backbone.update(type='gfl_plugin.Downloads', pretrained='torchvision://resnet18',
                                     init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'))
        config.dump(tmp_path / 'mine.py')
        load_model(path, str(tmp_path / 'mine.py'))
    finally:
        del OWN._module_dict['Downloads']


@pytest.mark.parametrize('name', ['demo/gfl_r18_fpn_shapes', 'configs/demo/gfl_r18_fpn_shapes.py'])
def test_a_config_of_the_package_is_found_by_its_name(name, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(path, Config.fromfile(SHAPES), **{KEY: None})
    assert len(load_model(path, name).card.classes) == 6


def test_an_unknown_config_names_similar_ones(path, tmp_path):
    save(path, small_config())
    with pytest.raises(SetupError, match='Similar ones: demo/gfl_r18_fpn_shapes'):
        load_model(path, 'demo/gfl_r18_fpn_shape')


@pytest.mark.parametrize('settings, message', [
    ({'backbone.type': 'ResNot'}, 'ResNot.*registry'), ({'bbox_head.regmax': 7}, "'regmax'"),
    ({'backbone.depth': 19}, 'invalid depth 19')])
def test_a_config_that_cannot_be_built(settings, message, path, tmp_path):
    config = small_config()
    save(path, config)
    config.merge_from_dict({f'model.{key}': value for key, value in settings.items()})
    config.dump(tmp_path / 'mine.py')
    with pytest.raises(SetupError, match=f'does not give a model: .*{message}'):
        load_model(path, str(tmp_path / 'mine.py'))


def test_a_bug_in_a_class_of_the_config_keeps_its_traceback(path, tmp_path):
    class Buggy(BaseModule):
        def __init__(self):
            dict([1, 2, 3])

    OWN.register_module(module=Buggy)
    try:
        config = small_config()
        save(path, config)
        config.model.neck = dict(type='gfl_plugin.Buggy')
        config.dump(tmp_path / 'mine.py')
        with pytest.raises(TypeError, match='sequence'):
            load_model(path, str(tmp_path / 'mine.py'))
    finally:
        del OWN._module_dict['Buggy']


@pytest.mark.parametrize('text, message', [('1 / 0', 'ZeroDivisionError'), ('a = 1', 'not the config of a detector')])
def test_a_config_that_is_none(text, message, path, tmp_path):
    save(path, small_config())
    (tmp_path / 'mine.py').write_text(text)
    with pytest.raises(SetupError, match=rf'mine\.py.*{message}'):
        load_model(path, str(tmp_path / 'mine.py'))


# ---- files and weights that do not fit ----

@pytest.mark.parametrize('content, message', [
    (b'', 'damaged or not a checkpoint'), (b'no zip', r'mine\.pth'), (b'PK\x03\x04half', r'mine\.pth'),
    (None, 'no checkpoint')])
def test_a_file_that_is_no_checkpoint(content, message, path, tmp_path):
    if content is not None:
        (tmp_path / 'mine.pth').write_bytes(content)
    with pytest.raises(SetupError, match=message):
        load_model(path)


@pytest.mark.parametrize('state', [dict(), 'weights', dict(weight=1.0)])
def test_a_checkpoint_without_weights(state, path):
    save(path, small_config(), state_dict=state)
    with pytest.raises(SetupError, match='no state_dict'):
        load_model(path)


def test_weights_that_do_not_fit_are_counted(path):
    state = save(path, small_config()).state_dict()
    state['neck.extra'], state['backbone.conv1.weight'] = torch.zeros(1), torch.zeros(2)
    del state['bbox_head.gfl_cls.weight'], state['bbox_head.gfl_cls.bias']
    save(path, small_config(), state_dict=state)
    with pytest.raises(SetupError, match=r'\(\d+ keys\): 2 keys are missing, the first is bbox_head.gfl_cls.bias; '
                       r'1 keys are unknown to the model, the first is neck.extra; 1 keys are of another shape'):
        load_model(path)


def test_counters_and_constants_may_be_missing(path):
    config = small_config()
    state = {f'module.{key}': value for key, value in MODELS.build(config.model).state_dict().items()
             if not key.endswith(('num_batches_tracked', 'integral.project'))}
    save(path, config, state_dict={**state, 'data_preprocessor.mean': torch.zeros(3)})
    load_model(path)


def test_names_of_classes_must_be_as_many_as_the_head_has(path):
    save(path, small_config(), **{KEY: describe(small_config(), ['a']).to_text()})
    with pytest.raises(SetupError, match='the model has 6 classes, and there are 1 names'):
        load_model(path)


# ---- cards of strangers ----

def load_changed(path, allow=(), **settings):
    """Load a checkpoint whose card differs from its model."""
    config = small_config()
    before = describe(config, NAMES)
    config.merge_from_dict({f'model.{key}': value for key, value in settings.items()})
    after = describe(config, NAMES).to_text()
    assert after != before.to_text()
    save(path, small_config(), **{KEY: after})
    return load_model(path, allow=allow)


@pytest.mark.parametrize('settings', [
    {'bbox_head.feat_channels': 10**5}, {'bbox_head.stacked_convs': 10**5}, {'bbox_head.reg_max': 10**5},
    {'neck.num_outs': 10**5}, {'backbone.base_channels': 10**4},
    {'bbox_head.num_classes': 10**5, 'bbox_head.feat_channels': 64},
    {'backbone': dict(type='SwinTransformer', embed_dims=16, window_size=10**4, num_heads=[1] * 4, _delete_=True)}])
def test_a_card_cannot_fill_the_memory(settings, path):
    """Its numbers are below the limits of a card, and the model would take gigabytes."""
    with pytest.raises(SetupError, match='far larger than the weights'):
        load_changed(path, **settings)


def test_weights_that_only_claim_to_be_large_give_no_memory(path):
    """An expanded tensor has any shape, and one number in the file."""
    state = {'backbone.conv1.weight': torch.zeros(1).expand(10**6, 10**6)}
    save(path, small_config(), state_dict=state,
         **{KEY: describe(small_config(base_channels=10**4), NAMES).to_text()})
    with pytest.raises(SetupError, match='far larger than the weights'):
        load_model(path)


@pytest.mark.parametrize('make', [
    lambda: torch.Tensor(10**11), lambda: torch.linspace(0, 1, 10**11), lambda: torch.zeros(10).repeat(10**10),
    lambda: torch.zeros(10**6)[:, None] - torch.zeros(10**6)[None], lambda: torch.zeros(1).new_zeros(10**11),
    lambda: torch.zeros(1, 1).expand(10**6, 10**6).clone(), lambda: [torch.zeros(1) for _ in range(2000)]])
def test_the_memory_is_limited_before_it_is_taken(make):
    with pytest.raises(SetupError, match='far larger'), MemoryLimit('mine.pth', 10**6, 1000):
        make()


def test_the_memory_within_the_limit_is_given():
    with MemoryLimit('mine.pth', 10**6, 1000):
        kept = torch.ones(10**5)
        assert kept.view(10, -1).mul_(2).sum() == 2 * 10**5
        assert (kept > 1).nonzero().numel() == 10**5, 'a size that depends on the data is not known before'


@pytest.mark.parametrize('settings, message', [
    ({'type': 'KnowledgeDistillationSingleStageDetector'}, 'names the type'), ({'type': 'Nothing'}, 'names the type'),
    ({'backbone.type': 'DetectoRS_ResNet'}, 'names the type'), ({'neck.type': 'torch.FPN'}, 'names the type'),
    ({'bbox_head.quality': 'Nothing', 'bbox_head.loss_cls': None}, 'There is no quality'),
    ({'bbox_head.colour': 1}, 'cannot be built.*colour'), ({'backbone.depth': 19}, 'cannot be built')])
def test_a_card_that_cannot_be_built(settings, message, path):
    with pytest.raises(SetupError, match=message):
        load_changed(path, **settings)


def test_classes_of_the_callers_own(path):
    class Own(BaseModule):
        def forward(self, maps):
            return maps[1:]

    OWN.register_module(module=Own)
    try:
        with pytest.raises(SetupError, match=r"names the type 'gfl_plugin.Own'.*--config CONFIG"):
            load_changed(path, neck=dict(type='gfl_plugin.Own', _delete_=True))
        with pytest.raises(SetupError, match='do not fit'):  # it was built, and has no weights
            load_changed(path, neck=dict(type='gfl_plugin.Own', _delete_=True), allow=[Own])
    finally:
        del OWN._module_dict['Own']


def test_a_failure_leaves_nothing_changed(path):
    get, scope = Registry.get, DefaultScope.get_current_instance().scope_name
    with pytest.raises(SetupError):
        load_changed(path, type='Nothing')
    assert Registry.get is get and DefaultScope.get_current_instance().scope_name == scope
    assert MODELS.get('mmdet.models.detectors.lad.LAD') is not None, 'elsewhere dotted names should still be found'


def test_other_threads_are_not_restricted():
    found = []
    with building_only_allowed('mine.pth'):
        thread = threading.Thread(target=lambda: found.append(MODELS.get('LAD')))
        thread.start()
        thread.join()
        with pytest.raises(SetupError, match="'LAD'"):
            MODELS.get('LAD')
    assert found == [MODELS.get('LAD')]


def test_trust_is_for_the_pickle_alone(path):
    save(path, small_config(), meta=dict(mode=inspect.Parameter.empty))
    with pytest.raises(UnsafeCheckpointError):
        load_model(path)
    load_model(path, trust=True)


# ---- the list of what may be built ----

BUILTINS = {'open', 'eval', 'exec', 'compile', '__import__'}  # model.eval() is an attribute
READERS = {'import_module', 'open', 'load', 'load_checkpoint', 'fromfile',
           'from_pretrained', 'load_state_dict_from_url', 'download', 'urlopen', 'load_packaged', 'system', 'popen',
           'Popen'}
# Swin and PVT load weights in init_weights, which loading a detector never calls. So does the backbone of timm, which
# also imports timm.
READ = {('mmdet.models.backbones.swin', 'load_checkpoint'), ('mmdet.models.backbones.pvt', 'load_checkpoint'),
        ('gfl_plugin.backbones.timm_backbone', 'import_module'),
        ('gfl_plugin.backbones.timm_backbone', 'load_packaged')}


def calls(module):
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', None) in READERS:
            yield node.func.attr
        if isinstance(node, ast.Call) and getattr(node.func, 'id', None) in READERS | BUILTINS:
            yield node.func.id


def test_no_type_that_a_card_may_build_reads_files_or_runs_text():
    modules = [importlib.import_module(name) for name in sorted(ALLOWED_MODULES)]
    found = {(module.__name__, call) for module in modules for call in calls(module)}
    assert found <= READ, f'{found - READ}: do they read anything when they are built?'


def test_the_transforms_are_deterministic_ones(path):
    for kind in ('RandomFlip', 'LoadImageFromFile', 'Compose', 'os.system'):
        with pytest.raises(SetupError, match=f"names the type '{kind}'"):
            build_transforms([dict(type=kind)], path)
    assert build_transforms([ConfigDict(type='RandomFlip', prob=0.5)], path, allow=None), 'a config may name everything'
