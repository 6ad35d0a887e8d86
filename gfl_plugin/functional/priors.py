"""The regular grids of priors of a feature pyramid: one prior a cell, priors of all levels in one index 0..P-1."""
import math
from typing import List, NamedTuple, Sequence, Tuple

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

    def boxes(self, device=None) -> Tensor:
        """(H*W, 4) prior boxes in pixels, row by row."""
        x = torch.arange(self.width, dtype=torch.float32, device=device) * self.stride[0]
        y = torch.arange(self.height, dtype=torch.float32, device=device) * self.stride[1]
        shift = torch.stack([x.repeat(self.height), y.repeat_interleave(self.width)], 1)
        return torch.cat([shift, shift], 1) + torch.tensor(self.base).to(shift.device, non_blocking=True)

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
    """The grids of L levels, numbered on.

    Args:
        sizes: L heights and widths of the feature maps, in cells.
        strides: L strides (x, y), in pixels.
        bases: L boxes of the prior at cell (0, 0), in pixels.
    """
    grids, start = [], 0
    for (height, width), stride, base in zip(sizes, strides, bases):
        grids.append(PriorGrid(height, width, tuple(stride), tuple(base), start))
        start += height * width
    return grids


def num_priors(grids: Sequence[PriorGrid]) -> int:
    """P."""
    return grids[-1].start + grids[-1].size


# The places of one level in its map (B, _, H, W): image, row and column, each (K_l,).
Cells = Tuple[Tensor, Tensor, Tensor]


class Places(NamedTuple):
    """K priors of a batch, those of one level together."""
    image: Tensor  # (K,) index of the image in the batch
    prior: Tensor  # (K,) index among the P priors
    sizes: Sequence[int]  # L, how many of the K are of each level

    def cells(self, grids: Sequence[PriorGrid]) -> List[Cells]:
        """Where they are in the map of each of L levels."""
        cells = []
        for grid, image, prior in zip(grids, self.image.split(self.sizes), self.prior.split(self.sizes)):
            index = prior - grid.start
            row = index.div(grid.width, rounding_mode='floor')
            cells.append((image, row, index.sub(row, alpha=grid.width)))
        return cells


def read_maps(maps: Sequence[Tensor], cells: Sequence[Cells]) -> Tensor:
    """(K, D) what L maps (B, D, H, W) hold at the cells, without a copy of the maps."""
    return torch.cat([m.permute(0, 2, 3, 1)[cell] for m, cell in zip(maps, cells)])


class Priors(NamedTuple):
    """K priors in one unit, x before y."""
    center: Tensor  # (K, 2)
    size: Tensor  # (K, 2) width and height
    stride: Tensor  # (K, 2) distance of neighbouring cells of the level

    def in_strides(self) -> 'Priors':
        """The same with the stride as the unit, so that nothing depends on the level."""
        return Priors(self.center / self.stride, self.size / self.stride, torch.ones_like(self.stride))

    def boxes(self) -> Tensor:
        """(K, 4)."""
        return torch.cat([self.center - self.size / 2, self.center + self.size / 2], 1)


def read_priors(cells: Sequence[Cells], grids: Sequence[PriorGrid]) -> Priors:
    """The K priors at the cells, in pixels."""
    device = cells[0][0].device
    table = torch.tensor([[(g.base[0] + g.base[2]) / 2, (g.base[1] + g.base[3]) / 2,
                           g.base[2] - g.base[0], g.base[3] - g.base[1], *g.stride] for g in grids])
    sizes = [len(row) for _, row, _ in cells]
    table = table.repeat_interleave(torch.tensor(sizes), 0, output_size=sum(sizes))
    first, size, stride = table.to(device, non_blocking=True).split(2, 1)
    row, column = (torch.cat(index) for index in list(zip(*cells))[1:])
    steps = torch.stack([column, row], 1)
    return Priors(first + steps * stride, size, stride)


def centers_and_strides(cells: Sequence[Cells], grids: Sequence[PriorGrid]) -> Tuple[Tensor, Tensor]:
    """(K, 2) centres of the priors and (K, 2) strides of their levels, x and y, in pixels."""
    priors = read_priors(cells, grids)
    return priors.center, priors.stride
