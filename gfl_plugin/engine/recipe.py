"""``--epochs``, ``--batch-size`` and ``--image-size``: change a setting of a config, and what depends on it."""
from typing import Any, Callable, Dict, Iterator, List, Sequence

from mmengine.config import Config, ConfigDict

from ..errors import SetupError
from .config import Options, is_first_rank, visit
from .own_data import innermost, resize_in_training, set_data

MOMENTS = ('begin', 'end', 'T_max', 'step_size', 'total_steps', 'milestones', 'periods')  # of a schedule
SIZES = ('scale', 'scales', 'crop_size', 'img_scale', 'size')  # of a transform, in pixels
WARM_UPS = ('LinearLR', 'ConstantLR')
VAL_SHARE = 0.2  # of the training images, if there are no others to validate on
MOST_WARM_UP = 0.1  # of a training
LEAST = 2  # of any moment: MMEngine never ends a warm-up of one step
INF = float('inf')


def adapt_config(config: Config, options: Options) -> List[str]:
    """Apply ``--data``, ``--val-share``, ``--epochs``, ``--batch-size`` and ``--image-size``, and print what that does.

    Returns:
        What was printed.

    Raises:
        SetupError: Two options contradict each other, the data are unusable, or the config has nothing to change.
    """
    asked = {name: value for name, value in vars(options).items() if value is not None}
    if 'data' in asked and 'data_root' in asked:
        raise SetupError('--data and --data-root both say where the data are. --data finds out how a folder is laid '
                         'out; --data-root is for data that are laid out as the config says')
    if 'val_share' in asked and 'data' not in asked:
        raise SetupError('--val-share is the share of the images of --data that are held out, and there is no --data')
    said = []
    if 'data' in asked:
        said.append(set_data(config, asked['data'], asked.get('val_share', VAL_SHARE)))
    for name, change in dict(epochs=set_epochs, batch_size=set_batch_size, image_size=set_image_size).items():
        if name in asked:
            said.append(change(config, asked[name]))
    say(config, said)
    return said


def say(config: Config, lines: List[str]) -> None:
    """Print lines on the first rank. There is no log yet."""
    if lines and is_first_rank(config):
        print(*lines, sep='\n', flush=True)


# ---- epochs and batches ----

def set_epochs(config: Config, epochs: int) -> str:
    """Train for another number of epochs; the schedule and the intervals of validations and checkpoints follow.

    Returns:
        What was done, in one line.

    Raises:
        SetupError: The config counts iterations.
    """
    old = config.train_cfg.get('max_epochs')
    if old is None:
        raise SetupError('--epochs needs a config that counts epochs, and the train_cfg of this one has no max_epochs')
    factor = epochs / old
    config.train_cfg.max_epochs = epochs
    for schedule in _schedules(config.get('param_scheduler')):
        if schedule.get('by_epoch', True):
            _scale_moments(schedule, factor)
    checkpoint = config.get('default_hooks', {}).get('checkpoint', {})
    for node, key in ((config.train_cfg, 'val_interval'), (checkpoint, 'interval')):
        if node.get(key, 1) > 1:
            node[key] = max(round(node[key] * factor), 1)
    config.fit_schedule = True
    return f'--epochs {epochs} instead of {old}: the schedule and the intervals of validations and checkpoints follow'


def set_batch_size(config: Config, batch_size: int) -> str:
    """Train with another number of images per device and batch; what the schedule counts in iterations follows.

    Returns:
        What was done, in one line.
    """
    old = config.train_dataloader.batch_size
    config.train_dataloader.batch_size = batch_size
    if 'base_batch_size' not in config.get('auto_scale_lr', {}):  # its learning rate is for this batch on one device
        config.auto_scale_lr = dict(enable=False, base_batch_size=old)
    config.fit_schedule = True
    return f'--batch-size {batch_size} instead of {old} per device'


