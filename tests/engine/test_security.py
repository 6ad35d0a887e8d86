"""A checkpoint from a stranger runs no code, whichever command loads it and wherever in it the code hides."""
import ast
import contextlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from tool_runs import ROOT, SHAPES, SMALL, on_shapes, parse, run

from gfl_plugin import engine
from gfl_plugin.card import KEY
from gfl_plugin.errors import SetupError
from gfl_plugin.inference.loading import load_model
from gfl_plugin.safe_loading import UnsafeCheckpointError, load_file, trusting

QUICK = ['train_cfg.max_epochs=2', 'train_cfg.val_begin=99', 'train_dataloader.dataset.num_images=4']


class Call:
    """Pickles as a call of a function, or of the result of another call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self):
        """Exists because the pickler checks that the function is callable."""


class Restored:
    """Pickles as an object whose state is more than data."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return Restored, (None, ), self.state

    def __setstate__(self, state):
        os.system(state)


def chain(code):
    """Reach ``eval`` through attributes of a class that checkpoints may name."""
    names = Call(getattr, HistoryBuffer.mean, '__globals__')
    builtins = Call(Call(getattr, names, 'get'), '__builtins__')
    return Call(Call(Call(getattr, builtins, 'get'), 'eval'), code)


def hostile(kind, content, witness, path):
    """Write a checkpoint that leaves a witness if anything in it is run."""
    touch, python = f'touch {witness}', f'open({str(witness)!r}, "w").close()'
    if kind == 'config_text':  # MMEngine's runner executes one of them, its inferencer the others
        content['meta'].update(config=python, cfg=python)
        content['message_hub']['runtime_info']['cfg'] = python
    elif kind == 'system_in_meta':
        content['meta']['time'] = Call(os.system, touch)
    elif kind == 'popen_in_state_dict':
        content['state_dict']['backbone.conv1.weight'] = Call(subprocess.Popen, ['touch', str(witness)])
    elif kind == 'eval_in_optimizer':
        content['optimizer']['state'][0] = Call(eval, python)
    elif kind == 'exec_in_message_hub':
        content['message_hub']['runtime_info']['epoch'] = Call(exec, python)
    elif kind == 'getattr_chain':
        content['message_hub']['log_scalars']['train/loss'] = chain(python)
    elif kind == 'array_of_objects':
        content['meta']['seed'] = np.array([Call(os.system, touch)], dtype=object)
    elif kind == 'state_of_an_object':
        content['meta']['epoch'] = Restored(touch)
    elif kind in ('legacy_format', 'bare_pickle'):
        content['meta']['time'] = Call(os.system, touch)
    if kind == 'bare_pickle':
        path.write_bytes(pickle.dumps(content['meta']))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind != 'legacy_format')


KINDS = ('config_text', 'system_in_meta', 'popen_in_state_dict', 'eval_in_optimizer', 'exec_in_message_hub',
         'getattr_chain', 'array_of_objects', 'state_of_an_object', 'legacy_format', 'bare_pickle')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    engine.train(on_shapes('train', folder / 'data', '--work-dir', str(folder / 'run'),
                           settings=[*QUICK, 'train_cfg.max_epochs=1']))
    return folder


def resume(data, path, work_dir):
    engine.train(on_shapes('train', data, '--resume', str(path), '--work-dir', work_dir, settings=QUICK))


def resume_what_the_folder_names(data, path, work_dir):
    os.makedirs(work_dir)
    shutil.copy(path, os.path.join(work_dir, 'epoch_1.pth'))
    with open(os.path.join(work_dir, 'last_checkpoint'), 'w') as file:
        file.write(os.path.join(work_dir, 'epoch_1.pth'))
    engine.train(on_shapes('train', data, '--resume', '--work-dir', work_dir, settings=QUICK))


def load_from(data, path, work_dir):
    engine.train(on_shapes('train', data, '--work-dir', work_dir, settings=[*QUICK, f'load_from={path}']))


def pretrained(data, path, work_dir):
    settings = [f'model.backbone.init_cfg.{option}' for option in ('type=Pretrained', f'checkpoint={path}')]
    engine.train(on_shapes('train', data, '--work-dir', work_dir, settings=[*QUICK, *settings]))


def evaluate(data, path, work_dir):
    engine.test(on_shapes('test', data, str(path), '--work-dir', work_dir, settings=QUICK))


def study(data, path, work_dir):
    pytest.importorskip('plotly')
    engine.analyze(parse('analyze', 'centerness', SHAPES, str(path), '--out', work_dir, '--data-root', str(data),
                         '--cfg-options', *SMALL))


