"""MMDetection's assigners and samplers, image by image."""
import inspect
from typing import Callable, Optional, Sequence

import torch
from mmdet.models.task_modules.assigners import ATSSAssigner, DynamicSoftLabelAssigner, SimOTAAssigner
from mmengine.structures import InstanceData
from torch import Tensor

from ..assigners.task_aligned import scale_to_overlap
from ..errors import SetupError
from ..functional.priors import PriorGrid, Priors, all_priors, usable_priors
from ..matches import GroundTruths, Matches
from ..predictions import Peek

GIVEN = ('pred_instances', 'gt_instances', 'gt_instances_ignore', 'num_level_priors')


class MissingFieldError(SetupError, AttributeError):
    """An assigner asks for something that the head cannot give."""


class LazyInstances:
    """MMDetection's ``pred_instances``, with fields that are computed when an assigner first asks for them."""

    def __init__(self, owner: str, **fields: Callable[[], Tensor]) -> None:
        self._owner, self._fields = owner, fields

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def __getattr__(self, name: str) -> Tensor:
        if name not in self._fields:
            raise MissingFieldError(f'train_cfg.assigner={self._owner} asks the head for {name!r} of its predictions, '
                                    f'and the head can give {", ".join(self._fields)}: use another assigner')
        setattr(self, name, self._fields[name]())
        return getattr(self, name)


def require_arguments(assigner) -> None:
    """Check that an assigner needs nothing but what :func:`match_by_image` gives it.

    Raises:
        SetupError: It needs more.
    """
    parameters = inspect.signature(assigner.assign).parameters.values()
    needed = [p.name for p in parameters
              if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in GIVEN]
    if needed:
        raise SetupError(f'train_cfg.assigner={type(assigner).__name__} needs {", ".join(needed)}, which a GFL head '
                         'cannot give: use another assigner')


def match_by_image(assigner, sampler, grids: Sequence[PriorGrid], truth: GroundTruths, peek: Peek) -> Matches:
    """Match B images, one by one.

    The matches' weight is 1 for every sampled prior and 0 elsewhere.
    """
    priors, usable = all_priors(grids, truth.boxes.device), usable_priors(grids, truth.ranges, truth.boxes.device)
    if usable is None:
        usable = torch.ones(len(truth.counts), len(priors.center), dtype=torch.bool, device=truth.boxes.device)
    parameters = inspect.signature(assigner.assign).parameters
    weight, norm, found, first = torch.zeros_like(usable, dtype=torch.float32), 0., [], 0
    for image, (count, ignored, ranges) in enumerate(zip(truth.counts, truth.ignored, truth.ranges)):
        gt, index = slice(first, first + count), usable[image].nonzero()[:, 0]
        pred = predictions_for(assigner, Priors(*(x[index] for x in priors)), peek, image, index)
        objects = InstanceData(bboxes=truth.boxes[gt], labels=truth.labels[gt])
        arguments = dict(pred_instances=pred, gt_instances=objects,
                         gt_instances_ignore=None if ignored is None else InstanceData(bboxes=ignored))
        if 'num_level_priors' in parameters:
            arguments['num_level_priors'] = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in ranges]
        result = assigner.assign(**arguments)
        sampled = sampler.sample(assign_result=result, pred_instances=pred, gt_instances=objects)
        weight[image, index[sampled.pos_inds]] = weight[image, index[sampled.neg_inds]] = 1
        norm += sampled.avg_factor if sampled.avg_factor_with_neg else 0
        found.append((index[sampled.pos_inds], first + sampled.pos_assigned_gt_inds, soft_score(result, sampled)))
        first += count

    prior, gt, score = zip(*found)
    prior, gt, score = torch.cat(prior), torch.cat(gt), None if score[0] is None else torch.cat(score)
    m = Matches.of(grids, truth, prior, gt, torch.ones_like(prior, dtype=torch.bool), score)
    return m._replace(weight=weight, norm=m.norm.new_tensor(norm) if norm else m.norm)


def predictions_for(assigner, priors: Priors, peek: Peek, image: int, index: Tensor) -> LazyInstances:
    """What an assigner of MMDetection reads from the predictions of an image at the priors ``index`` (N,)."""
    takes_points = isinstance(assigner, (DynamicSoftLabelAssigner, SimOTAAssigner))  # (cx, cy, stride_x, stride_y)
    takes_logits = isinstance(assigner, (DynamicSoftLabelAssigner, ATSSAssigner))  # the others take probabilities
    fields = dict(
        priors=lambda: torch.cat([priors.center, priors.stride], 1) if takes_points else priors.boxes(),
        bboxes=lambda: peek.boxes[image, index],
        scores=lambda: peek.logits(image)[index] if takes_logits else peek.logits(image)[index].sigmoid())
    if getattr(assigner, 'alpha', 0) is None:  # ATSSAssigner, without DDOD's dynamic cost, warns of predictions
        fields = dict(priors=fields['priors'])
    return LazyInstances(type(assigner).__name__, **fields)


def soft_score(result, sampled) -> Optional[Tensor]:
    """(K,) soft scores of the positives of MMDetection's TaskAlignedAssigner, scaled as its TOODHead scales them."""
    metric, gt = getattr(result, 'assign_metrics', None), sampled.pos_assigned_gt_inds
    if metric is None or not len(gt):
        return metric if metric is None else metric[:0]
    own = gt == torch.arange(result.num_gts, device=gt.device)[:, None]  # (G, K)
    metric, overlap = (x[sampled.pos_inds].expand_as(own) for x in (metric, result.max_overlaps))
    return scale_to_overlap(metric, overlap, own).sum(0)
