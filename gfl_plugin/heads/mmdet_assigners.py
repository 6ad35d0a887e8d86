"""MMDetection's assigners and samplers, image by image."""
import inspect
from typing import Callable, Optional, Sequence

import torch
from mmdet.models.task_modules import PseudoSampler
from mmdet.models.task_modules.assigners import ATSSAssigner, DynamicSoftLabelAssigner, PointAssigner, SimOTAAssigner
from mmengine.structures import InstanceData
from torch import Tensor

from ..assigners.task_aligned import VARIANTS, scale_to_overlap
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

    def __len__(self) -> int:
        return len(self.priors)

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def __getattr__(self, name: str) -> Tensor:
        if name not in self._fields:
            raise MissingFieldError(f'train_cfg.assigner={self._owner} asks the head for {name!r} of its predictions, '
                                    f'and the head can give {", ".join(self._fields)}: use another assigner')
        setattr(self, name, self._fields[name]())
        return getattr(self, name)


def require_fit(assigner, sampler) -> None:
    """Check that the head can give an assigner and a sampler what they need.

    Raises:
        SetupError: It cannot.
    """
    name, sampler_name = (type(x).__name__ for x in (assigner, sampler))
    if getattr(sampler, 'add_gt_as_proposals', False):
        raise SetupError(f'train_cfg.sampler={sampler_name} would add ground truths to the priors, and a GFL head '
                         'predicts nothing for them: set add_gt_as_proposals=False')
    if hasattr(assigner, 'match') and type(sampler) is PseudoSampler:
        return
    if not hasattr(assigner, 'assign'):
        raise SetupError(f'train_cfg.assigner={name} matches a whole batch, so that train_cfg.sampler={sampler_name} '
                         'has nothing to sample: leave out the sampler')
    parameters = inspect.signature(assigner.assign).parameters.values()
    needed = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
              and p.name not in GIVEN and (p.default is p.empty or p.name == 'img_meta')]
    if needed or isinstance(assigner, PointAssigner):
        raise SetupError(f'train_cfg.assigner={name} needs {", ".join(needed) or "points with strides as priors"}, '
                         'which a GFL head cannot give: use another assigner')


def match_by_image(assigner, sampler, grids: Sequence[PriorGrid], truth: GroundTruths, peek: Peek) -> Matches:
    """Match B images, one by one. Objects without a class of the head take no part.

    The matches' ``cls_weight`` is 1 for every sampled prior and 0 elsewhere.
    """
    priors, usable = all_priors(grids, truth.boxes.device), usable_priors(grids, truth.usable_cells, truth.boxes.device)
    if usable is None:
        usable = torch.ones(len(truth.counts), len(priors.center), dtype=torch.bool, device=truth.boxes.device)
    parameters = inspect.signature(assigner.assign).parameters
    weight, num_sampled, found = torch.zeros_like(usable, dtype=torch.float32), 0., []
    for image, (ignored, cells) in enumerate(zip(truth.ignored, truth.usable_cells)):
        gt, index = ((truth.image == image) & truth.is_class).nonzero()[:, 0], usable[image].nonzero()[:, 0]
        pred = predictions_for(assigner, Priors(*(x[index] for x in priors)), peek, image, index)
        objects = InstanceData(bboxes=truth.boxes[gt], labels=truth.labels[gt])
        arguments = dict(pred_instances=pred, gt_instances=objects,
                         gt_instances_ignore=None if ignored is None else InstanceData(bboxes=ignored))
        if 'num_level_priors' in parameters:
            arguments['num_level_priors'] = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in cells]
        result = assigner.assign(**arguments)
        sampled = sampler.sample(assign_result=result, pred_instances=pred, gt_instances=objects)
        weight[image, index[sampled.pos_inds]] = weight[image, index[sampled.neg_inds]] = 1
        num_sampled += sampled.avg_factor if sampled.avg_factor_with_neg else 0
        found.append((index[sampled.pos_inds], gt[sampled.pos_assigned_gt_inds], soft_score(result, sampled)))

    prior, gt, score = zip(*found)
    prior, gt, score = torch.cat(prior), torch.cat(gt), None if score[0] is None else torch.cat(score)
    matches = Matches.of(grids, truth, prior, gt, torch.ones_like(prior, dtype=torch.bool), score)
    if num_sampled:  # MMDetection divides by all that were sampled, if negatives were
        matches = matches._replace(num_positives=matches.num_positives.new_tensor(num_sampled))
    return matches._replace(cls_weight=weight)


def predictions_for(assigner, priors: Priors, peek: Peek, image: int, index: Tensor) -> LazyInstances:
    """What an assigner of MMDetection reads from the predictions of an image, at the priors ``index`` (N,)."""
    takes_points = isinstance(assigner, (DynamicSoftLabelAssigner, SimOTAAssigner))  # (cx, cy, stride_x, stride_y)
    takes_logits = isinstance(assigner, (DynamicSoftLabelAssigner, ATSSAssigner))  # the others take probabilities
    fields = dict(
        priors=lambda: torch.cat([priors.center, priors.stride], 1) if takes_points else priors.boxes(),
        bboxes=lambda: peek.boxes()[image, index],
        scores=lambda: peek.logits(image)[index] if takes_logits else peek.logits(image)[index].sigmoid())
    if isinstance(assigner, ATSSAssigner) and assigner.alpha is None:  # without DDOD's cost it warns of predictions
        fields = dict(priors=fields['priors'])
    return LazyInstances(type(assigner).__name__, **fields)


def soft_score(result, sampled) -> Optional[Tensor]:
    """(K,) soft scores of the positives of MMDetection's TaskAlignedAssigner, scaled as its TOODHead scales them."""
    metric, gt = getattr(result, 'assign_metrics', None), sampled.pos_assigned_gt_inds
    if metric is None or not len(gt):
        return metric if metric is None else metric[:0]
    own = gt == torch.arange(result.num_gts, device=gt.device)[:, None]  # (G, K)
    metric, overlap = (x[sampled.pos_inds].expand_as(own) for x in (metric, result.max_overlaps))
    return scale_to_overlap(metric, overlap, own, VARIANTS['tood'][-1]).sum(0)