def infer(data, path, work_dir):
    config = next((data.parent / 'run').glob('*.py'))
    DetInferencer(model=str(config), weights=str(path), device='cpu', show_progress=False)


def infer_without_config(data, path, work_dir):
    """MMDetection builds the model from the config that the checkpoint carries, which is Python text."""
    DetInferencer(weights=str(path), device='cpu', show_progress=False)


def detect(data, path, work_dir):
    load_model(str(path))


def report(data, path, work_dir):
    engine.report(parse('report', str(path), '--out', f'{work_dir}.html'))


DOORS = (resume, resume_what_the_folder_names, load_from, pretrained, evaluate, study, infer, infer_without_config,
         detect, report)
# Each kind by two doors, and each door with two kinds; the others take a minute.
ALL = [pytest.param(door, kind, marks=() if door in (resume, detect) or kind in KINDS[:2] else pytest.mark.soak)
       for kind in KINDS for door in DOORS]


@pytest.mark.parametrize('enter, kind', ALL)
def test_nothing_in_a_checkpoint_is_run(enter, kind, trained, tmp_path):
    content = load_file(trained / 'run' / 'epoch_1.pth')
    hostile(kind, content, tmp_path / 'witness', tmp_path / 'stranger.pth')
    if enter is infer_without_config:
        refused = pytest.raises(SetupError, match=r'stranger\.pth.*model=CONFIG')
    elif kind == 'config_text':  # it is removed, and the rest of the checkpoint is used
        refused = contextlib.nullcontext()
    else:
        refused = pytest.raises(UnsafeCheckpointError)
    with refused:
        enter(trained / 'data', tmp_path / 'stranger.pth', str(tmp_path / 'work'))
    assert not (tmp_path / 'witness').exists(), f'{kind} was run'


@pytest.mark.parametrize('kind', KINDS)
def test_the_attacks_are_real(kind, trained, tmp_path):
    """If pickles are trusted, each attack does what it is made for."""
    content = load_file(trained / 'run' / 'epoch_1.pth')
    hostile(kind, content, tmp_path / 'witness', tmp_path / 'stranger.pth')
    if kind == 'bare_pickle':
        pickle.loads((tmp_path / 'stranger.pth').read_bytes())
    else:
        content = torch.load(tmp_path / 'stranger.pth', weights_only=False)
    if kind == 'config_text':
        texts = content['meta']['config'], content['meta']['cfg'], content['message_hub']['runtime_info']['cfg']
        for text in texts:
            Config.fromstring(text, file_format='.py')
            (tmp_path / 'witness').unlink()
        Config.fromstring(texts[0], file_format='.py')
    if kind == 'popen_in_state_dict':
        content['state_dict']['backbone.conv1.weight'].wait()
    assert (tmp_path / 'witness').exists()


def test_trust_covers_the_checkpoint_that_a_command_names_alone(trained, tmp_path):
    """The weights of a backbone come from somebody else."""
    for name in ('mine', 'strangers'):
        content = load_file(trained / 'run' / 'epoch_1.pth')
        hostile('system_in_meta', content, tmp_path / f'witness_of_{name}', tmp_path / f'{name}.pth')
    mine, strangers = tmp_path / 'mine.pth', tmp_path / 'strangers.pth'
    backbone = [f'model.backbone.init_cfg.{option}' for option in ('type=Pretrained', f'checkpoint={strangers}')]
    with pytest.raises(UnsafeCheckpointError, match='strangers'):
        engine.train(on_shapes('train', trained / 'data', '--resume', str(mine), '--trust-checkpoint', '--work-dir',
                               str(tmp_path / 'work'), settings=[*QUICK, *backbone]))
    assert not (tmp_path / 'witness_of_strangers').exists(), 'the weights of the backbone were run'
    engine.test(on_shapes('test', trained / 'data', str(mine), '--trust-checkpoint', '--work-dir',
                          str(tmp_path / 'work'), settings=QUICK))
    assert (tmp_path / 'witness_of_mine').exists(), 'the named checkpoint should be trusted'


def test_trust_covers_no_checkpoint_that_only_the_config_names(trained, tmp_path):
    hostile('system_in_meta', load_file(trained / 'run' / 'epoch_1.pth'), tmp_path / 'witness', tmp_path / 'mine.pth')
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = {SHAPES!r}\nload_from = {str(tmp_path / 'mine.pth')!r}\n")

    def train(name, *settings):
        options = on_shapes('train', trained / 'data', '--trust-checkpoint', '--work-dir', str(tmp_path / name),
                            settings=[*QUICK, *settings])
        options.config = str(config)
        engine.train(options)

    with pytest.raises(UnsafeCheckpointError, match='mine'):
        train('by_config')
    assert not (tmp_path / 'witness').exists()
    train('by_command', f'load_from={tmp_path / "mine.pth"}')
    assert (tmp_path / 'witness').exists(), 'a checkpoint that the command names should be trusted'


