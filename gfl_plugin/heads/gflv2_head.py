"""GFLv2 under its own name, for configs that change only ``type``."""
from mmdet.utils import OptConfigType

from ..registry import MODELS
from .gfl_head import GFLHead


@MODELS.register_module()
class GFLV2Head(GFLHead):
    """:class:`GFLHead` with the quality ``DistributionGuidedQuality`` (arXiv:2011.12885).

    Args:
        args, kwargs: Arguments of :class:`GFLHead`, without ``quality``.
        loss_cls, reg_topk, reg_channels, add_mean: Arguments of the quality.
    """

    def __init__(self, *args, loss_cls: OptConfigType = None, reg_topk: int = 4, reg_channels: int = 64,
                 add_mean: bool = True, **kwargs) -> None:
        quality = dict(reg_topk=reg_topk, reg_channels=reg_channels, add_mean=add_mean)
        if loss_cls is not None:
            quality['loss_cls'] = loss_cls
        super().__init__(*args, quality=dict(type='DistributionGuidedQuality', **quality), **kwargs)
