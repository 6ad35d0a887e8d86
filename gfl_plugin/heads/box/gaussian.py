"""A side as a Gaussian (GFL, arXiv:2006.04388, figure 3 and table 2; KL loss, arXiv:1809.08545)."""
import math
from typing import Dict, Tuple

from mmdet.registry import MODELS
from mmdet.utils import ConfigType
from torch import Tensor

from ...functional.boxes import MAX_LOG_RATIO, side_distances
from ...functional.priors import Priors
from ...registry import BOXES
from ...targets import Positives
from .base import Box

# Of the spread in strides: a hundredth of a stride is as sure as a box is ever known, a hundred is not to know.
MAX_LOG_SPREAD = math.log(100)


@BOXES.register_module()
class GaussianDistribution(Box):
    """The distance from a prior's centre to each side has a mean and a spread, trained by likelihood.

    The mean is half the prior's size times the exponential of what is predicted, so that it is above 0 and starts at
    the prior's own box. As for the other kinds the decoded box, that of the means, is trained by ``loss_bbox`` too.

    Args:
        loss_nll: Loss of means and logarithms of spreads; by default with the weight that DFL has.
        bbox_coder: Decodes distances.
    """
    channels = 8

    def __init__(self, loss_nll: ConfigType = dict(type='gfl_plugin.GaussianNLLLoss', loss_weight=0.25),
                 bbox_coder: ConfigType = dict(type='gfl_plugin.DistancePointBBoxCoder')) -> None:
        super().__init__(bbox_coder)
        self.loss_nll = MODELS.build(loss_nll)

    def means_and_log_spreads(self, raw: Tensor, priors: Priors) -> Tuple[Tensor, Tensor]:
        """(K, 4) means in the unit of the priors, and (K, 4) logarithms of the spreads in strides."""
        mean, log_spread = raw.split(4, 1)
        half = (priors.size / 2).repeat(1, 2)
        return half * mean.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), log_spread.clamp(-MAX_LOG_SPREAD, MAX_LOG_SPREAD)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        return self.bbox_coder.decode(priors.center, self.means_and_log_spreads(raw, priors)[0])

    def losses(self, positives: Positives, weight: Tensor, factor: Tensor) -> Dict[str, Tensor]:
        mean, log_spread = self.means_and_log_spreads(positives.raw, positives.priors)
        # Unlike the targets of DFL they need no clamp: there is no last bin.
        distances = side_distances(positives.priors.center, positives.box)
        loss = self.loss_nll(mean.flatten(), log_spread.flatten(), distances.flatten(),
                             weight=weight.repeat_interleave(4), avg_factor=4.0)
        return dict(loss_nll=loss / factor)
