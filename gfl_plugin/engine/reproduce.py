"""The paper's studies: tables of runs, with several seeds a row. A table that was stopped goes on where it was."""
import contextlib
import fcntl
import json
import logging
import os
import socket
import statistics
import time
from argparse import Namespace
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from mmengine.logging import print_log

from ..config_bases import CONFIGS
from ..errors import SetupError
from ..files import write_text
from .config import Options
from .run import test, train
from .start import named_last

ON_SHAPES, ON_COCO = '../demo/gfl_r18_fpn_shapes.py', 'gfl/gfl_r50_fpn_1x_coco.py'  # what rows inherit from
METRICS = ('mAP', 'mAP_50', 'mAP_75')


class Row(NamedTuple):
    """A config and the settings that it is trained with.

    Attributes:
        label: What the table calls the row.
        name: What the row's folder and ``--rows`` call it.
        published: Box AP on COCO minival in the same setting (R50, 1x), as published by MMDetection.
        config: A config of ``configs/ablation``; the one that ``name`` names if None.
        settings: ``key=value``, as of ``--cfg-options``.
    """
    label: str
    name: str
    published: Optional[float] = None
    config: Optional[str] = None
    settings: Tuple[str, ...] = ()


def _rows_of_gfl(symbol: str, setting: str, values: Tuple[float, ...]) -> List[Row]:
    """GFL with one number set to each of some values."""
    return [Row(f'{symbol} = {value:g}', f'{symbol}_{value:g}', config='joint_general-dfl',
                settings=(f'{setting}={value}', )) for value in values]


TABLES: Dict[str, List[Row]] = {
    # QFL x DFL on ATSS (table 3 of the paper).
    'table3': [Row('ATSS', 'centerness_dirac', 39.4), Row('QFL', 'joint_dirac'), Row('DFL', 'centerness_general-dfl'),
               Row('QFL and DFL (GFL)', 'joint_general-dfl', 40.2)],
    # What a score means, on ATSS (table 1).
    'quality': [Row('centre-ness branch', 'centerness_dirac', 39.4), Row('IoU branch', 'iou_dirac'),
                Row('joint', 'joint_dirac')],
    # What a side is, on ATSS (table 2).
    'box': [Row('Dirac', 'centerness_dirac', 39.4), Row('Gaussian', 'centerness_gaussian'),
            Row('general', 'centerness_general'), Row('general, with DFL', 'centerness_general-dfl')],
    # The exponent of QFL's modulating factor. At 0 QFL is binary cross-entropy; 2 is the default.
    'beta': _rows_of_gfl('beta', 'model.bbox_head.loss_cls.beta', (0.0, 1.0, 2.0, 2.5, 4.0)),
    # The largest bin, in strides; 16 is the default.
    'n': _rows_of_gfl('n', 'model.bbox_head.reg_max', (12, 14, 16, 18)),
}


def reproduce(options: Options) -> Dict[str, object]:
    """Train what is left of a table as ``tools/reproduce.py`` says. Write the table, as far as it is, after each run.

    Returns:
        The content of ``table.json``.

    Raises:
        SetupError: The table, or a row of ``--rows``, does not exist, or another process trains a run of it now.
    """
    if options.table not in TABLES:
        raise SetupError(f'There is no table {options.table!r}: there are {", ".join(TABLES)}')
    names = [row.name for row in TABLES[options.table]]
    for name in options.rows or ():
        if name not in names:
            raise SetupError(f'Table {options.table} has no row {name!r}: there are {", ".join(names)}')
    folder = options.work_dir or os.path.join('work_dirs', 'reproduce',
                                              options.table + ('-coco' if options.data_root else ''))
    os.makedirs(folder, exist_ok=True)
    left = [(row, seed) for row in TABLES[options.table] for seed in range(options.seeds)
            if row.name in (options.rows or names) and _result(folder, row, seed) is None]
    start, table = time.monotonic(), write_table(folder, options)
    for index, (row, seed) in enumerate(left):
        _say(f'{row.label}, seed {seed}: run {index + 1} of {len(left)}{_eta(start, index, len(left))}')
        with _locked(folder, row, seed):
            _run(row, seed, folder, options)
        table = write_table(folder, options)
    _say(f'{os.path.join(folder, "table.md")}:\n{markdown(table)}')
    return table


