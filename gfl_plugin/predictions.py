"""The predictions of a batch: what the head's maps say, and where."""
from typing import NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from .functional.priors import PriorGrid, PriorIndex, Priors, all_priors, read_maps, read_priors


class Predictions(NamedTuple):
    """The maps of a batch and their grids. It reads maps at priors; what the values mean is up to quality and box."""
    cls: Sequence[Tensor]  # L maps (B, C, H, W), logits
    box: Sequence[Tensor]  # L maps (B, D, H, W)
    branch: Optional[Sequence[Tensor]]  # L maps (B, 1, H, W), logits, if the quality has a branch
    grids: Sequence[PriorGrid]  # L

    def cls_at(self, index: PriorIndex) -> Tensor:
        """(K, C) class logits, fp32."""
        return read_maps(self.cls, self.grids, index).float()

    def box_at(self, index: PriorIndex) -> Tensor:
        """(K, D) box values, fp32."""
        return read_maps(self.box, self.grids, index).float()

    def branch_at(self, index: PriorIndex) -> Tensor:
        """(K,) logits of the branch, fp32."""
        return read_maps(self.branch, self.grids, index).float()[:, 0]

    def priors_at(self, index: PriorIndex) -> Priors:
        """The K priors, in pixels."""
        return read_priors(self.grids, index.prior, index.sizes)

    def logits(self) -> Tensor:
        """(B, P, C) class logits of every prior, fp32."""
        return _flatten(self.cls)


class Peek:
    """What an assigner may ask about the predictions. Nothing is computed before it is asked for.

    Args:
        pred: Predictions of B images; gradients are never needed here.
        box: The head's box, which decodes.
    """

    def __init__(self, pred: Predictions, box) -> None:
        self.pred, self.box = pred, box
        self._boxes: Optional[Tensor] = None

    def boxes(self) -> Tensor:
        """(B, P, 4) decoded boxes, in pixels."""
        if self._boxes is None:  # not functools.cached_property, whose lock torch.compile cannot trace
            raw = _flatten(self.pred.box)
            priors = (x.repeat(len(raw), 1) for x in all_priors(self.pred.grids, raw.device))
            self._boxes = self.box.decode(raw.flatten(0, 1), Priors(*priors)).unflatten(0, raw.shape[:2])
        return self._boxes

    def logits(self, image: int) -> Tensor:
        """(P, C) class logits of one image."""
        return _flatten([cls_map[image:image + 1] for cls_map in self.pred.cls])[0]

    def scores_of(self, image: Tensor, label: Tensor) -> Tensor:
        """(N, P) class scores of every prior, for N pairs of an image (N,) and a class (N,)."""
        return torch.cat([m.flatten(2)[image, label] for m in self.pred.cls], 1).float().sigmoid()


def _flatten(maps: Sequence[Tensor]) -> Tensor:
    """(B, P, D), fp32, from L maps (B, D, H, W)."""
    return torch.cat([m.flatten(2) for m in maps], 2).float().transpose(1, 2)
