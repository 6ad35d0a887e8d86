"""MMEngine beside a torchvision that is absent or does not import."""
import builtins
import sys

import pytest
from mmengine.runner import checkpoint, runner
from mmengine.utils import dl_utils

from gfl_plugin.compat import install_for_tools


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
