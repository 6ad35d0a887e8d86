"""What a score says of its box: predicted score against true IoU (GFL, arXiv:2006.04388, figure 2)."""
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from ..candidates import Candidates
from ..functional.boxes import iou
from ..functional.priors import PriorGrid
from ..heads import GFLHead
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

LEAST_SCORE = 0.05  # of a detection, as in the configs' test_cfg: negatives below it can do no harm
THRESHOLDS = (0.1, 0.3, 0.5)
FRACTIONS = tuple(i / 50 for i in range(1, 101))  # of the number of positives: so many of the highest scores
MISSES = 0.5  # a box of a lower IoU finds no object, by COCO's most lenient count
SAMPLE = 1500  # points of a kind in a figure


class Scores(NamedTuple):
    """Scores as detections are ranked by, and IoUs in [0, 1]; (N,) each."""
    positive: Tensor  # at its object's class, of the K positives
    positive_iou: Tensor  # of its box with its object
    negative: Tensor  # highest of any class, of all negatives that reach LEAST_SCORE
    negative_iou: Tensor  # of their boxes, with the nearest object of that class
    negatives: int  # in all
    branch: Optional[Tensor]  # what the branch says at all negatives, of a quality that has one


@torch.no_grad()
def read_scores(head: GFLHead, scene: Scene) -> Scores:
    """Those of one batch, for any pair of kinds.

    Positive is what the assigner would train as such; any other prior of the image is a negative, its neighbours
    included, whose boxes are often good ones.
    """
    pred = head.predictions(*head(scene.features))
    (m, gt_boxes, labels), shapes = find_positives(head, pred, scene), image_shapes(scene)
    scores, boxes = pred.scores(), head.boxes_at(pred, m, shapes)

    counts = torch.ones(scores.shape[:2], dtype=torch.bool, device=scores.device)
    if m.weight is not None:
        counts &= m.weight > 0
    counts[m.image[m.valid], m.prior[m.valid]] = False
    best = scores.max(2)
    negative = _by_level(counts & (best.values > LEAST_SCORE), best.indices, best.values, pred.grids)
    return Scores(
        scores[m.image, m.prior, labels][m.valid].cpu(), iou(boxes, gt_boxes)[m.valid].cpu(), negative.score.cpu(),
        _best_iou(head.boxes_at(pred, negative, shapes), negative.label, negative.image, scene).cpu(),
        int(counts.sum()),
        None if pred.branch is None else
        torch.cat([b.flatten(1) for b in pred.branch], 1).float().sigmoid()[counts].cpu())


def _by_level(chosen: Tensor, label: Tensor, score: Tensor, grids: Sequence[PriorGrid]) -> Candidates:
    """The chosen priors, grouped by level; each argument (B, P)."""
    image, prior = chosen.nonzero(as_tuple=True)
    order = prior.argsort(stable=True)
    image, prior = image[order], prior[order]
    sizes = [int(((prior >= grid.start) & (prior < grid.start + grid.size)).sum()) for grid in grids]
    return Candidates(image, prior, label[image, prior], score[image, prior], sizes)


def _best_iou(boxes: Tensor, labels: Tensor, image: Tensor, scene: Scene) -> Tensor:
    """(N,) the largest IoU of each box with an object of its class in its image, crowds left out; 0 without one."""
    result = boxes.new_zeros(len(boxes))
    for index, objects in enumerate(scene.objects):
        mine = image == index
        if len(objects):
            overlap = iou(boxes[mine, None], objects.bboxes) * (labels[mine, None] == objects.labels)
            result[mine] = overlap.amax(1)
    return result


def join(parts: Sequence[Scores]) -> Scores:
    """The scores of several batches."""
    columns = list(zip(*parts))
    branch = None if parts[0].branch is None else torch.cat(columns[5])
    return Scores(*map(torch.cat, columns[:4]), sum(columns[4]), branch)


def measure(scores: Scores) -> Dict[str, Any]:
    """The numbers of one model."""
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
    """Of the highest scores, as many as a fraction of the positives, how many are negatives, and negatives that miss.

    Unlike a share above a threshold this can be compared between models whose scores differ in size.
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
    """The numbers of several models, by their names."""
    result = {}
    for model in models:
        scores = join([read_scores(model.head, scene) for scene in model.scenes()])
        require_positives(scores.positive, model.name)
        result[model.name] = measure(scores)
    return dict(models=result)


# ---- for a reader ----

def chart(numbers: Dict[str, Any]) -> Chart:
    """A scatter a model, and how many negatives that miss each ranks high."""
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
                 f'Points: at most {SAMPLE} positives and {SAMPLE} negatives above a score of {LEAST_SCORE:g} a model, '
                 'drawn by chance with seed 0; numbers are of all')


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
