"""The grids of priors of a feature pyramid.

Each cell of a feature map has one prior. The priors of all levels share one index, 0..P-1: level by level, row by row.
"""
import math
from typing import List, NamedTuple, Optional, Protocol, Sequence, Tuple

import torch
from torch import Tensor

# Cells x_low <= x < x_high, y_low <= y < y_high of a level, as (x_low, y_low, x_high, y_high).
CellRange = Tuple[int, int, int, int]


class PriorGrid(NamedTuple):
    """The priors of one level: a box repeated at every cell of the feature map."""
    height: int  # cells
    width: int  # cells
    stride: Tuple[float, float]  # (x, y), pixels between neighbouring cells
    base: Tuple[float, float, float, float]  # box of the prior at cell (0, 0), pixels
    start: int  # index of cell (0, 0) among the P priors; rows follow each other

    @property
    def size(self) -> int:
        return self.height * self.width

    def cells_in(self, image_shape: Sequence[int], pad_shape: Sequence[int], allowed_border: float) -> CellRange:
        """Cells whose prior may be used in one image of a batch: a rectangle, known without looking at the device.

        Args:
            image_shape: Height and width of the image, without padding, in pixels.
            pad_shape: Height and width with padding; cells beyond it belong to larger images of the batch.
            allowed_border: Pixels by which a prior may stick out of the image; negative for any number.
        """
        valid = [min(math.ceil(pad / stride), cells)
                 for pad, stride, cells in zip(pad_shape, reversed(self.stride), (self.height, self.width))]
        low, high = [0, 0], [valid[1], valid[0]]
        if allowed_border >= 0:
            for axis, length in ((0, image_shape[1]), (1, image_shape[0])):
                first, last, stride = self.base[axis], self.base[axis + 2], self.stride[axis]
                low[axis] = max(0, math.ceil((-allowed_border - first) / stride))
                high[axis] = min(high[axis], math.ceil((length + allowed_border - last) / stride))
        return low[0], low[1], max(high[0], low[0]), max(high[1], low[1])


def stack_grids(sizes: Sequence[Tuple[int, int]], strides: Sequence[Tuple[float, float]],
                bases: Sequence[Sequence[float]]) -> List[PriorGrid]:
    """The grids of L levels, numbered one after the other.

    Args:
        sizes: L heights and widths of the feature maps, in cells.
        strides: L strides (x, y), in pixels.
        bases: L boxes of the prior at cell (0, 0), in pixels.
    """
    grids, start = [], 0
    for (height, width), stride, base in zip(sizes, strides, bases, strict=True):
        grids.append(PriorGrid(height, width, tuple(stride), tuple(base), start))
        start += height * width
    return grids


def num_priors(grids: Sequence[PriorGrid]) -> int:
    """P."""
    return grids[-1].start + grids[-1].size


def usable_priors(grids: Sequence[PriorGrid], usable_cells: Sequence[Sequence[CellRange]], device) -> Optional[Tensor]:
    """(B, P) bool: whether a prior may be used in an image. ``None`` if every prior may be used in every image.

    Args:
        grids: L levels.
        usable_cells: For each of B images, the usable cells of each level: see :meth:`PriorGrid.cells_in`.
    """
    everywhere = [(0, 0, g.width, g.height) for g in grids]
    if all(list(r) == everywhere for r in usable_cells):
        return None
    limits = torch.tensor(usable_cells).to(device, non_blocking=True)  # (B, L, 4)
    levels = []
    for grid, limit in zip(grids, limits.unbind(1)):
        x, y = torch.arange(grid.width, device=device), torch.arange(grid.height, device=device)
        in_x = (x >= limit[:, None, 0]) & (x < limit[:, None, 2])
        in_y = (y >= limit[:, None, 1]) & (y < limit[:, None, 3])
        levels.append((in_y[:, :, None] & in_x[:, None]).flatten(1))
    return torch.cat(levels, 1)


class PriorIndex(Protocol):
    """K priors of a batch, grouped by level. ``Matches`` and ``Candidates`` are such indices."""
    image: Tensor  # (K,) index of the image in the batch
    prior: Tensor  # (K,) index among the P priors
    sizes: Sequence[int]  # L, how many of the K belong to each level; known on the host


def read_maps(maps: Sequence[Tensor], grids: Sequence[PriorGrid], index: PriorIndex) -> Tensor:
    """(K, D) values that L maps (B, D, H, W) hold at K priors, read without copying the maps."""
    levels = zip(maps, grids, index.image.split(index.sizes), index.prior.split(index.sizes))
    return torch.cat([m.flatten(2).transpose(1, 2)[image, prior - grid.start] for m, grid, image, prior in levels])


class Priors(NamedTuple):
    """K priors in one unit, x before y."""
    center: Tensor  # (K, 2)
    size: Tensor  # (K, 2) width and height
    stride: Tensor  # (K, 2) distance between neighbouring cells of the level

    def in_strides(self) -> 'Priors':
        """The same priors with the stride of their level as the unit."""
        return Priors(self.center / self.stride, self.size / self.stride, torch.ones_like(self.stride))

    def boxes(self) -> Tensor:
        """(K, 4)."""
        return torch.cat([self.center - self.size / 2, self.center + self.size / 2], 1)


def read_priors(grids: Sequence[PriorGrid], prior: Tensor, sizes: Sequence[int]) -> Priors:
    """K priors in pixels; arguments as the fields of :class:`PriorIndex`."""
    table = torch.tensor([[(g.base[0] + g.base[2]) / 2, (g.base[1] + g.base[3]) / 2, g.base[2] - g.base[0],
                           g.base[3] - g.base[1], *g.stride, g.start, g.width] for g in grids])
    # A small copy to the device, without waiting. P stays below 2**24, where fp32 counts exactly.
    table = table.to(prior.device, non_blocking=True)
    first, size, stride, place = torch.cat([row.expand(n, -1) for row, n in zip(table, sizes)]).split(2, 1)
    start, width = place.long().unbind(1)
    cell = prior - start
    row = cell.div(width, rounding_mode='floor')
    return Priors(first + torch.stack([cell - row * width, row], 1) * stride, size, stride)


def all_priors(grids: Sequence[PriorGrid], device=None) -> Priors:
    """The P priors of all levels, in pixels."""
    return read_priors(grids, torch.arange(num_priors(grids), device=device), [g.size for g in grids])
