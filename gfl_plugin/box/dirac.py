"""Each side as a Dirac delta: one number (GFL, arXiv:2006.04388, figure 3)."""
from typing import Optional

import torch
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.utils import ConfigType
from torch import Tensor

from ..errors import SetupError
from ..functional.boxes import delta_to_box
from ..functional.priors import Priors
from ..registry import BOXES
from .base import Box


@BOXES.register_module()
class DiracDelta(Box):
    """Plain regression: the box is predicted relative to the box of its prior, as in ``mmdet.ATSSHead``.

    Args:
        bbox_coder: Its ``target_means``, ``target_stds`` and ``clip_border`` are used. The default standard deviations
            are those of MMDetection's ATSS.

    Raises:
        SetupError: ``bbox_coder`` limits how far a centre moves, which this box does not.
    """
    reg_layer, coder, channels = 'atss_reg', DeltaXYWHBBoxCoder, 4

    def __init__(self, bbox_coder: Optional[ConfigType] = None) -> None:
        super().__init__(bbox_coder or dict(type='mmdet.DeltaXYWHBBoxCoder', target_stds=(0.1, 0.1, 0.2, 0.2)))
        if self.bbox_coder.add_ctr_clamp:
            raise SetupError('box=DiracDelta does not limit how far a centre moves: set add_ctr_clamp=False')
        self.means, self.stds = torch.tensor(self.bbox_coder.means), torch.tensor(self.bbox_coder.stds)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        means, stds = (x.to(raw.device, non_blocking=True) for x in (self.means, self.stds))
        return delta_to_box(priors.boxes(), raw * stds + means)
