"""From the maps of a head to boxes that may be detections."""
import math
from typing import NamedTuple, Sequence

import torch
from torch import Tensor

from .predictions import Predictions

# The logit of the threshold is taken lower by this, so that rounding loses no score above it; an exact test follows.
SLACK = 1e-3


class Candidates(NamedTuple):
    """M scores above the threshold, grouped by level. Within a level and an image the best come first."""
    image: Tensor  # (M,) index of the image in the batch
    prior: Tensor  # (M,) index among the P priors
    label: Tensor  # (M,)
    score: Tensor  # (M,) in (0, 1]
    sizes: Sequence[int]  # L, how many of the M belong to each level


def select_candidates(pred: Predictions, score_thr: float, nms_pre: int) -> Candidates:
    """The scores above a threshold, of each image and level the best ``nms_pre`` at most.

    Args:
        pred: Predictions of B images.
        score_thr: Scores must be above it.
        nms_pre: Not above 0 for all. (In MMDetection -1 drops the lowest.)
    """
    limit = math.log(score_thr) - math.log1p(-score_thr) - SLACK if 0 < score_thr < 1 else -math.inf
    levels = []
    for logits, grid in zip(pred.cls, pred.grids):
        image, label, row, column = (logits > limit).nonzero(as_tuple=True)
        score = logits[image, label, row, column].float().sigmoid()
        level = torch.stack([image, grid.start + row * grid.width + column, label])
        above = score > score_thr
        level, score = level[:, above], score[above]
        # Equal scores by prior, then class, as in MMDetection and whatever the memory format of the map.
        order = (level[1] * logits.shape[1] + level[2]).argsort()
        levels.append(_best_of_each_image(level[:, order], score[order], nms_pre))
    sizes = [score.numel() for _, score in levels]
    image, prior, label = torch.cat([level for level, _ in levels], 1)
    return Candidates(image, prior, label, torch.cat([score for _, score in levels]), sizes)


def _best_of_each_image(level: Tensor, score: Tensor, nms_pre: int):
    """Sort (3, M) candidates by score, and leave ``nms_pre`` of each image, which is their first row."""
    order = score.argsort(descending=True, stable=True)
    level, score = level[:, order], score[order]
    if 0 < nms_pre < score.numel():
        by_image = level[0].argsort(stable=True)
        image = level[0, by_image]
        rank = torch.arange(image.numel(), device=image.device) - torch.searchsorted(image, image)
        keep = by_image[rank < nms_pre]
        level, score = level[:, keep], score[keep]
    return level, score
