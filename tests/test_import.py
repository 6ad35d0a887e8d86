"""What `import gfl_plugin` changes in other libraries: what the README lists, and nothing else."""
import json
import os
import re
import sys
from importlib import metadata

import mmdet
import pytest
from mmengine.config import Config
from mmengine.runner import checkpoint
from tool_runs import ROOT, run

import gfl_plugin
from gfl_plugin import heads, losses, patches
from gfl_plugin.compat import ops

REGISTRATION = {f'mmengine.registry.root.{name}' for name in ('DATASETS', 'HOOKS', 'METRICS', 'MODELS', 'TASK_UTILS')}
PATCHES = {'mmengine.config.config.Config._get_cfg_path', 'mmengine.infer.infer.BaseInferencer._init_model',
           *(f'mmengine.runner.checkpoint.{name}' for name in (
               'CheckpointLoader._schemes', 'CheckpointLoader.load_checkpoint', 'load_from_local', 'load_url'))}
ONEDL = {'mmengine.runner.checkpoint._safe_torch_load'}  # is in onedl-mmengine alone
ENVIRONMENT = {"os.environ['OPENCV_IO_MAX_IMAGE_PIXELS']"}


@pytest.fixture(scope='module')
def effects():
    done = run('tests/import_effects.py')
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.split('EFFECTS ')[1])


def test_an_import_changes_what_the_readme_lists(effects):
    listed = REGISTRATION | PATCHES | ENVIRONMENT | (ONEDL if hasattr(checkpoint, '_safe_torch_load') else set())
    changed = set(effects['changed'])
    assert changed == listed, f'{changed ^ listed}: list it, or leave it alone'
    section = (ROOT / 'README.md').read_text().split('## What `import gfl_plugin` does to other libraries')[1]
    section = section.split('\n## ')[0]
    for name in (*PATCHES, *ONEDL, 'OPENCV_IO_MAX_IMAGE_PIXELS', ops.NAME, 'gfl_plugin.compat.uninstall()'):
        assert name.rpartition('.')[2] in section or name in section, f'the README should list {name}'


def test_uninstall_leaves_types_and_the_limit_of_images(effects):
    assert set(effects['left']) == REGISTRATION | ENVIRONMENT


def test_uninstall_removes_the_stand_ins(monkeypatch):
    if not ops.are_installed():
        pytest.skip('this mmcv has compiled operators')
    monkeypatch.setattr(patches, '_undo', [])
    monkeypatch.delitem(sys.modules, ops.NAME)
    ops.install()
    assert ops.are_installed()
    gfl_plugin.compat.uninstall()
    assert ops.NAME not in sys.modules


def test_the_head_and_the_losses_are_attributes():
    assert gfl_plugin.GFLHead is heads.GFLHead
    for name in losses.__all__:
        assert getattr(gfl_plugin, name) is getattr(losses, name)


def test_a_base_of_the_plugin_needs_nothing_of_the_tools(tmp_path, monkeypatch):
    """As in MMDetection's own tools, with the plugin imported, and where MMEngine cannot look packages up."""
    def fail(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr('mmengine.config.config.get_installed_path', fail)
    monkeypatch.setattr('mmengine.config.config.is_installed', fail)
    (tmp_path / 'mine.py').write_text("_base_ = 'gfl_plugin::gfl/gfl_r50_fpn_1x_coco.py'\n"
                                      "custom_imports = dict(imports=['gfl_plugin'])\n"
                                      'model = dict(bbox_head=dict(num_classes=3))\n')
    model = Config.fromfile(tmp_path / 'mine.py').model
    assert model.bbox_head.type == 'gfl_plugin.GFLHead' and model.bbox_head.num_classes == 3
    assert model._scope_ == 'mmdet', 'types without a scope are MMDetection\'s'
    (tmp_path / 'mine.py').write_text("_base_ = 'gfl_plugin::gfl/none.py'")
    with pytest.raises(FileNotFoundError, match='gfl/none.py'):
        Config.fromfile(tmp_path / 'mine.py')


def test_a_base_of_the_plugin_in_mmdetections_own_tool(tmp_path):
    """They read a base before they import anything. The README says how to write it for them."""
    line = re.search(r'^_base_ = .*__import__.*$', (ROOT / 'README.md').read_text(), re.M)[0]
    (tmp_path / 'mine.py').write_text(f'{line}\nmodel = dict(bbox_head=dict(num_classes=3))\n')
    tool = os.path.join(os.path.dirname(mmdet.__file__), '.mim/tools/misc/print_config.py')
    done = run(tool, str(tmp_path / 'mine.py'))
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'gfl_plugin.GFLHead' in done.stdout and 'num_classes=3' in done.stdout
