"""Messages about a missing, broken or untested stack, and bases from the configs of packages."""
import importlib
import re
import subprocess
import sys
import warnings

import pytest
from mmengine.config import Config
from tool_runs import ROOT

from gfl_plugin.compat import install_for_tools, stack


def test_no_stack_names_the_command_that_gets_one():
    code = ('import sys; sys.modules["mmdet"] = None\n'
            'try: import gfl_plugin\n'
            'except ImportError as error: print(error)')
    # None in sys.modules is how Python marks a module that is not to be found.
    printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert 'mmdet is not installed' in printed, printed
    extra = re.search(r'^onedl = \[(.*)\]', (ROOT / 'pyproject.toml').read_text(), re.M)[1]
    stack_of_extra = ' '.join(re.findall(r'"(onedl-[^"]*)"', extra))
    assert f'pip install {stack_of_extra} ' in printed, 'the command should give the tested versions'


@pytest.mark.parametrize('error, said', [
    (ImportError('libGL.so.1: cannot open shared object file'), 'opencv-python-headless'),
    (AssertionError('MMCV==2.2.0 is used but incompatible'), r'broken \(MMCV==2.2.0'),
])
def test_a_broken_stack_is_diagnosed(monkeypatch, error, said):
    def fail(name):
        raise error

    monkeypatch.setattr(importlib, 'import_module', fail)
    with pytest.raises(ImportError, match=said):
        stack.require()


def test_distributions_that_overwrite_each_other_are_named(monkeypatch):
    monkeypatch.setattr(stack, '_installed', lambda name: name in ('mmcv', 'mmcv-lite', 'mmdet'))
    assert 'mmcv, mmcv-lite' in stack._diagnosis('mmcv', ImportError('no attribute'))


def test_an_untested_version_warns_once_and_names_both(monkeypatch):
    monkeypatch.setattr(stack, '_warned', False)
    monkeypatch.setitem(stack.SUPPORTED, 'mmdet', ('2.0', '2.1'))
    with pytest.warns(UserWarning, match=r'mmdet 3\.\d.*supported: >=2.0, <2.1'):
        stack.require()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        stack.require()


@pytest.mark.parametrize('base, head', [('gfl_plugin::gfl/gfl_r50_fpn_1x_coco.py', 'gfl_plugin.GFLHead'),
                                        ('mmdet::gfl/gfl_r50_fpn_1x_coco.py', 'GFLHead')])
def test_a_config_elsewhere_inherits(tmp_path, base, head):
    install_for_tools()
    (tmp_path / 'mine.py').write_text(f'_base_ = {base!r}\nmodel = dict(bbox_head=dict(num_classes=3))\n')
    config = Config.fromfile(tmp_path / 'mine.py')
    assert config.model.bbox_head.type == head and config.model.bbox_head.num_classes == 3
