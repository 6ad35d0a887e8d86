"""Checkpoints are data: what a runner saves can be loaded, and nothing in a file is run."""
import contextlib
import os
import pickle
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from gfl_plugin.errors import SetupError
from gfl_plugin.safe_loading import UnsafeCheckpointError, trusting


class Calls:
    """Pickles as a call of a function, as any malicious file does."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_what_a_runner_saves_loads(tmp_path):
    history = HistoryBuffer([1., 2., 4.], [1, 1, 1])
    saved = dict(meta=dict(epoch=1, iter=7, seed=0, config='raise SystemExit', dataset_meta=dict(classes=('a', ))),
                 state_dict=dict(weight=torch.ones(2)), optimizer=dict(state={0: dict(step=torch.tensor(1.))}),
                 message_hub=dict(log_scalars=dict(loss=history), runtime_info=dict(lr=np.float64(0.1)),
                                  scores=np.arange(3, dtype=np.int64)))
    torch.save(saved, tmp_path / 'epoch_1.pth')
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'epoch_1.pth'), map_location='cpu')
    assert loaded['message_hub']['log_scalars']['loss'].mean() == pytest.approx(7 / 3), 'statistics should go on'
    assert loaded['message_hub']['runtime_info']['lr'] == 0.1, 'NumPy scalars should load'
    assert loaded['message_hub']['scores'].tolist() == [0, 1, 2], 'NumPy arrays should load'


EXECUTED = [(['meta'], 'config'), (['meta'], 'cfg'), (['message_hub', 'runtime_info'], 'cfg')]


def shadowed(content):
    """A dict whose methods lie: ``pop`` removes nothing and ``get`` finds nothing."""
    result = OrderedDict(content)
    result.pop = result.get = slice
    return result


def record(content):
    """A NumPy record is no dict, but it answers ``record['cfg']``. It pickles as calls that a checkpoint may make."""
    fields = [(name, 'U99') for name in content]
    value = np.array(tuple(content.values()), dtype=fields)
    scalar = np.float64(1).__reduce__()[0]
    return Calls(scalar, Calls(np.dtype, fields), value.tobytes())


@pytest.mark.parametrize('mapping', [dict, shadowed, record])
@pytest.mark.parametrize('owners, name', EXECUTED)
def test_text_that_would_be_executed_does_not_arrive(owners, name, mapping, tmp_path):
    """MMEngine executes the texts of configs that a checkpoint carries, in Runner.resume and in BaseInferencer."""
    content = mapping({name: 'raise SystemExit', 'kept': 'by the file'})
    for owner in reversed(owners):
        content = {owner: content, 'state_dict': {}}
    torch.save(content, tmp_path / 'epoch_1.pth')
    found = CheckpointLoader.load_checkpoint(str(tmp_path / 'epoch_1.pth'))
    with contextlib.suppress(KeyError):
        for owner in owners:
            found = found[owner]
        assert mapping is not record and found['kept'] == 'by the file', 'the rest should be there'
        assert name not in found


def test_a_file_that_holds_no_dict_is_named(tmp_path):
    torch.save([torch.ones(2)], tmp_path / 'list.pth')
    with pytest.raises(SetupError, match=r'list\.pth is not a checkpoint.*list'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'list.pth'))


@pytest.mark.parametrize('content', [b'PKjunkjunk', b'<!DOCTYPE html>', b'version https://git-lfs.github.com/spec/v1'])
def test_a_damaged_file_asks_for_no_trust(content, tmp_path):
    (tmp_path / 'damaged.pth').write_bytes(content)
    with pytest.raises(SetupError, match=r'damaged\.pth is damaged or not a checkpoint') as caught:
        CheckpointLoader.load_checkpoint(str(tmp_path / 'damaged.pth'))
    assert 'trust' not in str(caught.value), 'full pickle would not mend the file'


@pytest.mark.parametrize('is_zip', [True, False])
@pytest.mark.parametrize('share', [0, 0.001, 0.01, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(share, is_zip, tmp_path):
    file = tmp_path / 'truncated.pth'
    torch.save(dict(weight=torch.rand(100, 10), bias=torch.rand(4)), file, _use_new_zipfile_serialization=is_zip)
    file.write_bytes(file.read_bytes()[:int(share * file.stat().st_size)])
    with pytest.raises(SetupError, match=r'truncated\.pth is damaged or not a checkpoint. Copy or download it again'):
        CheckpointLoader.load_checkpoint(str(file))


def test_a_truncated_download_is_to_be_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    file = tmp_path / 'checkpoints/r18.pth'
    file.parent.mkdir()
    torch.save(dict(weight=torch.rand(100, 10)), file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(SetupError, match=rf'^{file} is damaged .*Delete it, .*https://weights.invalid/r18.pth$'):
        CheckpointLoader.load_checkpoint('https://weights.invalid/r18.pth')


def test_other_errors_of_a_load_are_no_damage(tmp_path):
    torch.save(dict(weight=torch.rand(2)), tmp_path / 'whole.pth')
    with pytest.raises(RuntimeError, match='nonsense'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'whole.pth'), map_location='nonsense')


def test_a_newer_pickle_protocol_may_be_trusted(tmp_path):
    """PyTorch loads this file with full pickle, and cannot read it weights-only."""
    torch.save(dict(state_dict={}), tmp_path / 'protocol_4.pth', pickle_protocol=4)
    with pytest.raises(UnsafeCheckpointError, match='--trust-checkpoint'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'protocol_4.pth'))
    with trusting(str(tmp_path / 'protocol_4.pth')):
        assert CheckpointLoader.load_checkpoint(str(tmp_path / 'protocol_4.pth')) == dict(state_dict={})


@pytest.mark.parametrize('attack', ['system', 'popen', 'eval', 'exec', 'getattr', 'getattr_of_buffer', 'builtin_open',
                                    'legacy_format'])
def test_nothing_in_a_file_is_run(tmp_path, attack):
    witness = tmp_path / 'witness'
    command = f'touch {witness}'
    payload = {
        'system': Calls(os.system, command),
        'popen': Calls(subprocess.Popen, command, -1, None, None, None, None, None, True, True),
        'eval': Calls(eval, f'open({str(witness)!r}, "w")'),
        'exec': Calls(exec, f'open({str(witness)!r}, "w")'),
        'getattr': Calls(getattr, HistoryBuffer, '__init__'),
        'getattr_of_buffer': Calls(getattr, HistoryBuffer.mean, '__globals__'),
        'builtin_open': Calls(open, str(witness), 'w'),
        'legacy_format': Calls(os.system, command),
    }[attack]
    path = tmp_path / 'stranger.pth'
    saved = dict(state_dict=dict(weight=torch.ones(2)), meta=payload)
    if attack == 'legacy_format':
        path.write_bytes(pickle.dumps(saved['meta']))
    else:
        torch.save(saved, path)
    with pytest.raises(UnsafeCheckpointError, match='--trust-checkpoint'):
        CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    assert not witness.exists(), f'{attack} should not have been run'


def test_the_refusal_names_the_global(tmp_path):
    torch.save(dict(state_dict={}, extra=Calls(os.getcwd)), tmp_path / 'stranger.pth')
    with pytest.raises(UnsafeCheckpointError, match=r'stranger\.pth is refused.*`posix\.getcwd`'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'stranger.pth'))


def test_trust_covers_the_named_file_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('mine.pth', 'strangers.pth'):
        torch.save(dict(state_dict={}, extra=Calls(os.getcwd)), tmp_path / name)
    (tmp_path / 'link.pth').symlink_to('mine.pth')
    with trusting('mine.pth'):
        for name in ('mine.pth', './mine.pth', 'link.pth', str(tmp_path / 'mine.pth')):
            assert CheckpointLoader.load_checkpoint(name)['extra'] == os.getcwd(), f'{name} is the same file'
        with pytest.raises(UnsafeCheckpointError, match='strangers'):
            CheckpointLoader.load_checkpoint('strangers.pth')
        with trusting('strangers.pth'):
            assert CheckpointLoader.load_checkpoint('mine.pth')['extra'] == os.getcwd(), 'trust should add up'
    with pytest.raises(UnsafeCheckpointError, match='mine'):
        CheckpointLoader.load_checkpoint('mine.pth')


def test_trust_needs_a_name(tmp_path):
    torch.save(dict(state_dict={}, extra=Calls(os.getcwd)), tmp_path / 'strangers.pth')
    with trusting(), pytest.raises(UnsafeCheckpointError):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'strangers.pth'))


URLS = ['https://example.org/w-12345678.pth', 'torchvision://resnet50', 'open-mmlab://resnext101_32x4d']


@pytest.mark.parametrize('trusted', [None, *URLS])
@pytest.mark.parametrize('url', URLS)
def test_downloads_are_weights_only(url, trusted, monkeypatch):
    """Every scheme of weights ends in a weights-only load, unless that name is trusted. Nothing is downloaded here."""
    asked = []
    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url',
                        lambda url, **kwargs: asked.append((url, kwargs['weights_only'])) or {'w': 1})
    monkeypatch.setattr(mmengine_checkpoint, 'get_torchvision_models',
                        lambda: {'resnet50': 'https://example.org/resnet50.pth'})
    with trusting(*[trusted] if trusted else []):
        assert CheckpointLoader.load_checkpoint(url, map_location='cpu') == {'w': 1}
    assert len(asked) == 1 and asked[0][0].startswith('https://') and asked[0][1] is (url != trusted), asked


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match='nowhere.pth') as caught:
        CheckpointLoader.load_checkpoint('nowhere.pth')
    assert isinstance(caught.value, SetupError), "a tool should say it in a sentence, as any mistake of the user's"


def test_pytorchs_list_of_safe_globals_stays(tmp_path):
    """What a runner saves is allowed in MMEngine's loads alone. What the user has allowed stays allowed."""
    torch.save(dict(history=HistoryBuffer([1.], [1])), tmp_path / 'epoch_1.pth')
    before = set(torch.serialization.get_safe_globals())
    CheckpointLoader.load_checkpoint(str(tmp_path / 'epoch_1.pth'))
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'epoch_1.pth', weights_only=True)
    with torch.serialization.safe_globals([HistoryBuffer]):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'epoch_1.pth'))
        assert set(torch.serialization.get_safe_globals()) == before | {HistoryBuffer}