def test_a_trusted_checkpoint_brings_its_config(trained, tmp_path):
    path = str(trained / 'run' / 'epoch_1.pth')
    with trusting(path):
        inferencer = DetInferencer(weights=path, device='cpu', show_progress=False)
    image = next((trained / 'data').rglob('*.png'))
    assert inferencer(str(image), no_save_vis=True)['predictions'][0]['bboxes']


# ---- the card that a checkpoint carries ----

def touching(witness):
    return dict(type='os.system', command=f'touch {witness}')


def set_in(node, path, value):
    *parents, last = path.split('.')
    for name in parents:
        node = node[int(name) if isinstance(node, list) else name]
    node[last] = value


# What a card must not say, by the place where it says so. The module `evil` leaves a witness when it is imported.
CARDS = {
    'model_type': lambda folder: ('model', touching(folder / 'witness')),
    'nested_type': lambda folder: ('model.neck', touching(folder / 'witness')),
    'type_of_a_norm': lambda folder: ('model.bbox_head.norm_cfg', dict(type='evil.Norm')),
    'type_of_a_loss': lambda folder: ('model.bbox_head.loss_bbox', dict(type='evil.Loss')),
    'bare_string': lambda folder: ('model.bbox_head.quality', 'evil.Quality'),
    'scope_of_a_type': lambda folder: ('model.backbone.type', 'evil.ResNet'),
    'scope': lambda folder: ('model.neck._scope_', 'evil'),
    'nms': lambda folder: ('model.test_cfg.nms', dict(type='__import__("evil")')),
    'transform': lambda folder: ('pipeline', [touching(folder / 'witness')]),
    'nested_transform': lambda folder: ('pipeline', [dict(type='Compose', transforms=[touching(folder / 'witness')])]),
    'custom_imports': lambda folder: ('model.custom_imports', dict(imports=['evil'])),
    'teacher': lambda folder: ('model', dict(
        type='KnowledgeDistillationSingleStageDetector', backbone=dict(type='ResNet', depth=18), neck=None,
        bbox_head=dict(type='RetinaHead', num_classes=6, in_channels=8), teacher_config=str(folder / 'evil.py'))),
    'init_cfg': lambda folder: (
        'model.backbone.init_cfg', dict(type='Pretrained', checkpoint=str(folder / 'evil.pth'))),
    'pretrained': lambda folder: ('model.backbone.pretrained', str(folder / 'evil.pth'))}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module, and a checkpoint, that leave a witness when they are loaded."""
    (tmp_path / 'evil.py').write_text(f'open({str(tmp_path / "witness")!r}, "w").close()')
    torch.save(Call(os.system, f'touch {tmp_path / "witness"}'), tmp_path / 'evil.pth')
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop('evil', None)


def write_card(trained, path, change):
    content = load_file(trained / 'run' / 'epoch_1.pth')
    card = json.loads(content[KEY])
    set_in(card, *change)
    torch.save({**content, KEY: json.dumps(card)}, path)
    return card


@pytest.mark.parametrize('kind', CARDS)
def test_nothing_in_a_card_is_run(kind, trained, evil):
    write_card(trained, evil / 'stranger.pth', CARDS[kind](evil))
    with pytest.raises(SetupError):
        load_model(str(evil / 'stranger.pth'))
    assert not (evil / 'witness').exists(), f'{kind} was run'


@pytest.mark.parametrize('kind', ['model_type', 'nested_type', 'type_of_a_norm', 'type_of_a_loss', 'scope_of_a_type',
                                  'scope', 'teacher'])
def test_the_attacks_by_a_card_are_real(kind, trained, evil):
    """MMDetection's registry runs what such a config names."""
    card = write_card(trained, evil / 'stranger.pth', CARDS[kind](evil))
    with contextlib.suppress(Exception):
        MODELS.build(ConfigDict(card['model']))
    assert (evil / 'witness').exists()


@pytest.mark.parametrize('text', ['[' * 100_000, '{"a":' * 100_000, '[]', 'no JSON', ['GFL'], {'format': 1}])
def test_a_card_that_is_none(text, trained, tmp_path):
    torch.save({**load_file(trained / 'run' / 'epoch_1.pth'), KEY: text}, tmp_path / 'stranger.pth')
    with pytest.raises(SetupError, match=r'card of .*stranger\.pth cannot be used'):
        load_model(str(tmp_path / 'stranger.pth'))


