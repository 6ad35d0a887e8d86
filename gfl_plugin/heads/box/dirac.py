"""A box as four numbers, each a Dirac delta (GFL, arXiv:2006.04388, figure 3)."""
from mmdet.utils import ConfigType
from torch import Tensor

from ...functional.priors import Priors
from ...registry import BOXES
from .base import Box


@BOXES.register_module()
class DiracDelta(Box):
    """Plain regression: how the box lies to the box of its prior, as in ``mmdet.ATSSHead``.

    Args:
        bbox_coder: Decodes deltas; the standard deviations are those of MMDetection's ATSS.
    """
    reg_layer, channels = 'atss_reg', 4

    def __init__(self, bbox_coder: ConfigType = dict(type='gfl_plugin.DeltaXYWHBBoxCoder',
                                                     target_stds=(0.1, 0.1, 0.2, 0.2))) -> None:
        super().__init__(bbox_coder)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        return self.bbox_coder.decode(priors.boxes(), raw)
