"""Each side as any distribution over n + 1 distances (GFL, arXiv:2006.04388, section 3.2)."""
from typing import Dict, Optional, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor, nn

from ..functional.boxes import box_to_distance, distance_to_box, distances_to_places
from ..functional.distributions import expectation, expectation_around_peak, standard_deviation
from ..functional.priors import Priors
from ..matches import Positives
from ..registry import BOXES
from .base import Box

DECODERS = dict(mean=expectation, mode=expectation_around_peak)


class Integral(nn.Module):
    """Distances from the logits of their distributions (eq. 5). Published checkpoints hold ``project``, the bins."""

    def __init__(self, reg_max: int = 16) -> None:
        super().__init__()
        self.reg_max = reg_max
        self.register_buffer('project', torch.linspace(0, reg_max, reg_max + 1))

    def forward(self, logits: Tensor) -> Tensor:
        """(N, 4(n+1)) logits to (N, 4) distances, in bins, which are strides."""
        return expectation(logits.reshape(-1, 4, self.reg_max + 1))


@BOXES.register_module()
class GeneralDistribution(Box):
    """The distance from a prior's centre to each side is distributed over the bins 0..n, in strides.

    Args:
        reg_max: n.
        loss_dfl: Loss of the distributions. A ``loss_weight`` of 0 gives a distribution without DFL.
        bbox_coder: Its ``clip_border`` is used.
        decode: The distance that a detection takes: the ``'mean'`` of the distribution, or the mean of its highest peak
            only, ``'mode'``. Losses always take the mean.

    Raises:
        ValueError: ``reg_max`` is below 1, or ``decode`` is unknown.
    """

    def __init__(self, reg_max: int = 16,
                 loss_dfl: ConfigType = dict(type='gfl_plugin.DistributionFocalLoss', loss_weight=0.25),
                 bbox_coder: Optional[ConfigType] = None, decode: str = 'mean') -> None:
        if reg_max < 1:
            raise ValueError(f'reg_max={reg_max} leaves fewer than two bins to a box side; it must be at least 1')
        if decode not in DECODERS:
            raise ValueError(f'decode={decode!r} is not one of {list(DECODERS)}')
        super().__init__(bbox_coder)
        self.reg_max, self.channels, self.distance_of = reg_max, 4 * (reg_max + 1), DECODERS[decode]
        self.loss_dfl = MODELS.build(loss_dfl)

    def layers(self, channels: int) -> Dict[str, nn.Module]:
        return dict(super().layers(channels), integral=Integral(self.reg_max))

    def logits(self, raw: Tensor) -> Tensor:
        """(K, 4, n+1) logits of each side, from what K priors predict, (K, 4(n+1))."""
        return raw.unflatten(1, (4, self.reg_max + 1))

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        return distance_to_box(priors.center, expectation(self.logits(raw)) * priors.stride.repeat(1, 2))

    def detect(self, raw: Tensor, priors: Priors) -> Tensor:
        return distance_to_box(priors.center, self.distance_of(self.logits(raw)) * priors.stride.repeat(1, 2))

    def spread(self, raw: Tensor, priors: Priors) -> Tensor:
        # Of the whole distribution, also where decode='mode': with two peaks, the side is in doubt.
        return standard_deviation(self.logits(raw)) * priors.stride.repeat(1, 2)

    def distribution(self, raw: Tensor, priors: Priors) -> Tuple[Tensor, Tensor]:
        probs = self.logits(raw).float().softmax(-1)
        bins = torch.arange(self.reg_max + 1, device=raw.device)
        return distances_to_places(priors.center, bins * priors.stride.repeat(1, 2)[..., None]), probs

    def losses(self, pos: Positives, weight: Tensor, norm: Tensor) -> Dict[str, Tensor]:
        distances = box_to_distance(pos.priors.center, pos.gt_boxes, self.reg_max)
        loss = self.loss_dfl(self.logits(pos.raw).flatten(0, 1), distances.flatten(),
                             weight=weight.repeat_interleave(4), avg_factor=4.0)
        return dict(loss_dfl=loss / norm)
