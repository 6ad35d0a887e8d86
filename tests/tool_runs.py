"""Run the tools as a user would, in this process or another, on a set of shapes that is small enough for tests."""
import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Dict, Optional, Sequence
from unittest import mock

ROOT = Path(__file__).parent.parent
SMALL = ['model.backbone.base_channels=8', 'model.neck.in_channels=[8,16,32,64]', 'model.neck.out_channels=16',
         'model.bbox_head.in_channels=16', 'model.bbox_head.feat_channels=16', 'model.bbox_head.norm_cfg.num_groups=4',
         'train_dataloader.dataset.num_images=16', 'train_dataloader.dataset.image_size=64',
         'train_dataloader.batch_size=4', 'val_dataloader.dataset.num_images=4', 'val_dataloader.dataset.image_size=64',
         'test_dataloader.dataset.num_images=4', 'test_dataloader.dataset.image_size=64', 'train_cfg.max_epochs=2',
         'train_cfg.val_interval=1', 'model.test_cfg.score_thr=0.0', 'default_hooks.logger.interval=1',
         'default_hooks.checkpoint.interval=1']
# A network of some thousand weights: what is tested is what happens around it.
TINY = ['model.backbone.base_channels=4', 'model.neck.in_channels=[4,8,16,32]', 'model.neck.out_channels=8',
        'model.bbox_head.in_channels=8', 'model.bbox_head.feat_channels=8', 'model.bbox_head.norm_cfg.num_groups=2',
        'model.test_cfg.score_thr=0.0', 'default_hooks.logger.interval=1']
SHAPES = str(ROOT / 'configs/demo/gfl_r18_fpn_shapes.py')


def parse(tool: str, *arguments: str):
    """Parse the command line of a tool."""
    path = [str(ROOT / 'tools'), *sys.path]
    with mock.patch.object(sys, 'argv', [tool, *arguments]), mock.patch.object(sys, 'path', path):
        sys.modules.pop(tool, None)
        return importlib.import_module(tool).parse_options()


def on_shapes(tool: str, data: Path, *arguments: str, settings: Sequence[str] = ()):
    """Parse the command line of a small run on shapes in the folder ``data``."""
    return parse(tool, SHAPES, *arguments, '--data-root', str(data), '--cfg-options', *SMALL, *settings,
                 f'experiment_name={tool}_{os.urandom(4).hex()}')


def run(*command: str, cwd: Path = ROOT, timeout: Optional[float] = None) -> subprocess.CompletedProcess:
    """Run a command of the README with this Python."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True,
                          timeout=timeout)


def scalars(work_dir: Path) -> Dict[int, dict]:
    """Read the logged scalars of all runs in a work_dir, by step. If a step was run twice, the later one counts."""
    lines = [json.loads(line) for file in sorted(work_dir.glob('*/vis_data/scalars.json'))
             for line in file.read_text().splitlines()]
    return {line['step']: line for line in lines if 'loss' in line}


def log(work_dir: Path) -> str:
    """Read the logs of all runs in a work_dir."""
    return '\n'.join(file.read_text() for file in sorted(work_dir.glob('*/*.log')))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def on_ranks(count: int, data: Path, *arguments: str, settings: Sequence[str] = (), config: str = SHAPES,
             cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Train on shapes with several ranks, by ``tools/dist_train.sh``."""
    environment = dict(os.environ, PYTHONPATH=f'{ROOT}:{ROOT / "tests"}', OMP_NUM_THREADS='1', PORT=str(free_port()),
                       PYTHON=sys.executable, **environment)
    command = ['bash', str(ROOT / 'tools/dist_train.sh'), config, str(count), *arguments, '--data-root', str(data),
               '--cfg-options', *SMALL, *settings]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
