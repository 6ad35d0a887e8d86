"""A side as any distribution over n + 1 distances (GFL, arXiv:2006.04388, section 3.2)."""
from typing import Dict

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor, nn

from ...functional.distributions import expectation, expectation_around_peak
from ...functional.priors import Priors
from ...registry import BOXES
from ...targets import Positives
from .base import Box

DECODERS = dict(mean=expectation, mode=expectation_around_peak)


class Integral(nn.Module):
    """Distances from the logits of their distributions (eq. 5); ``project``, the bins, is in published checkpoints."""

    def __init__(self, reg_max: int = 16) -> None:
        super().__init__()
        self.reg_max = reg_max
        self.register_buffer('project', torch.linspace(0, reg_max, reg_max + 1))

    def forward(self, logits: Tensor) -> Tensor:
        """(N, 4(n+1)) logits to (N, 4) distances, in bins, which are strides."""
        return expectation(logits.reshape(-1, 4, self.reg_max + 1))


@BOXES.register_module()
class GeneralDistribution(Box):
    """The distance from a prior's centre to each side is distributed over the bins 0..n, which are strides.

    Args:
        reg_max: n.
        loss_dfl: Loss of the distributions; its ``loss_weight`` is 0 for a distribution without DFL.
        bbox_coder: Encodes and decodes distances.
        decode: What a detection takes for the distance: the ``'mean'`` of the distribution, or that of its highest peak
            alone, ``'mode'``. Losses are always of the mean.

    Raises:
        ValueError: ``reg_max`` is below 1, or ``decode`` is not one of these.
    """

    def __init__(self, reg_max: int = 16,
                 loss_dfl: ConfigType = dict(type='gfl_plugin.DistributionFocalLoss', loss_weight=0.25),
                 bbox_coder: ConfigType = dict(type='gfl_plugin.DistancePointBBoxCoder'), decode: str = 'mean') -> None:
        if reg_max < 1:
            raise ValueError(f'reg_max={reg_max} leaves fewer than two bins to a box side; it must be at least 1')
        if decode not in DECODERS:
            raise ValueError(f'decode={decode!r} is not one of {list(DECODERS)}')
        super().__init__(bbox_coder)
        self.reg_max, self.channels, self.distance_of = reg_max, 4 * (reg_max + 1), DECODERS[decode]
        self.loss_dfl = MODELS.build(loss_dfl)

    def layers(self, channels: int) -> Dict[str, nn.Module]:
        return {**super().layers(channels), 'integral': Integral(self.reg_max)}

    def logits(self, raw: Tensor) -> Tensor:
        """(K, 4, n+1) the logits of each side from what a prior predicts, (K, 4(n+1)); maps (B, ., H, W) as well."""
        return raw.unflatten(1, (4, self.reg_max + 1))

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        return self._box(expectation(self.logits(raw)), priors)

    def detect(self, raw: Tensor, priors: Priors) -> Tensor:
        return self._box(self.distance_of(self.logits(raw)), priors)

    def _box(self, distances: Tensor, priors: Priors) -> Tensor:
        return self.bbox_coder.decode(priors.center, distances * priors.stride.repeat(1, 2))

    def losses(self, positives: Positives, weight: Tensor, factor: Tensor) -> Dict[str, Tensor]:
        distances = self.bbox_coder.encode(positives.priors.center, positives.box, self.reg_max)
        loss = self.loss_dfl(self.logits(positives.raw).flatten(0, 1), distances.flatten(),
                             weight=weight.repeat_interleave(4), avg_factor=4.0)
        return dict(loss_dfl=loss / factor)
