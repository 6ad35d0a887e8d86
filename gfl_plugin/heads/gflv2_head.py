"""Generalized Focal Loss V2 (arXiv:2011.12885): the shape of a box's distributions tells how good the box is."""
from typing import Tuple

import torch
from mmcv.cnn import Scale
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from .box import GeneralDistribution
from .gfl_head import GFLHead


def distribution_statistics(logits: Tensor, topk: int, add_mean: bool = True) -> Tensor:
    """(B, 4(topk+1), H, W): of each side the ``topk`` largest probabilities and their mean (section 3.2).

    Args:
        logits: (B, 4, n+1, H, W).
        topk: How many, at most n+1.
        add_mean: Without it, the largest probabilities alone, (B, 4 topk, H, W).
    """
    largest = logits.float().softmax(2).topk(topk, 2).values
    return (torch.cat([largest, largest.mean(2, keepdim=True)], 2) if add_mean else largest).flatten(1, 2)


def logit_of_product(a: Tensor, b: Tensor) -> Tensor:
    """x with sigmoid(x) = sigmoid(a) sigmoid(b), broadcast: -log(e^-a + e^-b + e^-(a+b)), without overflow."""
    return -torch.logaddexp(torch.logaddexp(-a, -b), -a - b)


@MODELS.register_module()
class GFLV2Head(GFLHead):
    """:class:`GFLHead` whose class scores are multiplied by a quality that is read off the box distributions.

    Two 1x1 convolutions, ``reg_conf.0`` and ``reg_conf.2``, predict it: the names that GFocalV2's checkpoints have.
    Maps of scores are logits as in every other head, here those of the product, so that losses and decoding stay.

    Unlike GFocalV2, whose losses take probabilities, it keeps ``use_sigmoid=True``; and what box losses are divided by
    is at least 1, as in MMDetection's GFLHead.

    Args:
        reg_topk: How many probabilities of a side are looked at.
        reg_channels: Channels between the two convolutions.
        add_mean: Whether their mean is looked at as well.
        args, kwargs: Of :class:`GFLHead`.

    Raises:
        SetupError: ``box`` predicts no distribution over bins, or one of fewer than ``reg_topk``; or that is below 1.
    """

    def __init__(self, *args, reg_topk: int = 4, reg_channels: int = 64, add_mean: bool = True, **kwargs) -> None:
        self.reg_topk, self.reg_channels, self.add_mean = reg_topk, reg_channels, add_mean
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        if not isinstance(self.box, GeneralDistribution):
            raise SetupError('GFLV2Head tells the quality of a box by the largest probabilities of its sides, and '
                             f'{type(self.box).__name__} predicts no probabilities: take a GeneralDistribution, or '
                             'gfl_plugin.GFLHead')
        if not 1 <= self.reg_topk <= self.box.reg_max + 1:
            raise SetupError(f'reg_topk={self.reg_topk} is not between 1 and the {self.box.reg_max + 1} probabilities '
                             f'that reg_max={self.box.reg_max} gives a side')
        self.reg_conf = nn.Sequential(nn.Conv2d(4 * (self.reg_topk + self.add_mean), self.reg_channels, 1),
                                      nn.ReLU(inplace=True), nn.Conv2d(self.reg_channels, 1, 1))

    def forward_single(self, x: Tensor, scale: Scale) -> Tuple[Tensor, ...]:
        cls_score, bbox_pred, *branch = super().forward_single(x, scale)
        statistics = distribution_statistics(self.box.logits(bbox_pred), self.reg_topk, self.add_mean)
        # In fp32: the product's logit is where small scores differ.
        return logit_of_product(cls_score.float(), self.reg_conf(statistics).float()), bbox_pred, *branch
