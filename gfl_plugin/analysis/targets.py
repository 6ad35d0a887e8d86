"""Measure how far the sides of objects lie from their positive priors, and how many targets reg_max cuts off."""
import math
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import mmcv
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from ..datasets import annotations as rules
from ..errors import SetupError
from ..functional.boxes import BELOW_LAST_BIN, clip_boxes, side_distances
from ..functional.priors import read_priors
from ..predictions import Predictions
from .charts import Chart, Layer, Panel

TOLERATED = 0.01  # largest acceptable share of cut targets, and of objects without a positive


class Objects(NamedTuple):
    """The objects of one image."""
    size: Tuple[int, int]  # width and height, pixels
    boxes: Tensor  # (G, 4) x1, y1, x2, y2, pixels


class Resize(NamedTuple):
    """How an image is resized and padded before it reaches the network."""
    scale: Optional[Tuple[int, int]]  # (long, short) side to fit into, pixels; None: no resize
    keep_ratio: bool = True
    divisor: int = 1  # sides are padded to multiples of this

    def apply(self, objects: Objects) -> Objects:
        """Resize as MMDetection does: round the size, scale boxes by the rounded size, and clip them to the image."""
        if self.scale is None:
            size = objects.size
        else:
            size = mmcv.rescale_size(objects.size, tuple(self.scale)) if self.keep_ratio else tuple(self.scale)
        scale_factor = torch.tensor([new / old for new, old in zip(size, objects.size)]).repeat(2)
        shape = torch.tensor(size[::-1])
        return Objects(size, clip_boxes(objects.boxes * scale_factor, shape))

    def pad(self, size: Tuple[int, int]) -> Tuple[int, int]:
        width, height = (math.ceil(side / self.divisor) * self.divisor for side in size)
        return width, height


class Reach(NamedTuple):
    """The regression targets of a data set."""
    distances: List[Tensor]  # L of (K, 4): left, top, right, bottom, in strides
    images: int
    objects: int
    missed: int  # objects without a positive prior


# ---- data ----

def objects_of_file(path: str) -> List[Objects]:
    """Read the objects of a COCO-format annotation file, without its images.

    Raises:
        SetupError: The file cannot be read, or an entry is malformed.
    """
    content = rules.read_annotations(path)
    rules.refuse(list(rules.find_malformed(content)), path)
    return objects_of_content(content)


def objects_of_content(content: dict) -> List[Objects]:
    """Those of well-formed content in COCO's format."""
    boxes = rules.boxes_to_learn(content)
    result = []
    for image in content['images']:
        corners = [(x, y, x + w, y + h) for x, y, w, h in boxes[image['id']]]
        result.append(Objects((image['width'], image['height']), torch.tensor(corners).float().reshape(-1, 4)))
    return result


def objects_of_dataset(dataset) -> List[Objects]:
    """Read the objects that an MMDetection data set trains on."""
    result = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        boxes = [each['bbox'] for each in info['instances'] if not each['ignore_flag']]
        result.append(Objects((info['width'], info['height']), torch.tensor(boxes).float().reshape(-1, 4)))
    return result


# ---- numbers ----

class _NoMaps:
    """Placeholder for the head's maps, which this study does not compute."""

    def __iter__(self):
        raise SetupError('The assigner of this config needs predictions, and this study computes none: use a config '
                         'with gfl_plugin.ATSSAssigner')


def read_reach(head, images: Iterable[Objects], resize: Resize) -> Reach:
    """Compute what ``head`` would regress with its own priors and assigner, one image at a time.

    Args:
        head: A GFLHead. None of its layers is called.
        images: The objects of each image.
        resize: How each image is resized first.
    """
    strides = head.prior_generator.strides
    levels: List[List[Tensor]] = [[torch.zeros(0, 4)] for _ in strides]
    count = objects = missed = 0
    for image in images:
        count += 1
        size, boxes = resize.apply(image)
        if not len(boxes):
            continue
        padded = resize.pad(size)
        grids = head.prior_grids([torch.empty(1, 0, math.ceil(padded[1] / s[1]), math.ceil(padded[0] / s[0]))
                                  for s in strides])
        truth = head.ground_truths(grids, [InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes)).long())],
                                   [dict(img_shape=size[::-1], pad_shape=padded[::-1])])
        matches = head.match(Predictions(_NoMaps(), _NoMaps(), None, grids), truth)
        priors = read_priors(grids, matches.prior, matches.sizes)
        distances = side_distances(priors.center, truth.boxes[matches.gt]) / priors.stride.repeat(1, 2)
        for level, part in zip(levels, distances.split(matches.sizes)):
            level.append(part)
        objects += len(boxes)
        missed += len(boxes) - len(matches.gt.unique())
    return Reach([torch.cat(level) for level in levels], count, objects, missed)


