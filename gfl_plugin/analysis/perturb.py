"""How far boxes move when features are disturbed: Dirac, Gaussian and General (GFL, arXiv:2006.04388, figure 10).

The paper disturbs the feature in a simulation; here the noise is added to the maps that a trained head gets from its
neck. It is Gaussian, its standard deviation a fraction, the strength, of that of the map that it is added to, so that
models whose features differ in size are disturbed alike; each model gets the same draws.
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
    """IoUs of the boxes of K positives at each of S strengths, (S, K) each."""
    with_object: Tensor
    with_calm: Tensor  # with the box of the same prior without noise


def disturb(features: Sequence[Tensor], strength: float, seed: int) -> List[Tensor]:
    """L maps with noise of ``strength`` standard deviations of each; the same draws for the same shapes and seed."""
    generator = torch.Generator().manual_seed(seed)  # on the host: the same draws on every device
    return [m + strength * m.std() * torch.randn(m.shape, generator=generator).to(m) for m in features]


@torch.no_grad()
def read_moved(head: GFLHead, scene: Scene, strengths: Sequence[float], seed: int) -> Moved:
    """The moved boxes of one batch, for any quality and box, at strengths of which the first is 0.

    The positives are those without noise, at every strength.
    """
    found, boxes = None, []
    for strength in strengths:
        pred = head.predictions(*head(disturb(scene.features, strength, seed)))
        found = found or find_positives(head, pred, scene)
        boxes.append(head.boxes_at(pred, found.m, image_shapes(scene))[found.m.valid])
    moved = torch.stack(boxes)
    return Moved(iou(moved, found.boxes[found.m.valid]).cpu(), iou(moved, moved[0]).cpu())


def measure(moved: Moved, strengths: Sequence[float]) -> Dict[str, Any]:
    """The numbers of one model; errors are standard errors of the means over positives."""
    count = moved.with_object.shape[1]
    drop = moved.with_object[:1] - moved.with_object
    return dict(
        positives=count, strengths=list(strengths), iou_with_object=moved.with_object.mean(1).tolist(),
        iou_with_calm_box=moved.with_calm.mean(1).tolist(), drop=drop.mean(1).tolist(),
        error_of_drop=(drop.std(1, correction=0) / max(count, 1)**0.5).tolist())


def study(models: Sequence[Trained], with_ap: bool = False, strengths: Sequence[float] = STRENGTHS) -> Dict[str, Any]:
    """The numbers of several models, by their names; with AP at each strength where it is asked for."""
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


# ---- for a reader ----

def chart(numbers: Dict[str, Any]) -> Chart:
    """Curves over the strength, of all models."""
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
    return Chart('Boxes of positives under feature noise', panels, 'Gaussian noise on the maps that the head gets, the '
                 'same draws for each model', columns=2)


def summary(numbers: Dict[str, Any]) -> str:
    lines = []
    for name, model in numbers['models'].items():
        drops = ', '.join(f'{drop:.4f} ± {error:.4f} at {s:g}' for s, drop, error in zip(
            model['strengths'], model['drop'], model['error_of_drop']) if s)
        lines.append(f'{name} ({model["box"]}): of the IoU {model["iou_with_object"][0]:.3f} of {model["positives"]} '
                     f'positives the noise takes {drops}')
        if 'ap' in model:
            lines.append('  AP ' + ', '.join(f'{ap:.3f} at {s:g}' for s, ap in zip(model['strengths'], model['ap'])))
    return '\n'.join(lines)
