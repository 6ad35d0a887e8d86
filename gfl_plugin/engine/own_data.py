"""``--data PATH``: put a user's own data set in the place of a config's."""
from typing import Any, Dict, Iterator, Optional

from mmengine.config import Config, ConfigDict

from ..datasets.folder import read_data
from ..datasets.layouts import describe
from ..errors import SetupError
from .config import visit

SPLITS = dict(train='train', val='val', test='val')  # of the data, by the config's loaders
KEPT = ('pipeline', 'filter_cfg', 'test_mode', 'serialize_data', 'max_refetch', 'max_unreadable', 'lazy_init')
METRICS = ('CocoMetric', 'FolderMetric')


def set_data(config: Config, path: str, val_share: float) -> str:
    """Train and evaluate a config on a data set in COCO, YOLO or Pascal VOC layout, with as many classes as that has.

    Pipelines, batch sizes and samplers stay.

    Returns:
        What was found, as a table.

    Raises:
        SetupError: As ``find_layout``, or the config combines data sets or metrics that cannot be replaced.
    """
    data = read_data(path, val_share)
    for part, split in SPLITS.items():
        source = dict(path=data.root, split=split, val_share=val_share)
        if config.get(f'{part}_dataloader'):
            _replace_dataset(config[f'{part}_dataloader'], source, data.classes, part)
        for metric in _metrics(config.get(f'{part}_evaluator')):
            _replace_metric(metric, source, part)
    for name, part in config.model.items():
        if name.endswith('head') and name != 'rpn_head':  # a region proposal network tells objects from background
            visit(part, lambda node: node.update(num_classes=len(data.classes)) if 'num_classes' in node else None)
    is_resized = resize_in_training(config)
    _keep_best(config)
    config.fit_schedule = True  # gfl_plugin.engine.runner does it, when it knows the number of batches
    remark = '\nTraining resizes images as the test does, since the config does not' if is_resized else ''
    return describe(data) + remark


# ---- data sets ----

def innermost(dataset: ConfigDict) -> ConfigDict:
    """The data set inside its wrappers."""
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset


def _replace_dataset(loader: ConfigDict, source: Dict[str, Any], classes: tuple, part: str) -> None:
    dataset = innermost(loader.dataset)
    if 'datasets' in dataset:
        raise SetupError(f'--data takes the place of one data set, and the {part}_dataloader of this config joins '
                         f'{len(dataset.datasets)}')
    kept = {key: dataset[key] for key in KEPT if key in dataset}
    dataset.clear()
    dataset.update(type='gfl_plugin.FolderDataset', **source, metainfo=dict(classes=classes), **kept)


def resize_in_training(config: Config) -> bool:
    """Resize in training as in the test if the config does not: its own images may have the right size already.

    Returns:
        Whether that was needed.
    """
    train, test = (innermost(config[f'{part}_dataloader'].dataset).get('pipeline') for part in ('train', 'test'))
    resize = next((transform for transform in test or () if transform['type'].endswith('Resize')), None)
    if not train or resize is None or any(_sets_size(transform) for transform in train):
        return False
    last_load = max(index for index, transform in enumerate(train) if 'Load' in transform['type'])
    train.insert(last_load + 1, ConfigDict(resize))
    return True


def _sets_size(transform: ConfigDict) -> bool:
    return 'Resize' in transform['type'] or any(key in transform for key in ('crop_size', 'img_scale'))


# ---- metrics ----

def _metrics(evaluator: Any) -> Iterator[ConfigDict]:
    """The settings of the metrics of an evaluator, which is one of them, a list, or a dict with the list."""
    if isinstance(evaluator, dict):
        yield from [evaluator] if 'metrics' not in evaluator else _metrics(evaluator.metrics)
    else:
        yield from evaluator or ()


def _replace_metric(metric: ConfigDict, source: Dict[str, Any], part: str) -> None:
    kind = metric.type.rpartition('.')[2]
    if kind in METRICS:
        metric.pop('ann_file', None)
        metric.update(type='gfl_plugin.FolderMetric', **source)
    elif 'ann_file' in metric:
        raise SetupError(f'--data does not know how to let {metric.type} of {part}_evaluator read other data: it knows '
                         'gfl_plugin.CocoMetric')


def _keep_best(config: Config) -> None:
    """Keep the checkpoint of the best AP, unless the config says what to keep."""
    prefix: Optional[str] = next((metric.get('prefix') or 'coco' for metric in _metrics(config.get('val_evaluator'))
                                  if metric.type == 'gfl_plugin.FolderMetric'), None)
    checkpoint = config.get('default_hooks', {}).get('checkpoint')
    if prefix and checkpoint is not None and 'save_best' not in checkpoint:
        checkpoint.update(save_best=f'{prefix}/bbox_mAP', rule='greater')
