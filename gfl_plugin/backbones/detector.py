"""A detector that tells its neck what its backbone gives."""
from mmdet.models.detectors import SingleStageDetector as MMDetSingleStageDetector
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.utils import ConfigType, OptConfigType

from ..errors import SetupError
from ..registry import MODELS


@MODELS.register_module()
class SingleStageDetector(MMDetSingleStageDetector):
    """MMDetection's, with ``in_channels`` of the neck read from the backbone where the config leaves them open.

    Args:
        backbone: Of a type with ``channels``, as :class:`TIMMBackbone`, unless the neck has its ``in_channels``.
        neck: With ``in_channels=None`` or none.
        kwargs: Of MMDetection's.

    Raises:
        SetupError: The backbone does not tell, or gives fewer levels than the neck starts from.
    """

    def __init__(self, backbone: ConfigType, neck: OptConfigType = None, **kwargs) -> None:
        if neck is None or neck.get('in_channels') is not None:
            super().__init__(backbone=backbone, neck=neck, **kwargs)
            return
        super().__init__(backbone=backbone, neck=None, **kwargs)
        channels = getattr(self.backbone, 'channels', None)
        if channels is None:
            raise SetupError(f'{type(self.backbone).__name__} does not tell its channels: set model.neck.in_channels')
        if len(channels) <= neck.get('start_level', 0):
            name = backbone.get('model_name', backbone['type'])
            raise SetupError(f'the backbone {name} gives {len(channels)} levels, and the neck {neck["type"]} starts '
                             f'from level {neck["start_level"]}, counted from 0')
        self.neck = MMDET_MODELS.build(dict(neck, in_channels=list(channels)))