def measure(reach: Reach, strides: Sequence[float], reg_max: Optional[int]) -> Dict[str, Any]:
    """Compute the numbers of the study.

    Args:
        reach: The targets.
        strides: The strides of the L levels, pixels.
        reg_max: n; None for a box without bins, which cuts off nothing.
    """
    levels = [dict(stride=stride, **_measure_level(part, reg_max)) for stride, part in zip(strides, reach.distances)]
    every = _measure_level(torch.cat(reach.distances), reg_max)
    result = dict(images=reach.images, objects=reach.objects, objects_without_positive=reach.missed,
                  reg_max=reg_max, tolerated=TOLERATED, strides=list(strides), levels=levels, all=every)
    needed = [part['least_reg_max'] or 0 for part in (every, *levels)]
    result['recommended'] = dict(reg_max=max(needed) or None, **recommend_strides(result))  # at most 1% at each level
    result['warning'] = _warn(result)
    return result


def _measure_level(distances: Tensor, reg_max: Optional[int]) -> Dict[str, Any]:
    """Measure (K, 4) distances in strides. ``histogram[i]`` counts the targets from i to i + 1."""
    targets = distances.flatten()
    histogram = targets.floor().long().clamp(min=0).bincount().tolist()
    shares = cut_shares(distances)
    result = dict(positives=len(distances), targets=len(targets),
                  largest=targets.max().item() if len(targets) else None, histogram=histogram,
                  cut_share_by_reg_max=shares,
                  least_reg_max=next((n for n, share in enumerate(shares, 1) if share <= TOLERATED), None))
    if reg_max is not None:
        cut = distances > reg_max - BELOW_LAST_BIN
        result.update(cut=int(cut.sum()), cut_share=cut.double().mean().item() if len(targets) else 0.0,
                      positives_cut=int(cut.any(1).sum()))
    return result


def cut_shares(distances: Tensor) -> List[float]:
    """Compute the share of targets (K, 4), strides, cut off by reg_max = 1, 2, ... up to the first that cuts none."""
    if not len(distances):
        return []
    ordered = distances.flatten().sort().values
    last = math.ceil(ordered[-1].item() + BELOW_LAST_BIN)
    limits = torch.arange(1, max(last, 1) + 1) - BELOW_LAST_BIN
    return (1 - torch.searchsorted(ordered, limits, right=True).double() / len(ordered)).tolist()


