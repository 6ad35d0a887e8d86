"""What a training is told about its settings before it starts, and why it ran out of memory."""
import contextlib
from typing import Any, Iterator, List, Optional

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.registry import init_default_scope

from ..datasets.folder import read_data
from ..errors import RunError, SetupError
from .own_data import innermost

MOST_IMAGES = 300  # that are looked at for objects out of reach: some seconds


def advise(config: Config) -> List[str]:
    """Look for settings that do not fit the data or the batch size, and say what to do, in one line each."""
    return [line for line in (_advise_learning_rate(config), _advise_reach(config)) if line]


def _advise_learning_rate(config: Config) -> Optional[str]:
    """Name the learning rate of this batch size, by the linear rule, if the config says what its own is for."""
    auto = config.get('auto_scale_lr') or {}
    base, rate = auto.get('base_batch_size'), config.optim_wrapper.get('optimizer', {}).get('lr')
    images = config.train_dataloader.get('batch_size', 0) * get_world_size()
    if not (base and rate and images) or auto.get('enable') or images == base:
        return None
    return (f'The learning rate {rate:g} is for {base} images a batch, and this run has {images}: --auto-scale-lr '
            f'makes it {rate * images / base:g}')


def _advise_reach(config: Config) -> Optional[str]:
    """Warn of objects in a user's own data that are larger than the bins of the head reach at this image size."""
    dataset = innermost(config.train_dataloader.dataset)
    if dataset.get('type') != 'gfl_plugin.FolderDataset':
        return None
    from ..analysis import targets
    from .parts import build_head, read_resize
    init_default_scope(config.get('default_scope', 'mmdet'))
    content = read_data(dataset.path, dataset.val_share).splits[dataset.split].content
    some = content['images'][::-(-len(content['images']) // MOST_IMAGES)]
    try:
        head = build_head(config)
        images = targets.objects_of_content(dict(content, images=some))
        reach = targets.read_reach(head, images, read_resize(config, None))
    except SetupError:  # a head or an assigner of another kind
        return None
    numbers = targets.measure(reach, [stride[0] for stride in head.prior_generator.strides],
                              getattr(head.box, 'reg_max', None))
    return numbers['warning'] and (
        f'Some objects are too large: {numbers["warning"]} (--cfg-options model.bbox_head.reg_max='
        f'{numbers["recommended"]["reg_max"]}); so would a smaller --image-size')


@contextlib.contextmanager
def explaining_memory(config: Config, part: str) -> Iterator[None]:
    """Raise a RunError in place of PyTorch's error if a GPU's memory does not hold a batch.

    Args:
        config: Of the run.
        part: ``'train'`` or ``'test'``.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        batch_size: Any = config[f'{part}_dataloader'].get('batch_size', 1)
        advice = ('a smaller --batch-size or --image-size' if part == 'train' else
                  'a smaller --image-size, or --cfg-options test_dataloader.batch_size=1')
        raise RunError(f'The memory of the device does not hold a batch of {batch_size} images of this size. Take '
                       f'{advice}. {str(error).splitlines()[0]}') from error
