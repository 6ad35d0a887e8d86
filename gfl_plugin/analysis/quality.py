"""Compare the predicted score with the true IoU of its box (GFL, arXiv:2006.04388, figure 2)."""
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from ..candidates import Candidates
from ..functional.boxes import best_iou, iou
from ..functional.priors import PriorGrid
from ..heads import GFLHead
from ..predictions import Predictions
from .charts import Chart, Layer, Panel
from .reading import (
    Scene,
    Trained,
    find_positives,
    image_shapes,
    rank_correlation,
    require_positives,
    sample_of,
    share,
    show_number,
)

LEAST_SCORE = 0.05  # score_thr of the configs' test_cfg: negatives below it are never detections
THRESHOLDS = (0.1, 0.3, 0.5)
FRACTIONS = tuple(i / 50 for i in range(1, 101))  # numbers of scores looked at, per number of positives
MISSES = 0.5  # a box with a lower IoU finds no object, even at COCO's most lenient threshold
SAMPLE = 1500  # most positives, and most negatives, drawn as points in a figure


class Scores(NamedTuple):
    """Scores that rank detections, and IoUs in [0, 1]; (N,) each."""
    positive: Tensor  # score of each positive for the class of its object
    positive_iou: Tensor  # IoU of its box and its object
    negative: Tensor  # highest score of each negative, of those that reach LEAST_SCORE
    negative_iou: Tensor  # largest IoU of its box and an object of that class
    negatives: int  # number of all negatives
    branch: Optional[Tensor]  # output of the quality's branch at all negatives; None without a branch


@torch.no_grad()
def read_scores(head: GFLHead, scene: Scene) -> Scores:
    """Read the scores of one batch, for a head with any quality and any box.

    The positives are those that the assigner would train. Every other prior of the image is a negative, including the
    neighbours of positives, whose boxes are often good.
    """
    pred = head.predictions(*head(scene.features))
    (matches, gt_boxes, labels), shapes = find_positives(head, pred, scene), image_shapes(scene)
    scores, boxes = scores_of_all(pred), head.boxes_at(pred, matches, shapes)

    counts = torch.ones(scores.shape[:2], dtype=torch.bool, device=scores.device)
    if matches.cls_weight is not None:
        counts &= matches.cls_weight > 0
    counts[matches.image[matches.valid], matches.prior[matches.valid]] = False
    best = scores.max(2)
    negative = _by_level(counts & (best.values > LEAST_SCORE), best.indices, best.values, pred.grids)
    return Scores(
        scores[matches.image, matches.prior, labels][matches.valid].cpu(),
        iou(boxes, gt_boxes)[matches.valid].cpu(), negative.score.cpu(),
        _best_iou(head.boxes_at(pred, negative, shapes), negative.label, negative.image, scene).cpu(),
        int(counts.sum()),
        None if pred.branch is None else
        torch.cat([b.flatten(1) for b in pred.branch], 1).float().sigmoid()[counts].cpu())


def scores_of_all(pred: Predictions) -> Tensor:
    """(B, P, C) scores that detections are ranked by, of every prior and class."""
    scores = pred.logits().sigmoid()
    if pred.branch is None:
        return scores
    return scores * torch.cat([b.flatten(1) for b in pred.branch], 1).float().sigmoid()[..., None]


def _by_level(chosen: Tensor, label: Tensor, score: Tensor, grids: Sequence[PriorGrid]) -> Candidates:
    """Group the chosen priors by level; ``chosen``, ``label`` and ``score`` are (B, P)."""
    image, prior = chosen.nonzero(as_tuple=True)
    order = prior.argsort(stable=True)
    image, prior = image[order], prior[order]
    sizes = [int(((prior >= grid.start) & (prior < grid.start + grid.size)).sum()) for grid in grids]
    return Candidates(image, prior, label[image, prior], score[image, prior], sizes)


def _best_iou(boxes: Tensor, labels: Tensor, image: Tensor, scene: Scene) -> Tensor:
    """Compute the largest IoU (N,) of each box and an object of its class and image, no crowds; 0 if there is none."""
    result = boxes.new_zeros(len(boxes))
    for index, objects in enumerate(scene.objects):
        mine = image == index
        result[mine] = best_iou(boxes[mine], labels[mine], objects.bboxes, objects.labels)
    return result


def join(parts: Sequence[Scores]) -> Scores:
    """Join the scores of several batches."""
    columns = list(zip(*parts))
    branch = None if parts[0].branch is None else torch.cat(columns[5])
    return Scores(*map(torch.cat, columns[:4]), sum(columns[4]), branch)