def _run(row: Row, seed: int, folder: str, options: Options) -> None:
    """Train and evaluate a row with one seed, from where an earlier try ended, and write its numbers to a file."""
    start = time.monotonic()
    work_dir = os.path.join(folder, row.name, f'seed_{seed}')
    settings = [*row.settings, *(options.cfg_options or ()), f'randomness.seed={seed}',
                f'experiment_name={options.table}_{row.name}_{seed}_{time.time_ns()}']
    run = Namespace(
        config=_config_file(row, folder, options), work_dir=work_dir, data_root=options.data_root, launcher='none',
        cfg_options=settings, resume='auto' if os.path.isdir(work_dir) else None, local_rank=None, amp=options.amp,
        auto_scale_lr=options.auto_scale_lr, no_pretrained=options.no_pretrained, trust_checkpoint=False, out=None,
        show_dir=None, tta=False)
    train(run)
    run.checkpoint = named_last(work_dir)
    run.cfg_options = settings[:-1] + [settings[-1] + '_test']
    metrics = test(run)[1]
    # MMDetection gives no AP if nothing was detected. It is 0.
    result = {name: metrics.get(f'coco/bbox_{name}', 0.0) for name in METRICS}
    result['minutes'] = (time.monotonic() - start) / 60  # since the run was last started
    write_text(_result_file(folder, row, seed), json.dumps(result))


@contextlib.contextmanager
def _locked(folder: str, row: Row, seed: int) -> Iterator[None]:
    """Keep other processes from training the same run now. The lock goes with the process, even if it is killed.

    Raises:
        SetupError: Another process trains this run.
    """
    os.makedirs(os.path.join(folder, row.name), exist_ok=True)
    with open(os.path.join(folder, row.name, f'seed_{seed}.lock'), 'a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise SetupError(f'{file.read()} trains {row.name} with seed {seed} now. Wait until it ends, or let '
                             'each process train rows of its own (--rows)') from error
        except OSError:  # this file system has no locks
            pass
        file.truncate(0)
        file.write(f'Process {os.getpid()} on {socket.gethostname()}')
        file.flush()
        yield


def _config_file(row: Row, folder: str, options: Options) -> str:
    """The file of the row's config. For COCO it is a copy that inherits from the 1x config."""
    name = f'{row.config or row.name}.py'
    path = os.path.join(CONFIGS, 'ablation', name)
    if not options.data_root:
        return path
    with open(path) as file:
        content = file.read()
    copy = os.path.join(folder, name)
    write_text(copy, content.replace(ON_SHAPES, os.path.join(CONFIGS, ON_COCO)))
    return copy


def _result_file(folder: str, row: Row, seed: int) -> str:
    return os.path.join(folder, row.name, f'seed_{seed}.json')


def _result(folder: str, row: Row, seed: int) -> Optional[Dict[str, float]]:
    """The numbers of a run; None if the run is not done, or if an older version was killed while it wrote the file."""
    try:
        with open(_result_file(folder, row, seed)) as file:
            return json.load(file)
    except (FileNotFoundError, json.JSONDecodeError):
        return None


# ---- the table ----

def write_table(folder: str, options: Options) -> Dict[str, object]:
    """Write the results so far to ``table.md`` and ``table.json``."""
    rows = []
    for row in TABLES[options.table]:
        results = [_result(folder, row, seed) for seed in range(options.seeds)]
        runs = [dict(result, seed=seed) for seed, result in enumerate(results) if result is not None]
        published = dict(published=row.published) if options.data_root else {}  # the published figures are of COCO
        rows.append(dict(label=row.label, config=row.config or row.name, settings=list(row.settings), **published,
                         runs=runs))
    table = dict(table=options.table, data='COCO' if options.data_root else 'shapes', seeds=options.seeds, rows=rows)
    for name, content in (('table.json', json.dumps(table, indent=1)), ('table.md', markdown(table))):
        write_text(os.path.join(folder, name), content + '\n')
    return table


def markdown(table: Dict[str, object]) -> str:
    """Mean and standard deviation over the seeds, in points. Only a table of COCO has the published figures."""
    on_coco = table['data'] == 'COCO'
    head = ['', 'AP', 'AP50', 'AP75', 'seeds', *(['published by MMDetection'] if on_coco else [])]
    lines = [head, ['---', *['---:'] * (len(head) - 1)]]
    for row in table['rows']:
        cells = [row['label'], *(_mean_and_spread([run[name] for run in row['runs']]) for name in METRICS),
                 str(len(row['runs']))]
        if on_coco:
            cells.append('' if row['published'] is None else f'{row["published"]:.1f}')
        lines.append(cells)
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def _mean_and_spread(values: List[float]) -> str:
    if not values:
        return ''
    mean = f'{100 * statistics.mean(values):.1f}'
    return mean if len(values) < 2 else f'{mean} ± {100 * statistics.stdev(values):.1f}'


def _eta(start: float, done: int, total: int) -> str:
    if not done:
        return ''
    minutes = (time.monotonic() - start) / 60 / done * (total - done)
    return f', about {minutes:.0f} minutes left'


def _say(text: str) -> None:
    print_log(text, logger='current', level=logging.INFO)
