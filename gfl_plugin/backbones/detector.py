"""A detector that tells its neck how many channels the backbone's maps have."""
from mmdet.models.detectors import SingleStageDetector as MMDetSingleStageDetector
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.utils import ConfigType, OptConfigType

from ..errors import SetupError
from ..registry import MODELS


@MODELS.register_module()
class SingleStageDetector(MMDetSingleStageDetector):
    """MMDetection's detector. If the config leaves ``in_channels`` of the neck open, they are read from the backbone.

    Args:
        backbone: Its type needs ``channels``, as :class:`TIMMBackbone` has, unless the neck has ``in_channels``.
        neck: ``in_channels`` may be None or missing.
        kwargs: MMDetection's other arguments.

    Raises:
        SetupError: The backbone has no ``channels``, or fewer levels than the neck's ``start_level``.
    """

    def __init__(self, backbone: ConfigType, neck: OptConfigType = None, **kwargs) -> None:
        if neck is None or neck.get('in_channels') is not None:
            super().__init__(backbone=backbone, neck=neck, **kwargs)
            return
        super().__init__(backbone=backbone, neck=None, **kwargs)
        channels = getattr(self.backbone, 'channels', None)
        if channels is None:
            raise SetupError(f'{type(self.backbone).__name__} has no attribute channels: set model.neck.in_channels')
        if len(channels) <= neck.get('start_level', 0):
            name = backbone.get('model_name', backbone['type'])
            raise SetupError(f'The backbone {name} gives {len(channels)} levels, and the neck {neck["type"]} starts '
                             f'from level {neck["start_level"]}, counted from 0')
        self.neck = MMDET_MODELS.build(dict(neck, in_channels=list(channels)))
