"""Parts of a config that a study looks at: its head, and how it resizes images."""
import copy
from typing import List, Optional, Sequence

from mmengine.config import Config, ConfigDict

from ..errors import SetupError
from .own_data import innermost


def build_head(config: Config, strides: Optional[Sequence[float]] = None, octave_base_scale: Optional[int] = None):
    """Build the head of a config alone, with the priors of the arguments where they are given."""
    from mmdet.registry import MODELS
    settings = copy.deepcopy(own_head(config))
    settings.update(train_cfg=config.model.get('train_cfg'), test_cfg=config.model.get('test_cfg'))
    asked = dict(strides=strides, octave_base_scale=octave_base_scale)
    settings.anchor_generator.update({name: value for name, value in asked.items() if value})
    try:
        return MODELS.build(settings)
    except ValueError as error:
        raise SetupError(f'The config does not give a head: {error}') from error


def own_head(config: Config) -> ConfigDict:
    head = config.model.get('bbox_head') or {}
    if head.get('type') not in ('gfl_plugin.GFLHead', 'gfl_plugin.GFLV2Head'):
        raise SetupError(f'The studies are of gfl_plugin.GFLHead, and model.bbox_head is {head.get("type")!r}; any GFL '
                         'config works with it as the only change')
    return head


def read_resize(config: Config, scale: Optional[List[str]]):
    """What ``--scale`` asks for, or what the config's test pipeline does."""
    from ..analysis.targets import Resize
    divisor = config.model.get('data_preprocessor', {}).get('pad_size_divisor', 1)
    if scale:
        if scale != ['none'] and not (len(scale) == 2 and all(side.isdigit() and int(side) for side in scale)):
            raise SetupError(f'--scale is two numbers of pixels, or none, and not {" ".join(scale)}')
        return Resize(None if scale == ['none'] else (int(scale[0]), int(scale[1])), True, divisor)
    for transform in innermost(config.test_dataloader.dataset).pipeline:
        name = transform['type'].rpartition('.')[2]
        if name == 'Resize' and 'scale' in transform:
            return Resize(tuple(transform['scale']), transform.get('keep_ratio', False), divisor)
        if 'Resize' in name:
            raise SetupError(f'How the test pipeline resizes is not known here ({name}): say --scale W H, or none')
    return Resize(None, True, divisor)
