"""What the head asks of a kind of box."""
from typing import Dict

from mmdet.registry import TASK_UTILS
from mmdet.utils import ConfigType
from torch import Tensor, nn

from ...functional.priors import Priors
from ...targets import Positives


class Box(nn.Module):
    """What the D numbers a prior predicts say about its box.

    A kind names its layer, says how many numbers it predicts and decodes them.

    Attributes:
        reg_layer: Name, in the head, of the convolution of the box maps: it is in checkpoints.
        channels: D.
        bbox_coder: What turns four numbers and a prior into a box; its ``clip_border`` says whether detections are cut
            to the image.
    """
    reg_layer = 'gfl_reg'
    channels: int

    def __init__(self, bbox_coder: ConfigType) -> None:
        super().__init__()
        self.bbox_coder = TASK_UTILS.build(bbox_coder)

    def layers(self, channels: int) -> Dict[str, nn.Module]:
        """What the head registers under these names."""
        return {self.reg_layer: nn.Conv2d(channels, self.channels, 3, padding=1)}

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """(K, 4) boxes, in the unit of the priors, from what they predict, (K, D)."""
        raise NotImplementedError

    def detect(self, raw: Tensor, priors: Priors) -> Tensor:
        """The same for detections, where no gradient is asked for."""
        return self.decode(raw, priors)

    def losses(self, positives: Positives, weight: Tensor, factor: Tensor) -> Dict[str, Tensor]:
        """Losses beside that of the decoded box: named scalars, none by default.

        Args:
            positives: The K positives.
            weight: (K,) how much each counts.
            factor: What sums are divided by.
        """
        return {}