def fit_schedule(param_scheduler: Any, iterations: int, epoch_length: int) -> str:
    """Stretch what a schedule counts in iterations to the length of the training, in place.

    A schedule in iterations is taken to end with the training. If only a warm-up is counted in iterations, it keeps its
    length, up to a tenth of the training. Epochs that MMEngine would convert to iterations are converted.

    Args:
        param_scheduler: The config's.
        iterations: Of the training.
        epoch_length: Iterations per epoch.

    Returns:
        What was done, in one line; empty if nothing was.
    """
    every = list(_schedules(param_scheduler))
    counted = [schedule for schedule in every if not schedule.get('by_epoch', True) and schedule.get('end', INF) < INF]
    planned = max((schedule.end for schedule in counted), default=0)
    has_main = not all(map(_is_warm_up, counted))
    limit = iterations if has_main else min(planned, max(round(MOST_WARM_UP * iterations), LEAST))
    for schedule in counted if limit != planned else ():
        _scale_moments(schedule, limit / planned)
    for schedule in every:
        if schedule.pop('convert_to_iter_based', False):
            schedule.by_epoch = False
            _scale_moments(schedule, epoch_length)
    return '' if limit == planned else (
        f'The training has {iterations:,} iterations: what the schedule counts in iterations ends after {limit:,} '
        f'instead of {planned:,}')


def _is_warm_up(schedule: ConfigDict) -> bool:
    return schedule.type in WARM_UPS and not schedule.get('begin')


def _schedules(node: Any) -> Iterator[ConfigDict]:
    """Each schedule of a ``param_scheduler``: one, a list, or several by the name of their optimizer."""
    found: List[ConfigDict] = []
    visit(node, lambda schedule: found.append(schedule) if 'type' in schedule else None)
    yield from found


def _scale_moments(schedule: ConfigDict, factor: float) -> None:
    """Stretch a schedule. Its moments stay whole, unless MMEngine, or ``fit_schedule``, will convert epochs."""
    spans_all = 'end' in schedule and schedule.get('T_max') == schedule.end - schedule.get('begin', 0)

    def scale(moment: float) -> float:
        if moment == INF or schedule.get('convert_to_iter_based'):
            return moment * factor
        return max(round(moment * factor), LEAST) if moment else 0

    for key in MOMENTS:
        if isinstance(schedule.get(key), (list, tuple)):
            schedule[key] = list(map(scale, schedule[key]))
        elif schedule.get(key):
            schedule[key] = scale(schedule[key])
    if 'end' in schedule and schedule.end <= schedule.get('begin', 0):
        schedule.end = schedule.begin + 1  # it begins when the training is over
    if spans_all:  # both ends are rounded, and the whole curve should still lie between them
        schedule.T_max = schedule.end - schedule.get('begin', 0)


# ---- image size ----

def set_image_size(config: Config, size: int) -> str:
    """Resize images into a square of ``size`` pixels instead of into the scale of the test pipeline.

    Scales of training keep their proportion to that of the test, by their shorter sides.

    Returns:
        What was done, in one line.

    Raises:
        SetupError: The test pipeline has no Resize with a scale.
    """
    test = innermost(config.test_dataloader.dataset).get('pipeline') or ()
    old = next((transform.scale for transform in test if transform['type'].endswith('Resize') and 'scale' in transform),
               None)
    if old is None:
        raise SetupError('--image-size needs a config whose test pipeline has a Resize with a scale')
    old = (old, old) if isinstance(old, int) else tuple(old)

    def scale(pair: Sequence[int]) -> tuple:
        return (round(size * min(pair) / min(old)), ) * 2

    resize_in_training(config)
    for transform in _transforms(config):
        for key in SIZES:
            if key in transform:
                transform[key] = _map_pairs(transform[key], scale)
    return f'--image-size {size}: images are resized into {size} x {size} pixels instead of {old[0]} x {old[1]}'


def _transforms(config: Config) -> List[ConfigDict]:
    """Every transform of the config's pipelines, once: loaders may share them."""
    found: Dict[int, ConfigDict] = {}
    pipelines: List[Any] = [config.get('tta_pipeline')]
    for part in ('train', 'val', 'test'):
        visit(config.get(f'{part}_dataloader'), lambda node: pipelines.append(node.get('pipeline')))
    visit(pipelines, lambda transform: found.setdefault(id(transform), transform))
    return list(found.values())


def _map_pairs(value: Any, function: Callable[[Sequence[int]], tuple]) -> Any:
    """Call a function on each pair of whole numbers in a value, and on a single number as a pair of equal ones."""
    if isinstance(value, int):
        return function((value, value))[0]
    if not isinstance(value, (list, tuple)) or any(isinstance(each, float) for each in value):  # a share of the image
        return value
    if all(isinstance(side, int) for side in value):
        return function(value) if len(value) == 2 else value
    return [_map_pairs(each, function) for each in value]
