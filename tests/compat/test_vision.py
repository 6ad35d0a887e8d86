"""MMEngine beside a torchvision that is absent or does not import."""
import builtins
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import checkpoint, runner
from mmengine.utils import dl_utils
from timm_setup import need_timm

from gfl_plugin.backbones.timm_backbone import import_timm
from gfl_plugin.compat import install_for_tools, vision


@pytest.fixture(params=[ModuleNotFoundError, RuntimeError])
def unusable(request, monkeypatch):
    """A torchvision that is absent, or was built for another PyTorch and raises RuntimeError."""
    original = builtins.__import__

    def fail(name, *arguments, **named):
        if name.split('.')[0] == 'torchvision' and sys.modules.get(name, name) is not None:
            raise request.param('operator torchvision::nms does not exist')
        return original(name, *arguments, **named)

    for name in [n for n in sys.modules if n.split('.')[0] == 'torchvision']:
        monkeypatch.delitem(sys.modules, name)
    install_for_tools()
    monkeypatch.setattr(builtins, '__import__', fail)


def test_a_run_logs_its_environment(unusable):
    for collect_env in (dl_utils.collect_env, runner.collect_env):
        environment = collect_env()
        assert 'PyTorch' in environment and 'TorchVision' not in environment
    assert 'torchvision' not in sys.modules, 'the next import should find out by itself'


def test_weights_are_found(unusable):
    urls = checkpoint.get_torchvision_models()
    assert all(urls[name].startswith('https://') for name in ('resnet50', 'resnet101')), 'the configs need these'


# ---- timm imports torchvision ----

IMPORTS = 'value = 1'
MISSES = "raise RuntimeError('operator torchvision::nms does not exist')"
MISFITS = "raise RuntimeError('PyTorch and torchvision were compiled with different CUDA major versions')"


@pytest.fixture
def defined(monkeypatch):
    """The schemas that are defined, none of which reaches PyTorch."""
    schemas = []
    monkeypatch.setattr(torch.library, 'Library', lambda namespace, kind: SimpleNamespace(define=schemas.append))
    monkeypatch.setattr(torch.ops, 'torchvision', SimpleNamespace())
    return schemas


@pytest.mark.parametrize('code, expected', [(IMPORTS, []), (MISSES, ['nms', 'qnms']), (MISFITS, [])])
def test_operators_are_defined_only_where_the_import_misses_them(code, expected, defined, tmp_path, monkeypatch):
    (tmp_path / 'torchvision.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split('.')[0] == 'torchvision']:
        monkeypatch.delitem(sys.modules, name)
    vision.define_missed_operators()
    sys.modules.pop('torchvision', None)
    assert [schema.partition('(')[0] for schema in defined] == expected


def test_an_operator_that_exists_is_left_alone(defined, tmp_path, monkeypatch):
    torch.ops.torchvision.nms = 'from elsewhere'
    test_operators_are_defined_only_where_the_import_misses_them(MISSES, ['qnms'], defined, tmp_path, monkeypatch)


def test_an_absent_torchvision_defines_nothing(defined, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    vision.define_missed_operators()
    assert defined == []


def test_timm_imports_in_this_environment():
    """Nobody but TIMMBackbone prepares the import, so this fails beside a CPU-only PyTorch if that does not."""
    need_timm()
    assert import_timm().create_model('resnet18', features_only=True)
