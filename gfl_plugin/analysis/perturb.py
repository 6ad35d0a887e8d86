"""Measure how far boxes move under feature noise: Dirac, Gaussian and General (GFL, arXiv:2006.04388, figure 10).

The paper simulates the noise. This study adds Gaussian noise to the maps that a trained head gets from its neck. The
strength of the noise is its standard deviation, relative to the standard deviation of the map, so that models whose
features differ in scale are disturbed equally. Each model gets the same random draws.
"""
from functools import partial
from typing import Any, Dict, List, NamedTuple, Sequence

import torch
from torch import Tensor

from ..functional.boxes import iou
from ..heads import GFLHead
from .charts import Chart, Layer, Panel
from .reading import Scene, Trained, find_positives, image_shapes, require_positives

STRENGTHS = (0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0)


class Moved(NamedTuple):
    """IoUs of the boxes of K positives at S strengths, (S, K) each."""
    with_object: Tensor  # IoU with the object
    with_calm: Tensor  # IoU with the box that the same prior gives without noise


def disturb(features: Sequence[Tensor], strength: float, seed: int) -> List[Tensor]:
    """Add noise of ``strength`` standard deviations to each of L maps; equal shapes and seeds give equal draws."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device gets the same draws
    return [f + strength * f.std() * torch.randn(f.shape, generator=generator).to(f) for f in features]


@torch.no_grad()
def read_moved(head: GFLHead, scene: Scene, strengths: Sequence[float], seed: int) -> Moved:
    """Read the moved boxes of one batch, for a head with any quality and any box. The first strength must be 0.

    At every strength the positives are those that are assigned without noise.
    """
    found, boxes = None, []
    for strength in strengths:
        pred = head.predictions(*head(disturb(scene.features, strength, seed)))
        found = found or find_positives(head, pred, scene)
        boxes.append(head.boxes_at(pred, found.matches, image_shapes(scene))[found.matches.valid])
    moved = torch.stack(boxes)
    return Moved(iou(moved, found.boxes[found.matches.valid]).cpu(), iou(moved, moved[0]).cpu())


def measure(moved: Moved, strengths: Sequence[float]) -> Dict[str, Any]:
    """Compute the numbers of one model. Errors are standard errors of the means over positives."""
    count = moved.with_object.shape[1]
    drop = moved.with_object[:1] - moved.with_object
    return dict(
        positives=count, strengths=list(strengths), iou_with_object=moved.with_object.mean(1).tolist(),
        iou_with_calm_box=moved.with_calm.mean(1).tolist(), drop=drop.mean(1).tolist(),
        error_of_drop=(drop.std(1, correction=0) / max(count, 1)**0.5).tolist())


def study(models: Sequence[Trained], with_ap: bool = False, strengths: Sequence[float] = STRENGTHS) -> Dict[str, Any]:
    """Compute the numbers of several models, by the names of the models; on request with AP at each strength."""
    result = {}
    for model in models:
        parts = [read_moved(model.head, scene, strengths, seed) for seed, scene in enumerate(model.scenes())]
        moved = Moved(*(torch.cat(part, 1) for part in zip(*parts)))
        require_positives(moved.with_object[0], model.name)
        result[model.name] = dict(box=type(model.head.box).__name__, **measure(moved, strengths))
        if with_ap:
            result[model.name]['ap'] = [model.average_precision(partial(_detect, model.head, strength))
                                        for strength in strengths]
    return dict(models=result)


@torch.no_grad()
def _detect(head: GFLHead, strength: float, scene: Scene, seed: int) -> list:
    return head.predict_by_feat(*head(disturb(scene.features, strength, seed)), batch_img_metas=scene.metas,
                                rescale=True)


# ---- figure and summary ----

def chart(numbers: Dict[str, Any]) -> Chart:
    """Draw the curves of all models over the strength."""
    models = numbers['models']
    panels = []
    for key, title, y_label in (
            ('iou_with_calm_box', 'How far boxes move', 'mean IoU with the box without noise'),
            ('iou_with_object', 'How good they stay', 'mean IoU with the object'),
            ('drop', 'What is lost', 'mean drop of the IoU with the object'),
            ('ap', 'Detections', 'AP')):
        layers = [Layer('line', model['strengths'], model[key], f'{name} ({model["box"]})', i)
                  for i, (name, model) in enumerate(models.items()) if key in model]
        if layers:
            panels.append(Panel(title, 'noise [standard deviations of the feature map]', y_label, layers))
    return Chart('Boxes of positives under feature noise', panels, 'Gaussian noise on the maps that the head gets, '
                 'with the same draws for each model', columns=2)


def summary(numbers: Dict[str, Any]) -> str:
    lines = []
    for name, model in numbers['models'].items():
        drops = ', '.join(f'{drop:.4f} ± {error:.4f} at {s:g}' for s, drop, error in zip(
            model['strengths'], model['drop'], model['error_of_drop']) if s)
        lines.append(f'{name} ({model["box"]}): the IoU of {model["positives"]} positives is '
                     f'{model["iou_with_object"][0]:.3f} without noise, and drops by {drops}')
        if 'ap' in model:
            lines.append('  AP ' + ', '.join(f'{ap:.3f} at {s:g}' for s, ap in zip(model['strengths'], model['ap'])))
    return '\n'.join(lines)
