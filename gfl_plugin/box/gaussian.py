"""Each side as a Gaussian (GFL, arXiv:2006.04388, figure 3 and table 2; KL loss, arXiv:1809.08545)."""
import math
from typing import Dict, Optional, Tuple

import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor

from ..functional.boxes import MAX_LOG_RATIO, distance_to_box, distances_to_places, side_distances
from ..functional.priors import Priors
from ..matches import Positives
from ..registry import BOXES
from .base import Box

# Spreads stay between a hundredth of a stride, which is as sure as a side can be, and a hundred strides.
MAX_LOG_SPREAD = math.log(100)
# A Gaussian has no bins. These places stand for it, in spreads from the mean: as many as the bins of the default box.
# With weights that follow the density, they have the Gaussian's mean, and 0.999 of its spread.
PLACES = tuple(half / 2 for half in range(-8, 9))


@BOXES.register_module()
class GaussianDistribution(Box):
    """The distance from a prior's centre to each side has a mean and a spread, trained by likelihood.

    The mean is half the prior's size times the exponential of the prediction. So it is above 0, and starts at the
    prior's own box. ``loss_bbox`` trains the box of the means too, as for every box.

    Args:
        loss_nll: Loss of means and log-spreads. By default it has the weight of DFL.
        bbox_coder: Its ``clip_border`` is used.
    """
    channels = 8

    def __init__(self, loss_nll: ConfigType = dict(type='gfl_plugin.GaussianNLLLoss', loss_weight=0.25),
                 bbox_coder: Optional[ConfigType] = None) -> None:
        super().__init__(bbox_coder)
        self.loss_nll = MODELS.build(loss_nll)

    def means_and_log_spreads(self, raw: Tensor, priors: Priors) -> Tuple[Tensor, Tensor]:
        """(K, 4) means in the unit of the priors, and (K, 4) logarithms of the spreads in strides."""
        mean, log_spread = raw.split(4, 1)
        half = (priors.size / 2).repeat(1, 2)
        return half * mean.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), log_spread.clamp(-MAX_LOG_SPREAD, MAX_LOG_SPREAD)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        return distance_to_box(priors.center, self.means_and_log_spreads(raw, priors)[0])

    def spread(self, raw: Tensor, priors: Priors) -> Tensor:
        return self.means_and_log_spreads(raw, priors)[1].exp() * priors.stride.repeat(1, 2)

    def distribution(self, raw: Tensor, priors: Priors) -> Tuple[Tensor, Tensor]:
        """See :class:`Box`. The n+1 places are the mean and 8 places on each side of it, half a spread apart."""
        mean, log_spread = self.means_and_log_spreads(raw, priors)
        offsets = torch.tensor(PLACES).to(raw.device, non_blocking=True)
        spread = log_spread.exp() * priors.stride.repeat(1, 2)
        probs = (-offsets.square() / 2).softmax(0).expand(*mean.shape, -1)
        return distances_to_places(priors.center, mean[..., None] + spread[..., None] * offsets), probs

    def losses(self, pos: Positives, weight: Tensor, norm: Tensor) -> Dict[str, Tensor]:
        mean, log_spread = self.means_and_log_spreads(pos.raw, pos.priors)
        # Unlike the targets of DFL these need no clamp: there is no last bin.
        distances = side_distances(pos.priors.center, pos.gt_boxes)
        loss = self.loss_nll((mean.flatten(), log_spread.flatten()), distances.flatten(),
                             weight=weight.repeat_interleave(4), avg_factor=4.0)
        return dict(loss_nll=loss / norm)
