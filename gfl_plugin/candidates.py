"""From the predictions of a batch to boxes that may become detections."""
from typing import NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from .functional.priors import PriorGrid
from .predictions import Predictions

# Equal logits may have sigmoids that differ in their last digits, depending on their place in a tensor.
SLACK = 1e-6


class Candidates(NamedTuple):
    """M scores above the threshold, grouped by level. Within a level and an image the best come first."""
    image: Tensor  # (M,) index of the image in the batch
    prior: Tensor  # (M,) index among the P priors
    label: Tensor  # (M,)
    score: Tensor  # (M,) in (0, 1]
    sizes: Sequence[int]  # L, how many of the M belong to each level


def select_candidates(pred: Predictions, score_thr: float, nms_pre: int) -> Candidates:
    """The scores above a threshold; at most the best ``nms_pre`` of each image and level.

    Args:
        pred: Predictions of B images.
        score_thr: Scores must be above it.
        nms_pre: At 0 or below, no limit. (In MMDetection -1 drops the lowest.)
    """
    levels = [_candidates_of_level(logits, grid, score_thr, nms_pre) for logits, grid in zip(pred.cls, pred.grids)]
    index, scores = zip(*levels)
    return Candidates(*torch.cat(index, 1), torch.cat(scores), [score.numel() for score in scores])


def _candidates_of_level(logits: Tensor, grid: PriorGrid, score_thr: float, nms_pre: int) -> Tuple[Tensor, Tensor]:
    """The candidates of a level: image, prior and label (3, M), and scores (M,)."""
    best = logits.amax(1).flatten(1).float().sigmoid()  # (B, H*W) best score of each prior
    floor = (1 - SLACK) * _reached_by(nms_pre, best).clamp(min=score_thr)
    # If one class of a prior is NaN, its best score is NaN, and its other classes may still be candidates.
    image, cell = (~(best < floor[:, None])).nonzero(as_tuple=True)
    score = logits.flatten(2).transpose(1, 2)[image, cell].float().sigmoid()  # (N, C)
    # By prior, then class: the order of equal scores in MMDetection, whatever the memory format of the map.
    index, label = ((score > score_thr) & (score >= floor[image, None])).nonzero(as_tuple=True)
    return _best_of_each_image(torch.stack([image[index], grid.start + cell[index], label]), score[index, label],
                               nms_pre)


def _reached_by(nms_pre: int, best: Tensor) -> Tensor:
    """(B,) a score that at least ``nms_pre`` scores of each image reach; 0 if that is unknown.

    Args:
        nms_pre: At 0 or below, no limit.
        best: (B, N) best score of each prior. ``nms_pre`` priors reach the ``nms_pre``-th largest of these.
    """
    if not 0 < nms_pre < best.shape[1]:
        return best.new_zeros(len(best))
    return best.nan_to_num(0.0).topk(nms_pre, 1).values[:, -1]


def _best_of_each_image(index: Tensor, score: Tensor, nms_pre: int) -> Tuple[Tensor, Tensor]:
    """Sort (3, M) candidates by score, and keep ``nms_pre`` of each image. Row 0 of ``index`` is the image."""
    order = score.argsort(descending=True, stable=True)
    index, score = index[:, order], score[order]
    if 0 < nms_pre < score.numel():
        by_image = index[0].argsort(stable=True)
        image = index[0, by_image]
        rank = torch.arange(image.numel(), device=image.device) - torch.searchsorted(image, image)
        keep = by_image[rank < nms_pre]
        index, score = index[:, keep], score[keep]
    return index, score
