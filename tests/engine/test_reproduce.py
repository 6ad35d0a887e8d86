"""Tables of the paper: every row is a config, a table goes on where it was, and only COCO has published figures."""
import json
import os
import sys
from pathlib import Path

import pytest
from tool_runs import SMALL, parse

from gfl_plugin import CONFIGS, engine, files
from gfl_plugin.engine.reproduce import TABLES, markdown
from gfl_plugin.errors import SetupError


def load(row):
    file = f'{CONFIGS}/ablation/{row.config or row.name}.py'
    return engine.load_config(parse('train', file, *(('--cfg-options', *row.settings) if row.settings else ())))


def test_every_row_is_a_config():
    for rows in TABLES.values():
        assert len({row.name for row in rows}) == len(rows), 'each row should have a folder of its own'
        for row in rows:
            assert load(row).model.bbox_head.type == 'gfl_plugin.GFLHead', row


def test_rows_that_set_a_number():
    heads = {row.name: load(row).model.bbox_head for table in ('beta', 'n') for row in TABLES[table]}
    betas = {name: head.loss_cls.beta for name, head in heads.items() if name.startswith('beta_')}
    assert betas == {'beta_0': 0, 'beta_1': 1, 'beta_2': 2, 'beta_2.5': 2.5, 'beta_4': 4}
    assert all(isinstance(beta, float) for beta in betas.values())
    sizes = {name: head.reg_max for name, head in heads.items() if name.startswith('n_')}
    assert sizes == {'n_12': 12, 'n_14': 14, 'n_16': 16, 'n_18': 18}


def test_a_table_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the shapes go to data/shapes
    settings = [s for s in SMALL if 'max_epochs' not in s] + ['train_cfg.max_epochs=1']

    def reproduce(*arguments):
        return engine.reproduce(parse('reproduce', 'n', '--cfg-options', *settings, *arguments))

    monkeypatch.setitem(TABLES, 'n', TABLES['n'][:2])
    reproduce('--seeds', '1')
    folder = tmp_path / 'work_dirs/reproduce/n'
    first = (folder / 'n_12/seed_0.json').stat().st_mtime_ns
    (folder / 'n_14/seed_0.json').unlink()  # as if it had been stopped before it was evaluated
    table = reproduce('--seeds', '2')
    assert (folder / 'n_12/seed_0.json').stat().st_mtime_ns == first, 'a finished run should not be trained again'
    assert [len(row['runs']) for row in table['rows']] == [2, 2], 'the others should be trained'
    trained = next((folder / 'n_14/seed_1').glob('*/vis_data/config.py')).read_text()
    assert 'reg_max=14' in trained, 'each row should train with its own number'
    assert json.loads((folder / 'table.json').read_text()) == table
    assert 'published' not in json.dumps(table), "COCO's figures stay beside others of COCO"
    assert (folder / 'table.md').read_text().count('±') == 6, 'each of two rows should have three means and deviations'


def test_a_kill_while_results_are_written_leaves_none(tmp_path, monkeypatch):
    """A file that is half written would count as a run that is done."""
    module, row = sys.modules['gfl_plugin.engine.reproduce'], TABLES['n'][0]
    options = parse('reproduce', 'n', '--work-dir', str(tmp_path), '--rows', row.name, '--seeds', '1')
    monkeypatch.setattr(module, 'train', lambda run: None)
    monkeypatch.setattr(module, 'test', lambda run: (None, {}))
    (tmp_path / row.name / 'seed_0').mkdir(parents=True)
    (tmp_path / row.name / 'seed_0/last_checkpoint').write_text('epoch_1.pth')

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr('gfl_plugin.files._flush', die)
        with pytest.raises(KeyboardInterrupt):
            module._run(row, 0, str(tmp_path), options)
        with pytest.raises(KeyboardInterrupt):
            module.write_table(str(tmp_path), options)
    assert not list(tmp_path.rglob('*.json'))
    (tmp_path / row.name / 'seed_0.json').write_text('')  # of an older version
    assert len(engine.reproduce(options)['rows'][0]['runs']) == 1, 'it should be trained again'


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path, monkeypatch):
    module, row = sys.modules['gfl_plugin.engine.reproduce'], TABLES['n'][0]
    options = parse('reproduce', 'n', '--work-dir', str(tmp_path), '--rows', row.name, '--seeds', '1')
    trained = []
    monkeypatch.setattr(module, '_run', lambda *run: trained.append(run) or module.reproduce(options))
    with pytest.raises(SetupError, match=f'^Process {os.getpid()} on .* trains n_12 with seed 0 now. .*--rows'):
        engine.reproduce(options)
    assert len(trained) == 1, 'the second process should train nothing'
    monkeypatch.setattr(module, '_run', lambda *run: trained.append(run))
    engine.reproduce(options)
    assert len(trained) == 2, 'the lock should end with the process that held it'


def test_processes_that_share_a_table_write_it_at_a_time(tmp_path):
    table = str(tmp_path / 'table.json')
    with files.replacing(table) as first, files.replacing(table) as second:
        for name in (first, second):
            with open(name, 'w') as file:
                file.write(name)
    assert Path(table).read_text() == first and len(list(tmp_path.iterdir())) == 1


def test_published_figures_only_beside_coco():
    runs = [dict(mAP=0.401, mAP_50=0.58, mAP_75=0.43), dict(mAP=0.403, mAP_50=0.58, mAP_75=0.43)]
    rows = [dict(label='GFL', published=40.2, runs=runs), dict(label='DFL', published=None, runs=[])]
    assert markdown(dict(data='COCO', rows=rows)).splitlines()[2:] == [
        '| GFL | 40.2 ± 0.1 | 58.0 ± 0.0 | 43.0 ± 0.0 | 2 | 40.2 |', '| DFL |  |  |  | 0 |  |']
    assert 'published' not in markdown(dict(data='shapes', rows=rows))


def test_on_coco_a_row_departs_from_the_1x_setting(tmp_path):
    from gfl_plugin.engine.reproduce import _config_file
    options = parse('reproduce', 'table3', '--data-root', str(tmp_path))
    config = engine.load_config(parse('train', _config_file(TABLES['table3'][0], str(tmp_path), options)))
    assert config.model.backbone.depth == 50 and config.train_cfg.max_epochs == 12
    assert 'Centerness' in config.model.bbox_head.quality.type


def test_rows_share_a_table(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(sys.modules['gfl_plugin.engine.reproduce'], '_run',
                        lambda row, seed, *_: trained.append((row.name, seed)))
    engine.reproduce(parse('reproduce', 'table3', '--work-dir', str(tmp_path), '--rows', 'joint_dirac', '--seeds', '2'))
    assert trained == [('joint_dirac', 0), ('joint_dirac', 1)]


def test_an_unknown_table_or_row_is_named():
    with pytest.raises(SetupError, match="'table9'.*table3"):
        engine.reproduce(parse('reproduce', 'table9'))
    with pytest.raises(SetupError, match="'joint'.*joint_dirac"):
        engine.reproduce(parse('reproduce', 'table3', '--rows', 'joint'))
