"""The paper's studies: a table of configs, several seeds each, that can be stopped and goes on where it was."""
import json
import logging
import os
import statistics
import time
from argparse import Namespace
from typing import Dict, List, NamedTuple, Optional

from mmengine.logging import print_log

from ..errors import SetupError
from ..files import write_text
from . import resume
from .config import Options
from .run import test, train

CONFIGS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), '.mim', 'configs')
ON_SHAPES, ON_COCO = '../demo/gfl_r18_fpn_shapes.py', 'gfl/gfl_r50_fpn_1x_coco.py'  # what a row departs from
METRICS = ('mAP', 'mAP_50', 'mAP_75')


class Row(NamedTuple):
    """A config of ``configs/ablation`` and what to call it."""
    label: str
    config: str
    published: Optional[float] = None  # box AP on COCO minival of the same setting (R50, 1x), by MMDetection


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
    'beta': [Row(f'beta = {beta}', f'beta_{beta}') for beta in ('0', '1', '2', '2.5', '4')],
    'n': [Row(f'n = {n}', f'n_{n}') for n in (12, 14, 16, 18)],
}


def reproduce(options: Options) -> Dict[str, object]:
    """Train what is left of a table as ``tools/reproduce.py`` says, and write it, as far as it is, after each run.

    Returns:
        The content of ``table.json``.

    Raises:
        SetupError: There is no such table, or no such row in it.
    """
    if options.table not in TABLES:
        raise SetupError(f'There is no table {options.table!r}: there are {", ".join(TABLES)}')
    configs = [row.config for row in TABLES[options.table]]
    for config in options.rows or ():
        if config not in configs:
            raise SetupError(f'Table {options.table} has no row {config!r}: there are {", ".join(configs)}')
    folder = options.work_dir or os.path.join('work_dirs', 'reproduce',
                                              options.table + ('-coco' if options.data_root else ''))
    os.makedirs(folder, exist_ok=True)
    left = [(row, seed) for row in TABLES[options.table] for seed in range(options.seeds)
            if row.config in (options.rows or configs) and _result(folder, row, seed) is None]
    start, table = time.monotonic(), write_table(folder, options)
    for index, (row, seed) in enumerate(left):
        _say(f'{row.label}, seed {seed}: run {index + 1} of {len(left)}{_eta(start, index, len(left))}')
        _run(row, seed, folder, options)
        table = write_table(folder, options)
    _say(f'{os.path.join(folder, "table.md")}:\n{markdown(table)}')
    return table


def _run(row: Row, seed: int, folder: str, options: Options) -> None:
    """Train and evaluate one row with one seed, from where an earlier try ended; its numbers go into a file."""
    start = time.monotonic()
    work_dir = os.path.join(folder, row.config, f'seed_{seed}')
    settings = [*(options.cfg_options or ()), f'randomness.seed={seed}',
                f'experiment_name={options.table}_{row.config}_{seed}_{time.time_ns()}']
    run = Namespace(
        config=_config_file(row, folder, options), work_dir=work_dir, data_root=options.data_root, launcher='none',
        cfg_options=settings, resume='auto' if os.path.isdir(work_dir) else None, local_rank=None, amp=options.amp,
        auto_scale_lr=options.auto_scale_lr, no_pretrained=options.no_pretrained, trust_checkpoint=False, out=None,
        show_dir=None, tta=False)
    train(run)
    run.checkpoint = resume.named_last(work_dir)
    run.cfg_options = settings[:-1] + [settings[-1] + '_test']
    metrics = test(run)[1]
    # Where nothing at all was detected MMDetection gives no AP, which is 0.
    result = {name: metrics.get(f'coco/bbox_{name}', 0.0) for name in METRICS}
    result['minutes'] = (time.monotonic() - start) / 60  # since it was last started
    write_text(_result_file(folder, row, seed), json.dumps(result))


def _config_file(row: Row, folder: str, options: Options) -> str:
    """The row's config; on COCO a copy of it that departs from the 1x setting there."""
    path = os.path.join(CONFIGS, 'ablation', f'{row.config}.py')
    if not options.data_root:
        return path
    with open(path) as file:
        content = file.read()
    copy = os.path.join(folder, f'{row.config}.py')
    write_text(copy, content.replace(ON_SHAPES, os.path.join(CONFIGS, ON_COCO)))
    return copy


def _result_file(folder: str, row: Row, seed: int) -> str:
    return os.path.join(folder, row.config, f'seed_{seed}.json')


def _result(folder: str, row: Row, seed: int) -> Optional[Dict[str, float]]:
    """The numbers of a run; None if it is not done, or was killed while an older version wrote its file in place."""
    try:
        with open(_result_file(folder, row, seed)) as file:
            return json.load(file)
    except (FileNotFoundError, json.JSONDecodeError):
        return None


# ---- the table ----

def write_table(folder: str, options: Options) -> Dict[str, object]:
    """Gather the results that there are into ``table.md`` and ``table.json``."""
    rows = []
    for row in TABLES[options.table]:
        results = [_result(folder, row, seed) for seed in range(options.seeds)]
        runs = [dict(result, seed=seed) for seed, result in enumerate(results) if result is not None]
        published = dict(published=row.published) if options.data_root else {}  # which is of COCO
        rows.append(dict(label=row.label, config=row.config, **published, runs=runs))
    table = dict(table=options.table, data='COCO' if options.data_root else 'shapes', seeds=options.seeds, rows=rows)
    for name, content in (('table.json', json.dumps(table, indent=1)), ('table.md', markdown(table))):
        write_text(os.path.join(folder, name), content + '\n')
    return table


def markdown(table: Dict[str, object]) -> str:
    """Mean and standard deviation over the seeds, in points; published figures only beside others of COCO."""
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
