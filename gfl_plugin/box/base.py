"""What the head asks of a box."""
from typing import Dict, Optional, Tuple

from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from mmdet.registry import TASK_UTILS
from mmdet.utils import ConfigType
from torch import Tensor, nn

from ..errors import SetupError
from ..functional.priors import Priors
from ..matches import Positives
from ..registry import TASK_UTILS as OWN_TASK_UTILS

# Boxes take the settings of MMDetection's coders; configs may name these in the plugin's scope, too.
for coder in (DeltaXYWHBBoxCoder, DistancePointBBoxCoder):
    OWN_TASK_UTILS.register_module(module=coder)


class Box(nn.Module):
    """What the D numbers that a prior predicts mean for its box.

    A subclass gives ``channels`` and :meth:`decode`.

    Args:
        bbox_coder: Config of MMDetection's coder. The box decodes by itself; it takes the coder's settings, such as
            ``clip_border``: whether detections are cut to the image.

    Attributes:
        reg_layer: Name of the layer that predicts the box maps. It is in checkpoints.
        channels: D.
        coder: Type of coder whose settings the box takes.

    Raises:
        SetupError: ``bbox_coder`` is of another type.
    """
    reg_layer, coder = 'gfl_reg', DistancePointBBoxCoder
    channels: int

    def __init__(self, bbox_coder: Optional[ConfigType] = None) -> None:
        super().__init__()
        self.bbox_coder = TASK_UTILS.build(bbox_coder or dict(type=self.coder))
        given = type(self.bbox_coder)
        if given is not self.coder:
            raise SetupError(f'box={type(self).__name__} decodes as {self.coder.__name__} does, and not as '
                             f'bbox_coder={given.__name__}: leave that out, or use another box')

    def layers(self, channels: int) -> Dict[str, nn.Module]:
        """The layers that :meth:`maps` uses. The head registers them, so these names are in checkpoints."""
        return {self.reg_layer: nn.Conv2d(channels, self.channels, 3, padding=1)}

    def maps(self, head: nn.Module, reg_feat: Tensor) -> Tensor:
        """(B, D, H, W) of one level, before the learnt scale of the level.

        Args:
            head: Has the layers of :meth:`layers` as attributes.
            reg_feat: (B, channels, H, W) features of the regression tower.
        """
        return getattr(head, self.reg_layer)(reg_feat)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """(K, 4) boxes from what K priors predict, (K, D), in the unit of the priors."""
        raise NotImplementedError

    def detect(self, raw: Tensor, priors: Priors) -> Tensor:
        """(K, 4) boxes of detections. A subclass may decode them in another way than in training."""
        return self.decode(raw, priors)

    def spread(self, raw: Tensor, priors: Priors) -> Optional[Tensor]:
        """(K, 4) standard deviation of the left, top, right and bottom side, in the unit of the priors.

        ``None`` if the box predicts no distribution.
        """
        return None

    def distribution(self, raw: Tensor, priors: Priors) -> Optional[Tuple[Tensor, Tensor]]:
        """Where each side may be, and how probable each place is.

        Returns:
            Places (K, 4, n+1), x of the left and right side and y of the top and bottom side, in the unit of the
            priors; and their probabilities (K, 4, n+1). ``None`` if the box predicts no distribution.
        """
        return None

    def losses(self, pos: Positives, weight: Tensor, norm: Tensor) -> Dict[str, Tensor]:
        """Named scalar losses beside the loss of the decoded box.

        Args:
            pos: The K positives.
            weight: (K,) how much each positive counts, 0 at invalid slots.
            norm: Scalar to divide by.
        """
        return {}