def recommend_strides(numbers: Dict[str, Any]) -> Dict[str, Any]:
    """Recommend strides for these data by three rules, and give the reasons.

    Drop levels at either end that no object uses. Add a finer level if more than 1% of the objects have no positive
    prior; mostly these objects lie between the centres of the priors. Add a coarser level if more than 1% of the
    targets of the coarsest level are cut, because its objects are too large for it.
    """
    levels, reasons = numbers['levels'], []
    used = [level['positives'] > 0 for level in levels]
    if not any(used):
        return dict(strides=numbers['strides'], reasons=['there are no positives'])
    first, last = used.index(True), len(used) - 1 - used[::-1].index(True)
    strides = [level['stride'] for level in levels[first:last + 1]]
    idle = [level['stride'] for level in levels[:first] + levels[last + 1:]]
    if idle:
        reasons.append(f'no object uses {_name_levels(idle)}')
    missed = numbers['objects_without_positive'] / numbers['objects']
    if missed > TOLERATED:
        reasons.append(f'{missed:.1%} of the objects have no positive prior: a finer level would put some inside')
        strides.insert(0, strides[0] // 2 if strides[0] % 2 == 0 else strides[0] / 2)
    if levels[last].get('cut_share', 0) > TOLERATED:
        reasons.append(f'{levels[last]["cut_share"]:.1%} of the targets at {_name_levels([strides[-1]])} are cut: a '
                       'coarser level, or a larger reg_max, would hold them')
        strides.append(strides[-1] * 2)
    return dict(strides=strides, reasons=reasons or ['every level is used'])


def _name_levels(strides: Sequence[float]) -> str:
    return f'stride{"s" if len(strides) > 1 else ""} {", ".join(f"{stride:g}" for stride in strides)}'


def _warn(numbers: Dict[str, Any]) -> Optional[str]:
    named = [('all levels', numbers['all'])]
    named += [(_name_levels([level['stride']]), level) for level in numbers['levels']]
    parts = [(name, part) for name, part in named if part.get('cut_share', 0) > TOLERATED]
    if not parts:
        return None
    shares = ', '.join(f'{part["cut_share"]:.1%} at {name}' for name, part in parts)
    return (f'reg_max = {numbers["reg_max"]} cuts off more than {TOLERATED:.0%} of the targets: {shares}. '
            f'reg_max = {numbers["recommended"]["reg_max"]} would be enough at every level')


def study(build_head: Callable[[Optional[Sequence[float]]], Any], images: Sequence[Objects], resize: Resize,
          reg_max: Optional[int] = None) -> Dict[str, Any]:
    """Compute the numbers of a data set. If other strides than the head's own are recommended, try them too.

    The recommendation is withdrawn if the other strides leave more objects without a positive. That can happen, because
    ATSS computes the threshold of an object from candidates of every level, even of levels that no object uses.

    Args:
        build_head: Builds a GFLHead with levels of the given strides, or with its own for None.
        images: The objects of each image of the data set.
        resize: How each image is resized first.
        reg_max: n; by default, that of the head.
    """
    head = build_head(None)
    strides = [stride[0] for stride in head.prior_generator.strides]
    numbers = measure(read_reach(head, images, resize), strides, reg_max or getattr(head.box, 'reg_max', None))
    recommended = numbers['recommended']
    if recommended['strides'] != strides:
        tried = measure(read_reach(build_head(recommended['strides']), images, resize), recommended['strides'],
                        numbers['reg_max'])
        recommended['tried'] = dict(
            objects_without_positive=tried['objects_without_positive'], least_reg_max=tried['all']['least_reg_max'],
            cut_share=tried['all'].get('cut_share'), positives=[level['positives'] for level in tried['levels']],
            strides=recommended['strides'])
        before, after = (each['objects_without_positive'] for each in (numbers, tried))
        if after > before:
            recommended['strides'] = strides
            recommended['reasons'].append(f'but with {_name_levels(recommended["tried"]["strides"])} {after} objects '
                                          f'instead of {before} would have no positive prior, so the levels stay')
    return numbers


# ---- figure and summary ----

def chart(numbers: Dict[str, Any]) -> Chart:
    """Draw a histogram for each level, and the share of targets that each reg_max would cut off."""
    reg_max, panels = numbers['reg_max'], []
    x_range = (0, 1 + max(len(numbers['all']['histogram']), reg_max or 0))  # the same for all levels, to compare them
    for i, level in enumerate(numbers['levels']):
        cut = '' if reg_max is None else f', {level["cut_share"]:.1%} cut'
        panels.append(Panel(
            f'stride {level["stride"]:g}: {level["positives"]} positives{cut}', 'distance to a side [strides]',
            'targets (4 a positive)',
            [Layer('bars', list(range(len(level['histogram']) + 1)), level['histogram'], 'targets', i)]
            if level['histogram'] else [], x_range,
            x_mark=None if reg_max is None else (reg_max - BELOW_LAST_BIN, f'cut by reg_max = {reg_max}')))
    curves = [Layer('line', list(range(1, len(level['cut_share_by_reg_max']) + 1)),
                    [100 * share for share in level['cut_share_by_reg_max']], f'stride {level["stride"]:g}', i)
              for i, level in enumerate(numbers['levels']) if level['positives']]
    every = [100 * share for share in numbers['all']['cut_share_by_reg_max']]
    curves.append(Layer('line', list(range(1, len(every) + 1)), every, 'all levels', 6, 'dashed'))
    panels.append(Panel('What a reg_max would cut off', 'reg_max', 'targets cut off [%]', curves, y_range=(0, 10),
                        y_mark=(100 * TOLERATED, f'{TOLERATED:.0%}')))
    recommended = numbers['recommended']
    return Chart(f'Regression targets of {numbers["objects"]} objects in {numbers["images"]} images', panels,
                 f'Recommended: reg_max = {recommended["reg_max"]}, {_name_levels(recommended["strides"])}',
                 f'Warning: {_fold(numbers["warning"])}' if numbers['warning'] else '')


def _fold(text: str) -> str:
    return text.replace(': ', ':\n', 1)


def summary(numbers: Dict[str, Any]) -> str:
    """Format the numbers as a table for a terminal."""
    rows = [('stride', 'positives', 'largest target', 'cut off', 'reg_max for 1%')]
    for level in (*numbers['levels'], dict(numbers['all'], stride=None)):
        rows.append(('all' if level['stride'] is None else f'{level["stride"]:g}', str(level['positives']),
                     '' if level['largest'] is None else f'{level["largest"]:.1f}',
                     f'{level["cut_share"]:.2%}' if 'cut_share' in level else '', str(level['least_reg_max'] or '')))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ['  '.join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    recommended = numbers['recommended']
    lines += [f'{numbers["images"]} images, {numbers["objects"]} objects, {numbers["objects_without_positive"]} of '
              'them without a positive prior',
              f'recommended: reg_max={recommended["reg_max"]} and {_name_levels(recommended["strides"])}: '
              f'{"; ".join(recommended["reasons"])}']
    if 'tried' in recommended:
        tried = recommended['tried']
        lines.append(f'tried {_name_levels(tried["strides"])}: {tried["objects_without_positive"]} objects without a '
                     f'positive prior, reg_max={tried["least_reg_max"]} for 1%')
    return '\n'.join(lines + ([f'WARNING: {numbers["warning"]}'] if numbers['warning'] else []))