def measure(scores: Scores) -> Dict[str, Any]:
    """Compute the numbers of one model."""
    detections = torch.cat([scores.positive, scores.negative]), torch.cat([scores.positive_iou, scores.negative_iou])
    reached = detections[0] > LEAST_SCORE
    result = dict(
        positives=dict(count=len(scores.positive), mean_score=scores.positive.mean().item(),
                       mean_iou=scores.positive_iou.mean().item(),
                       rank_correlation=rank_correlation(scores.positive, scores.positive_iou)),
        detections=dict(least_score=LEAST_SCORE, count=int(reached.sum()),
                        rank_correlation=rank_correlation(detections[0][reached], detections[1][reached])),
        negatives=dict(
            count=scores.negatives,
            above={f'{t:g}': dict(share=int((scores.negative > t).sum()) / max(scores.negatives, 1),
                                  misses=share(scores.negative_iou[scores.negative > t] < MISSES))
                   for t in THRESHOLDS}),
        ranking=rank_negatives(scores),
        sample=dict(seed=0, most=SAMPLE,
                    positives=sample_of(dict(score=scores.positive, iou=scores.positive_iou), SAMPLE),
                    negatives=sample_of(dict(score=scores.negative, iou=scores.negative_iou), SAMPLE)))
    if scores.branch is not None:
        result['negatives']['branch_above'] = {f'{t:g}': share(scores.branch > t) for t in THRESHOLDS}
    return result


def rank_negatives(scores: Scores) -> List[Dict[str, float]]:
    """Compute the share of negatives, and of negatives that miss, among the highest scores, for each of FRACTIONS.

    Models whose scores differ in scale can be compared this way, which a share above a threshold does not allow.
    """
    score = torch.cat([scores.positive, scores.negative])
    negative = torch.arange(len(score)) >= len(scores.positive)
    misses = negative & (torch.cat([scores.positive_iou, scores.negative_iou]) < MISSES)
    order = score.argsort(descending=True, stable=True)
    result = []
    for fraction in FRACTIONS:
        first = order[:round(fraction * len(scores.positive))]
        result.append(dict(fraction=fraction, negatives=share(negative[first]), misses=share(misses[first])))
    return result


def study(models: Sequence[Trained]) -> Dict[str, Any]:
    """Compute the numbers of several models, by the names of the models."""
    result = {}
    for model in models:
        scores = join([read_scores(model.head, scene) for scene in model.scenes()])
        require_positives(scores.positive, model.name)
        result[model.name] = measure(scores)
    return dict(models=result)


# ---- figure and summary ----

def chart(numbers: Dict[str, Any]) -> Chart:
    """Draw a scatter plot for each model, and curves of how many negatives that miss rank high."""
    panels: List[Panel] = []
    for name, model in numbers['models'].items():
        layers = [Layer('points', model['sample'][kind]['iou'], model['sample'][kind]['score'], f'{kind} (sample)', i)
                  for kind, i in (('negatives', 1), ('positives', 0))]
        of_positives, of_all = (show_number(model[kind]['rank_correlation']) for kind in ('positives', 'detections'))
        panels.append(Panel(f'{name}\nrank correlation: {of_positives} of positives, {of_all} of all above '
                            f'{LEAST_SCORE:g}', 'true IoU of the box', 'predicted score', layers, (0, 1), (0, 1)))
    curves = [Layer('line', [100 * row['fraction'] for row in model['ranking']],
                    [100 * row['misses'] for row in model['ranking']], name, i)
              for i, (name, model) in enumerate(numbers['models'].items())]
    panels.append(Panel(f'Negatives that miss (IoU < {MISSES:g}) among the highest scores',
                        'highest scores looked at [% of the number of positives]', 'negatives that miss [% of these]',
                        curves, (0, 200)))
    return Chart('Predicted score against true IoU', panels,
                 f'Points of a model: a random sample (seed 0) of at most {SAMPLE} positives and {SAMPLE} negatives '
                 f'above a score of {LEAST_SCORE:g}; the numbers use all')


def summary(numbers: Dict[str, Any]) -> str:
    lines = []
    for name, model in numbers['models'].items():
        positives, negatives = model['positives'], model['negatives']
        above = ', '.join(f'{100 * part["share"]:.3f}% above {t} ({part["misses"]:.0%} of these miss)'
                          for t, part in negatives['above'].items())
        top = next(row for row in model['ranking'] if row['fraction'] == 1)
        lines += [
            f'{name}: rank correlation of score and IoU {show_number(positives["rank_correlation"])} of '
            f'{positives["count"]} positives, {show_number(model["detections"]["rank_correlation"])} of all '
            f'{model["detections"]["count"]} above {LEAST_SCORE:g}',
            f'  the {positives["count"]} highest scores: {top["negatives"]:.1%} are negatives, {top["misses"]:.1%} '
            f'negatives that miss (IoU < {MISSES:g})', f'  of {negatives["count"]} negatives {above}']
        if 'branch_above' in negatives:
            shares = ', '.join(f'{s:.1%} above {t}' for t, s in negatives['branch_above'].items())
            lines.append(f'  its branch at negatives: {shares}')
    return '\n'.join(lines)
