"""Centre-ness and IoU as labels of the positives (GFL, arXiv:2006.04388, figure 12)."""
from typing import Any, Dict, NamedTuple, Sequence

import torch
from torch import Tensor

from ..functional.boxes import centerness, iou
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

BINS = 20
THRESHOLDS = (0.1, 0.2, 0.3)  # a true positive with a label below one of these is hard to find
SAMPLE = 3000  # points in a figure


class Labels(NamedTuple):
    """Two labels that a quality may be trained towards, at the K positives: (K,) each, in [0, 1]."""
    centerness: Tensor  # of the prior in its object; it does not depend on the prediction
    iou: Tensor  # IoU of the predicted box and its object


@torch.no_grad()
def read_labels(head: GFLHead, scene: Scene) -> Labels:
    """Read the labels of one batch, for a head with any quality and any box."""
    pred = head.predictions(*head(scene.features))
    matches, gt_boxes, _ = find_positives(head, pred, scene)
    boxes, center = head.boxes_at(pred, matches, image_shapes(scene)), pred.priors_at(matches).center
    return Labels(centerness(center, gt_boxes)[matches.valid].cpu(), iou(boxes, gt_boxes)[matches.valid].cpu())


def measure(labels: Labels) -> Dict[str, Any]:
    """Compute the numbers of one model."""
    result: Dict[str, Any] = dict(positives=len(labels.iou), bins=BINS)
    for name, label in labels._asdict().items():
        result[name] = dict(
            mean=label.mean().item(), median=label.median().item(), histogram=label.histc(BINS, 0, 1).int().tolist(),
            below={f'{t:g}': share(label < t) for t in THRESHOLDS})
    result['rank_correlation'] = rank_correlation(*labels)
    result['sample'] = dict(seed=0, most=SAMPLE, **sample_of(labels._asdict(), SAMPLE))
    return result


def study(models: Sequence[Trained]) -> Dict[str, Any]:
    """Compute the numbers of several models, by the names of the models."""
    result = {}
    for model in models:
        labels = Labels(*map(torch.cat, zip(*[read_labels(model.head, scene) for scene in model.scenes()])))
        require_positives(labels.iou, model.name)
        result[model.name] = measure(labels)
    return dict(models=result)


# ---- figure and summary ----

def chart(numbers: Dict[str, Any]) -> Chart:
    """Draw two histograms and a scatter plot for each model."""
    panels = []
    edges = [i / BINS for i in range(BINS + 1)]
    for name, model in numbers['models'].items():
        layers = [Layer('bars', edges, [100 * n / max(model['positives'], 1) for n in model[kind]['histogram']],
                        f'{label}: mean {model[kind]["mean"]:.2f}, {model[kind]["below"]["0.2"]:.0%} below 0.2', i)
                  for i, (kind, label) in enumerate((('iou', 'IoU'), ('centerness', 'centre-ness')))]
        panels.append(Panel(f'{name}: labels of {model["positives"]} positives', 'label', 'share of positives [%]',
                            layers, (0, 1)))
        points = Layer('points', model['sample']['centerness'], model['sample']['iou'], 'positives (sample)', 2)
        panels.append(Panel(f'{name}: rank correlation {show_number(model["rank_correlation"])}',
                            'centre-ness of the prior', 'IoU of its box', [points], (0, 1), (0, 1)))
    return Chart('Centre-ness and IoU as labels of positives', panels,
                 f'Points: a random sample of at most {SAMPLE} positives a model (seed 0); the numbers use all',
                 columns=2)


def summary(numbers: Dict[str, Any]) -> str:
    lines = []
    for name, model in numbers['models'].items():
        for kind, label in (('iou', 'IoU'), ('centerness', 'centre-ness')):
            below = ', '.join(f'{s:.1%} below {t}' for t, s in model[kind]['below'].items())
            lines.append(f'{name}: {label} of {model["positives"]} positives has the mean {model[kind]["mean"]:.3f}, '
                         f'median {model[kind]["median"]:.3f}; {below}')
    return '\n'.join(lines)
