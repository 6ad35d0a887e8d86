"""tools/analyze.py from a command line to files, and what is said when something is wrong."""
import json
import sys

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from tool_runs import ROOT, SHAPES, SMALL, parse, run

from gfl_plugin import engine
from gfl_plugin.engine.analyze import load_boxes_first
from gfl_plugin.errors import SetupError

ATSS = str(ROOT / 'configs/ablation/centerness_dirac.py')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Data, and checkpoints of untrained models, whose scores are raised so that there is something to see."""
    folder = tmp_path_factory.mktemp('analyze')
    init_default_scope('mmdet')
    for name, path in (('gfl', SHAPES), ('atss', ATSS)):
        config = engine.load_config(parse('test', path, 'none.pth', '--cfg-options', *SMALL))
        model = MODELS.build(config.model)
        getattr(model.bbox_head, model.bbox_head.quality.cls_layer).bias.data.fill_(-0.5)
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
    return folder


def analyze(folder, study, *arguments, settings=()):
    pairs = [] if study == 'losses' else ['--data-root', str(folder / 'data'), '--cfg-options', *SMALL, *settings]
    return engine.analyze(parse('analyze', study, *arguments, '--out', str(folder / study), *pairs))


def read(folder, study):
    return json.loads((folder / study / f'{study}.json').read_text())


@pytest.mark.parametrize('study', ['quality', 'centerness', 'perturb'])
def test_models_side_by_side(folder, study):
    pytest.importorskip('plotly')
    flags = ['--ap'] if study == 'perturb' else []
    said = analyze(folder, study, SHAPES, str(folder / 'gfl.pth'), ATSS, str(folder / 'atss.pth'), *flags)
    numbers = read(folder, study)
    assert list(numbers['models']) == ['gfl_r18_fpn_shapes', 'centerness_dirac'], 'by the names of their configs'
    assert all(name in said for name in numbers['models']), 'the numbers should be said'
    assert all((folder / study / f'{study}.{kind}').stat().st_size > 10_000 for kind in ('png', 'html'))
    assert numbers['options']['models'][0] == SHAPES, 'a figure should tell where it is from'
    if study == 'perturb':
        aps = [model['ap'] for model in numbers['models'].values()]
        assert [len(ap) for ap in aps] == [len(m['strengths']) for m in numbers['models'].values()]


def test_few_images_and_the_same_config_twice(folder):
    pytest.importorskip('plotly')
    checkpoint = str(folder / 'gfl.pth')
    analyze(folder, 'centerness', SHAPES, checkpoint, SHAPES, checkpoint, '--images', '1',
            settings=['test_dataloader.batch_size=1'])
    numbers = read(folder, 'centerness')
    assert list(numbers['models']) == ['gfl_r18_fpn_shapes', 'gfl_r18_fpn_shapes #2']
    one, other = numbers['models'].values()
    assert one == other, 'the same model has the same numbers'
    analyze(folder, 'centerness', SHAPES, checkpoint, '--images', '4')
    assert read(folder, 'centerness')['models']['gfl_r18_fpn_shapes']['positives'] > one['positives'], 'of more images'


def test_losses(folder):
    pytest.importorskip('plotly')
    assert analyze(folder, 'losses').endswith(f'{folder}/losses/losses.html'), 'the last word is what to open'
    assert read(folder, 'losses')['settings'] == dict(beta=2, gamma=2, y=0.5)


def test_boxes_are_loaded_before_they_are_resized():
    config = engine.load_config(parse('test', str(ROOT / 'configs/gfl/gfl_r50_fpn_1x_coco.py'), 'x.pth'))
    names = [t['type'] for t in load_boxes_first(config.test_dataloader.dataset.pipeline)]
    assert names == ['LoadImageFromFile', 'LoadAnnotations', 'Resize', 'PackDetInputs']
    without = [t for t in config.test_dataloader.dataset.pipeline if t['type'] != 'LoadAnnotations']
    assert [t['type'] for t in load_boxes_first(without)] == names, 'and where they are not loaded at all'


def test_help_needs_no_torch():
    code = ('import runpy, sys\n'
            'sys.argv = ["analyze.py", "quality", "--help"]; sys.path.insert(0, "tools")\n'
            'try: runpy.run_path("tools/analyze.py", run_name="__main__")\n'
            'except SystemExit: print("torch" in sys.modules, "numpy" in sys.modules)')
    assert run('-c', code).stdout.endswith('False False\n')


# ---- mistakes ----

def test_a_missing_package_is_said_before_the_work(folder, monkeypatch):
    module = sys.modules['gfl_plugin.engine.analyze']
    monkeypatch.setattr(module, 'EXTRA', ('no_such_package', ))
    monkeypatch.setitem(module.STUDIES, 'losses', lambda *_: pytest.fail('work was done'))
    with pytest.raises(SetupError, match=r'no_such_package.*\[analysis\]'):
        analyze(folder, 'losses')


@pytest.mark.parametrize('arguments, said', [
    ([SHAPES], 'pairs of CONFIG and CHECKPOINT, and 1'),
    ([SHAPES, 'none.pth'], 'no checkpoint'),
    (['none.py', 'none.pth'], 'no config file'),
    ([SHAPES, 'atss.pth'], 'another architecture'),
])
def test_mistakes(folder, monkeypatch, arguments, said):
    monkeypatch.setattr(sys.modules['gfl_plugin.engine.analyze'], 'EXTRA', ())
    with pytest.raises(SetupError, match=said):
        analyze(folder, 'quality', *[str(folder / a) if a == 'atss.pth' else a for a in arguments])


def test_other_heads_are_named(folder, monkeypatch):
    monkeypatch.setattr(sys.modules['gfl_plugin.engine.analyze'], 'EXTRA', ())
    with pytest.raises(SetupError, match="model.bbox_head is 'GFLHead'"):
        analyze(folder, 'quality', SHAPES, str(folder / 'gfl.pth'), settings=['model.bbox_head.type=GFLHead'])