# ---- shells and sockets ----

RUN_TEXT = {'eval', 'exec', 'compile', '__import__'}  # the builtins; model.eval() and torch.compile() are attributes
MODULES = {'subprocess', 'pty', 'runpy', 'code', 'commands'}
STARTERS = re.compile(r'system|shell|[Pp]open|startfile|fork(pty)?|exec[lv]p?e?|(posix_)?spawn[lv]?p?e?|'
                      r'create_subprocess_.*|get(status)?output|check_(output|call)')
ALLOWED = set()  # of (file, name): the package and the tools start nothing today


def starters(source):
    """The names in a source that run text as Python, or start a process or a shell."""
    for node in ast.walk(ast.parse(source)):
        modules = [node.module or ''] if isinstance(node, ast.ImportFrom) else []
        modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
        yield from MODULES.intersection(module.split('.')[0] for module in modules)
        names = [getattr(node, field, None) for field in ('attr', 'id', 'arg', 'name')]
        yield from (name for name in names if isinstance(name, str) and STARTERS.fullmatch(name))
        if isinstance(node, ast.Name) and node.id in RUN_TEXT:
            yield node.id
        if isinstance(node, ast.Attribute) and getattr(node.value, 'id', None) == 'builtins':
            yield f'builtins.{node.attr}'


@pytest.mark.parametrize('source', [
    'import os; os.system("ls")', 'from os import system as s; s("ls")', 'os.popen("ls")', 'os.execvp("ls", [])',
    'os.spawnl(0, "ls")', 'os.posix_spawn("ls", [], {})', 'import subprocess', 'from subprocess import run',
    'import subprocess as quiet', 'run("ls", shell=True)', 'asyncio.create_subprocess_exec("ls")', 'eval("1")',
    'exec("1")', 'compile("1", "", "exec")', '__import__("os")', 'run = eval', 'builtins.eval("1")', 'import pty',
    'runpy.run_path; import runpy'])
def test_what_starts_something_is_found(source):
    assert list(starters(source))


def test_what_only_sounds_like_it_is_not_found():
    assert not list(starters('model.eval(); torch.compile(model); re.compile("a"); runner.run(); import codecs'))


def test_no_python_starts_a_shell():
    """No Python file runs text as Python either. So a path with a semicolon stays a path."""
    files = [file for folder in ('gfl_plugin', 'tools') for file in (ROOT / folder).rglob('*.py')]
    assert len(files) > 40
    found = {(str(file.relative_to(ROOT)), name) for file in files for name in starters(file.read_text())}
    assert found == ALLOWED, f'{found ^ ALLOWED}: start nothing, or say here why it is safe'


@pytest.mark.parametrize('script, arguments', [('dist_train.sh', ['CONFIG', '2', '--resume', 'CONFIG']),
                                               ('dist_test.sh', ['CONFIG', 'CONFIG', '2']),
                                               ('slurm_train.sh', ['part', 'CONFIG', 'CONFIG'])])
def test_a_script_hands_on_a_path_as_it_is(script, arguments, tmp_path):
    """The path holds every special character. Stand-ins for python and srun print what they get."""
    for name in ('python', 'srun'):
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (tmp_path / name).chmod(0o755)
    path = f'a b;touch {tmp_path}/witness $(touch {tmp_path}/witness)`touch {tmp_path}/witness`*.py'
    done = subprocess.run(['bash', str(ROOT / 'tools' / script), *(path if a == 'CONFIG' else a for a in arguments)],
                          env=dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}', PYTHON='python'),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    given = done.stdout.splitlines()
    assert sum(path in line for line in given) == arguments.count('CONFIG'), given
    assert not (tmp_path / 'witness').exists()


def test_imports_open_no_connection():
    """Import every module of the package in a process that exits at the first connection."""
    code = ('import importlib, os, pkgutil, sys\n'
            'def watch(event, arguments):\n'
            '    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):\n'
            '        print(event, arguments, flush=True); os._exit(1)\n'
            'sys.addaudithook(watch)\n'
            'import gfl_plugin\n'
            'names = [module.name for module in pkgutil.walk_packages(gfl_plugin.__path__, "gfl_plugin.")]\n'
            'for name in names:\n'
            '    try: importlib.import_module(name)\n'
            '    except ModuleNotFoundError as error: assert error.name in ("triton", "plotly"), error\n'
            'print(len(names))')
    done = run('-c', code)
    assert done.returncode == 0 and int(done.stdout.split()[-1]) > 40, done.stdout[-1000:] + done.stderr[-1000:]
