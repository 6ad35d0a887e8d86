"""What a run wrote about its training: curves, and whether it was still learning."""
import glob
import json
import math
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

MOST_POINTS = 1000  # of a curve
RISE = 0.01  # of AP over the last third of the validations: less counts as settled
FALL = 0.02  # of AP from its best: less counts as noise
LEAST_VALIDATIONS = 3
RULE = (f'Improving: the best AP is that of the last validation, and grew by more than {RISE:g} over the last third of '
        f'the validations. Overfitted: AP fell by more than {FALL:g} from its best, while the training loss went on '
        f'falling. Settled: neither. Unknown: fewer than {LEAST_VALIDATIONS} validations.')


class History(NamedTuple):
    """What was logged, in the order of the training.

    Attributes:
        iterations: ``step``, ``epoch``, ``lr`` and the losses of each logged iteration.
        validations: ``step`` as logged (an epoch, or an iteration if the run counts iterations), ``iteration``, the
            last logged one before it, and the metrics by their names.
    """
    iterations: List[Dict[str, Any]]
    validations: List[Dict[str, Any]]


def log_files(folder: str) -> List[str]:
    """The files of scalars of a run, one for each of its starts, in their order."""
    return sorted(glob.glob(os.path.join(glob.escape(folder), '*', 'vis_data', 'scalars.json')))


def read_history(folder: str) -> Optional[History]:
    """Join what all starts of a run have logged; None if they have logged nothing.

    Where a run was resumed before its last logged iteration, the later start counts.
    """
    history = History([], [])
    for path in log_files(folder):
        _append(history, _read_lines(path))
    return history if history.iterations or history.validations else None


def _append(history: History, lines: Iterator[Dict[str, Any]]) -> None:
    """Append the lines of one start, and drop what earlier starts logged from its first iteration on."""
    is_first = True
    for line in lines:
        metrics = {name.rpartition('bbox_')[2]: value for name, value in line.items() if 'bbox_' in name
                   and not name.startswith('loss')}
        if 'mAP' in metrics:
            last = history.iterations[-1]['step'] if history.iterations else 0
            metrics = {name: None if value == -1 else value for name, value in metrics.items()}
            history.validations[:] = [one for one in history.validations if one['step'] != line['step']]
            history.validations.append(dict(metrics, step=line['step'], iteration=last))
        elif 'loss' in line:
            if is_first:
                history.iterations[:] = [one for one in history.iterations if one['step'] < line['step']]
                history.validations[:] = [one for one in history.validations if one['iteration'] < line['step']]
                is_first = False
            history.iterations.append({name: value for name, value in line.items()
                                       if name in ('step', 'epoch', 'lr') or name.startswith('loss')})


def _read_lines(path: str) -> Iterator[Dict[str, Any]]:
    """Yield the lines that are whole and have a step. A run that was killed may have written half a line."""
    with open(path, encoding='utf-8', errors='replace') as file:
        for text in file:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and isinstance(line.get('step'), int):
                yield {name: value if _is_number(value) else None for name, value in line.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


# ---- curves ----

def draw_curves(history: History) -> Dict[str, Any]:
    """The curves as columns. Each point of a long curve is the mean of equally many logged iterations."""
    size = max(math.ceil(len(history.iterations) / MOST_POINTS), 1)
    groups = [history.iterations[start:start + size] for start in range(0, len(history.iterations), size)]
    last = [group[-1] for group in groups]
    names = dict.fromkeys(name for one in history.iterations for name in one if name.startswith('loss'))
    step, epoch = [one['step'] for one in last], [one.get('epoch') for one in last]
    # A run that counts iterations logs no epochs, and the step of a validation is an iteration.
    unit = 'epoch' if any(value is not None for value in epoch) or not step else 'iteration'
    validations = history.validations
    return dict(
        loss=dict(iteration=step, epoch=epoch, **{name: [_mean(group, name) for group in groups] for name in names}),
        lr=dict(iteration=step, lr=[one.get('lr') for one in last]),
        val=dict(unit=unit, epoch=[one['step'] for one in validations],
                 iteration=[one['iteration'] for one in validations],
                 **{name: [one.get(name) for one in validations] for name in ('mAP', 'mAP_50', 'mAP_75')}),
        val_loss=None,
        thinning=f'Each point of the losses is the mean of {size} logged values' if size > 1 else None)


def _mean(lines: Sequence[Dict[str, Any]], name: str) -> Optional[float]:
    values = [line[name] for line in lines if line.get(name) is not None]
    return sum(values) / len(values) if values else None


# ---- verdict ----

def judge(history: Optional[History]) -> Dict[str, str]:
    """Say whether the training was still learning, by :data:`RULE`."""
    kind, sentence = _judge(history)
    return dict(kind=kind, sentence=sentence, rule=RULE)


def _judge(history: Optional[History]) -> Sequence[str]:
    if history is None:
        return 'unknown', 'There is no log of a training here, so it is unknown whether training longer would help.'
    validated = [one for one in history.validations if one['mAP'] is not None]
    count = len(validated)
    if count < LEAST_VALIDATIONS:
        times = ('never validated', 'validated once', 'validated twice')[count]
        return 'unknown', (f'The run was {times}. It takes {LEAST_VALIDATIONS} validations to see whether '
                           'training longer would help.')
    aps = [one['mAP'] for one in validated]
    best, unit = aps.index(max(aps)), 'epoch' if any('epoch' in one for one in history.iterations) else 'iteration'
    at_best, at_last = (f'{aps[index]:.3f} after {unit} {validated[index]["step"]}' for index in (best, -1))
    earlier = -1 - max(round(count / 3), 1)
    rise, fall = aps[-1] - aps[earlier], aps[best] - aps[-1]
    if best == count - 1 and rise > RISE:
        return 'improving', (f'AP was still rising when the training ended: {at_last}, up {rise:.3f} since {unit} '
                             f'{validated[earlier]["step"]}. Training longer should help.')
    if fall <= FALL:
        return 'settled', f'AP has settled: its best is {at_best}, its last {at_last}. Training longer would not help.'
    if _loss_fell(history, validated[best], validated[-1]):
        return 'overfitted', (f'AP fell from {at_best} to {at_last}, while the training loss went on falling: the '
                              'model learnt the training images by heart. Train for less time, or on more images.')
    return 'settled', (f'AP fell from {at_best} to {at_last}, and the training loss did not go on falling, so this is '
                       'no overfitting. A lower learning rate may help.')


def _loss_fell(history: History, best: Dict[str, Any], last: Dict[str, Any]) -> bool:
    """Whether the mean loss between the two last validations is below the mean loss before the best one."""
    at_best, at_last = (_mean_loss_before(history, one) for one in (best, last))
    return at_best is not None and at_last is not None and at_last < at_best


def _mean_loss_before(history: History, validation: Dict[str, Any]) -> Optional[float]:
    """The mean loss between a validation and the one before it."""
    start = max((one['iteration'] for one in history.validations if one['iteration'] < validation['iteration']),
                default=0)
    return _mean([one for one in history.iterations if start < one['step'] <= validation['iteration']], 'loss')
