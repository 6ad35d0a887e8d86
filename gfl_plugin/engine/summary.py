"""What a training or a test ends with on the screen: AP, the AP of each class, and what to do next."""
import math
import os
import shlex
import sys
from typing import Dict, List, Optional

from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator

from ..datasets.annotations import printable
from ..evaluation import CocoMetric
from ..evaluation.matching import OperatingPoint
from .config import Options
from .run import test, train
from .runner import Runner
from .start import named_last

SCORES = dict(AP='mAP', AP50='mAP_50', AP75='mAP_75', small='mAP_s', medium='mAP_m', large='mAP_l')


def train_and_report(options: Options) -> Runner:
    """Train as ``tools/train.py`` says, and print a summary."""
    runner = train(options)
    _print(summarize_training(runner), runner)
    return runner


def test_and_report(options: Options) -> None:
    """Evaluate as ``tools/test.py`` says, and print a summary."""
    runner, metrics = test(options)
    _print('\n'.join(_list_scores('Test', runner.test_loop.evaluator, metrics)), runner)


def summarize_training(runner: Runner) -> str:
    """Describe the last validation, and name the best checkpoint and the commands that test it and predict with it."""
    hub, lines = runner.message_hub, []
    if runner.val_loop is not None:
        scores = {name[len('val/'):]: history.current() for name, history in hub.log_scalars.items()
                  if name.startswith('val/')}
        lines = _list_scores(f'Validation after epoch {runner.epoch}', runner.val_loop.evaluator, scores)
    best: Optional[str] = hub.runtime_info.get('best_ckpt')
    checkpoint = best or named_last(runner.work_dir)
    if checkpoint is None:
        return '\n'.join(lines)
    score = f' (AP {hub.get_info("best_score"):.3f})' if best else ''
    config = os.path.join(runner.work_dir, os.path.basename(runner.cfg.filename))  # it has all options of this run
    return '\n'.join([*lines, f'{"Best" if best else "Last"} checkpoint: {_shorten(checkpoint)}{score}',
                      f'To test it: {_command("test", _shorten(config), _shorten(checkpoint))}',
                      f'To predict with it: {_command("predict", _shorten(checkpoint))} IMAGES'])


def _command(tool: str, *options: str) -> str:
    """How to start a tool, in the way in which this run was started."""
    start = ['gfl', tool] if sys.argv[0].startswith('gfl ') else ['python', f'tools/{tool}.py']
    return shlex.join([*start, *options])


def _list_scores(title: str, evaluator: Evaluator, scores: Dict[str, float]) -> List[str]:
    """Lines with the scores, the best F1 and the AP of each class; none if the evaluation was not of boxes."""
    lines: List[str] = []
    for metric in evaluator.metrics:
        found = {name: scores.get(f'{metric.prefix}/bbox_{key}') for name, key in SCORES.items()}
        if found['AP'] is not None:
            lines.append(f'{title}: ' + ', '.join(f'{name} {score:.3f}' for name, score in found.items()
                                                  if score is not None and score >= 0))  # -1: there are no such objects
            if isinstance(metric, CocoMetric):
                lines += [*_list_best_f1(metric.best_f1), *_list_classes(metric.class_precision)]
    return lines


def _list_best_f1(best: Optional[OperatingPoint]) -> List[str]:
    return [] if best is None else [f'Best F1 {best.f1:.2f} at score >= {best.score_thr:.2f}']


def _list_classes(precision: Dict[str, float]) -> List[str]:
    names = [printable(name, 40) for name in precision]
    width = max(map(len, names), default=0)
    return [f'  {name.ljust(width)}  ' + ('no objects' if math.isnan(score) else f'{score:.3f}')
            for name, score in zip(names, precision.values())]


def _shorten(path: str) -> str:
    """A path relative to the current folder if it lies in there."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _print(text: str, runner: Runner) -> None:
    if text and is_main_process():
        print(f'\n{text}', flush=True)
        runner.log_to_file(text)
