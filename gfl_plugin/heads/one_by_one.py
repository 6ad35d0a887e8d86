"""Assignment image by image, by an assigner and a sampler with MMDetection's interface."""
from typing import List, Optional, Sequence, Tuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from ..assigners import Assignment
from ..functional.priors import CellRange, Places, PriorGrid
from ..targets import weight_of_ranges


def assign_one_by_one(assigner, sampler, grids: Sequence[PriorGrid], ranges: Sequence[Sequence[CellRange]],
                      gt_instances: List[InstanceData],
                      gt_instances_ignore: List[Optional[InstanceData]]) -> Tuple[Assignment, Tensor, Tensor]:
    """Assign B images.

    Args:
        grids: L levels.
        ranges: For each image, the cells of each level that may be used.
        gt_instances: For each image ``bboxes`` (G, 4), pixels, and ``labels`` (G,).
        gt_instances_ignore: For each image ``bboxes`` to be ignored, or ``None``.

    Returns:
        The positives; the (B, P) weight, 1 for what was sampled and 0 elsewhere; the normaliser of the class loss.
    """
    device = gt_instances[0].bboxes.device
    priors = torch.cat([g.boxes(device) for g in grids])
    usable = weight_of_ranges(grids, ranges, device)
    usable = priors.new_ones(len(ranges), len(priors)) if usable is None else usable
    weight, factor, positives, first_gt = torch.zeros_like(usable), 0, [], 0
    for image, (gt, gt_ignore) in enumerate(zip(gt_instances, gt_instances_ignore)):
        index = usable[image].nonzero()[:, 0]
        pred = InstanceData(priors=priors[index])
        result = assigner.assign(pred_instances=pred, gt_instances=gt, gt_instances_ignore=gt_ignore,
                                 num_level_priors=[(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in ranges[image]])
        sampled = sampler.sample(assign_result=result, pred_instances=pred, gt_instances=gt)
        weight[image, index[sampled.pos_inds]] = weight[image, index[sampled.neg_inds]] = 1
        factor += sampled.avg_factor
        prior = index[sampled.pos_inds]
        positives.append(torch.stack([torch.full_like(prior, image), prior, first_gt + sampled.pos_assigned_gt_inds]))
        first_gt += len(gt)

    image, prior, gt = torch.cat(positives, 1)
    level = torch.bucketize(prior, torch.tensor([g.start for g in grids[1:]], device=device), right=True)
    order = level.argsort(stable=True)
    sizes = level.bincount(minlength=len(grids)).tolist()
    assignment = Assignment(Places(image[order], prior[order], sizes), gt[order], None)
    return assignment, weight, torch.tensor(float(factor), device=device)
