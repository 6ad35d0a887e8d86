"""What the head is trained towards: the positives of a batch, and the weight of every prior."""
from typing import List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from .assigners.atss import Assignment
from .functional.priors import CellRange, Cells, Places, PriorGrid, Priors


class Targets(NamedTuple):
    """K positives of a batch."""
    places: Places
    box: Tensor  # (K, 4) ground truth, pixels
    label: Tensor  # (K,)
    valid: Optional[Tensor]  # (K,) bool, False for a slot that is no positive; None for none of these
    weight: Optional[Tensor]  # (B, P) weight of each prior's class loss; None for 1 everywhere
    num_positives: Tensor  # scalar: those of all images, where an image without any counts as one


class Positives(NamedTuple):
    """What the head predicts for the K positives of a batch, and what it should. Lengths are in strides."""
    cells: List[Cells]  # where they are in the maps
    priors: Priors
    raw: Tensor  # (K, D) the numbers a kind of box predicts
    decoded: Tensor  # (K, 4) the box they say
    box: Tensor  # (K, 4) ground truth


def weight_of_ranges(grids: Sequence[PriorGrid], ranges: Sequence[Sequence[CellRange]], device) -> Optional[Tensor]:
    """(B, P) ones where a prior may be used and zeros elsewhere; ``None`` if all may be used in all images."""
    everywhere = [(0, 0, g.width, g.height) for g in grids]
    if all(list(r) == everywhere for r in ranges):
        return None
    limits = torch.tensor(ranges).to(device, non_blocking=True)  # (B, L, 4)
    levels = []
    for grid, limit in zip(grids, limits.unbind(1)):
        x, y = torch.arange(grid.width, device=device), torch.arange(grid.height, device=device)
        in_x = (x >= limit[:, None, 0]) & (x < limit[:, None, 2])
        in_y = (y >= limit[:, None, 1]) & (y < limit[:, None, 3])
        levels.append((in_y[:, :, None] & in_x[:, None]).flatten(1))
    return torch.cat(levels, 1).float()


def count_positives(image: Tensor, valid: Optional[Tensor], num_images: int) -> Tensor:
    """The number of positives of all images, an image without any counting as one (MMDetection's normaliser)."""
    ones = torch.ones_like(image, dtype=torch.float32) if valid is None else valid.float()
    return ones.new_zeros(num_images).index_add(0, image, ones).clamp(min=1).sum()


def weigh_positives(weight: Optional[Tensor], assignment: Assignment, pos_weight: float, shape) -> Tensor:
    """``weight`` (B, P), of ``shape``, with ``pos_weight`` instead of 1 at the positives."""
    weight = assignment.gt.new_ones(shape, dtype=torch.float32) if weight is None else weight
    raise_by = weight.new_full(assignment.gt.shape, pos_weight - 1)
    if assignment.valid is not None:  # adding nothing, an invalid slot may share its prior with a valid one
        raise_by = raise_by * assignment.valid
    return weight.index_put((assignment.places.image, assignment.places.prior), raise_by, accumulate=True)
