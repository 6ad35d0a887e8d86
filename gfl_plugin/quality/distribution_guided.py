"""GFLv2 (arXiv:2011.12885): the shape of a box's distributions tells how good the box is."""
from typing import Dict, Tuple

import torch
from mmdet.utils import ConfigType
from torch import Tensor, nn

from ..box import GeneralDistribution
from ..errors import SetupError
from ..registry import QUALITIES
from .joint import JointQuality


def distribution_statistics(logits: Tensor, topk: int, add_mean: bool = True) -> Tensor:
    """(B, 4(topk+1), H, W): the ``topk`` largest probabilities of each side, and their mean (section 3.2).

    Args:
        logits: (B, 4, n+1, H, W).
        topk: At most n+1.
        add_mean: Without it, only the largest probabilities: (B, 4 topk, H, W).
    """
    largest = logits.float().softmax(2).topk(topk, 2).values
    return (torch.cat([largest, largest.mean(2, keepdim=True)], 2) if add_mean else largest).flatten(1, 2)


def logit_of_product(a: Tensor, b: Tensor) -> Tensor:
    """x with sigmoid(x) = sigmoid(a) sigmoid(b), broadcast: -log(e^-a + e^-b + e^-(a+b)), without overflow."""
    return -torch.logaddexp(torch.logaddexp(-a, -b), -a - b)


@QUALITIES.register_module()
class DistributionGuidedQuality(JointQuality):
    """:class:`JointQuality` whose class scores are multiplied by a quality read from the box distributions.

    Two 1x1 convolutions predict it. They are named ``reg_conf.0`` and ``reg_conf.2``, as in GFocalV2's checkpoints.
    The class maps are logits of the product, so losses and decoding stay as they are.

    Unlike GFocalV2, whose losses take probabilities, the head keeps ``use_sigmoid=True``. And the normaliser of the
    box losses is at least 1, as in MMDetection's GFLHead.

    Args:
        loss_cls: A loss towards targets in [0, 1].
        reg_topk: How many probabilities of each side are used.
        reg_channels: Channels between the two convolutions.
        add_mean: Whether the mean of these probabilities is used too.
    """

    def __init__(self, loss_cls: ConfigType = dict(type='gfl_plugin.QualityFocalLoss', use_sigmoid=True, beta=2.0),
                 reg_topk: int = 4, reg_channels: int = 64, add_mean: bool = True) -> None:
        super().__init__(loss_cls)
        self.reg_topk, self.reg_channels, self.add_mean = reg_topk, reg_channels, add_mean

    def check(self, box: nn.Module) -> None:
        if not isinstance(box, GeneralDistribution):
            raise SetupError('quality=DistributionGuidedQuality (GFLv2) reads the largest probabilities of each side, '
                             f'and box={type(box).__name__} predicts none: use box=GeneralDistribution, or another '
                             'quality')
        if not 1 <= self.reg_topk <= box.reg_max + 1:
            raise SetupError(f'reg_topk={self.reg_topk} is not between 1 and the {box.reg_max + 1} probabilities '
                             f'that reg_max={box.reg_max} gives a side')

    def layers(self, channels: int, num_classes: int) -> Dict[str, nn.Module]:
        reg_conf = nn.Sequential(nn.Conv2d(4 * (self.reg_topk + self.add_mean), self.reg_channels, 1),
                                 nn.ReLU(inplace=True), nn.Conv2d(self.reg_channels, 1, 1))
        return dict(super().layers(channels, num_classes), reg_conf=reg_conf)

    def maps(self, head: nn.Module, cls_feat: Tensor, reg_feat: Tensor, box_map: Tensor) -> Tuple[Tensor, ...]:
        statistics = distribution_statistics(box_map.unflatten(1, (4, -1)), self.reg_topk, self.add_mean)
        # In fp32: small scores differ only in the logit of the product.
        class_map, = super().maps(head, cls_feat, reg_feat, box_map)
        return logit_of_product(class_map.float(), head.reg_conf(statistics).float()),
