"""Read a trained detector's predictions and positives on a data set."""
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from ..errors import SetupError
from ..heads import GFLHead
from ..matches import GroundTruths, Matches
from ..predictions import Predictions


class Scene(NamedTuple):
    """A batch as the head gets it. Boxes are in pixels of the network's input."""
    features: List[Tensor]  # L maps (B, ., H, W)
    objects: List[InstanceData]  # B, with ``bboxes`` (G, 4) and ``labels`` (G,)
    ignored: List[InstanceData]  # B, with ``bboxes``
    metas: List[dict]
    samples: list  # B data samples, for an evaluator


class Trained(NamedTuple):
    """A detector to study, and its data."""
    name: str
    head: GFLHead
    scenes: Callable[[], Iterator[Scene]]
    # Computes AP. Its argument maps a scene and its number to detections, with boxes in pixels of the original image.
    average_precision: Callable[[Callable[[Scene, int], List[InstanceData]]], float]


@torch.no_grad()
def read_scenes(model, loader: Iterable, images: int) -> Iterator[Scene]:
    """Run the first images of a loader, batch by batch, through preprocessor, backbone and neck.

    Args:
        model: A single-stage detector, in evaluation mode.
        loader: A loader whose pipeline loads the boxes before it resizes the image.
        images: Number of images, rounded up to whole batches.
    """
    seen = 0
    for batch in loader:
        if seen >= images:
            return
        data = model.data_preprocessor(batch, False)
        samples = data['data_samples']
        seen += len(samples)
        yield Scene(list(model.extract_feat(data['inputs'])), [sample.gt_instances for sample in samples],
                    [sample.ignored_instances for sample in samples], [sample.metainfo for sample in samples], samples)


class Found(NamedTuple):
    """The priors that training would use as positives, and their objects."""
    matches: Matches  # K slots; ``valid`` is never None here
    boxes: Tensor  # (K, 4) ground truth, pixels of the network's input
    labels: Tensor  # (K,)


def find_positives(head: GFLHead, pred: Predictions, scene: Scene) -> Found:
    """Find the positives that training would use."""
    truth: GroundTruths = head.ground_truths(pred.grids, scene.objects, scene.metas, scene.ignored)
    matches = head.match(pred, truth)
    if matches.valid is None:
        matches = matches._replace(valid=torch.ones_like(matches.gt, dtype=torch.bool))
    return Found(matches, truth.boxes[matches.gt], truth.labels[matches.gt])


def image_shapes(scene: Scene) -> List[Sequence[int]]:
    """List the (height, width) of each image without padding, pixels."""
    return [meta['img_shape'][:2] for meta in scene.metas]


def sample_of(columns: Dict[str, Tensor], most: int, seed: int = 0) -> Dict[str, Any]:
    """Sample at most ``most`` rows of columns (N,) with a fixed seed, and round them to four digits."""
    count = len(next(iter(columns.values())))
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values
    return {name: [round(value, 4) for value in column[chosen].tolist()] for name, column in columns.items()}


def rank_correlation(a: Tensor, b: Tensor) -> Optional[float]:
    """Compute Spearman's correlation of two (N,); None for fewer than three rows or for constant values."""
    from scipy.stats import spearmanr
    if len(a) < 3 or a.unique().numel() < 2 or b.unique().numel() < 2:
        return None
    return float(spearmanr(a.double().numpy(), b.double().numpy()).statistic)


def require_positives(positives: Tensor, model: str) -> None:
    """Raise an error if there is nothing to study.

    Raises:
        SetupError: There are no positives.
    """
    if not len(positives):
        raise SetupError(f'The images that {model} is studied on hold no object with a positive prior: use more '
                         'images, with --images')


def show_number(value: Optional[float]) -> str:
    return 'undefined' if value is None else f'{value:.3f}'


def share(mask: Tensor) -> float:
    """Compute the share of True in (N,) bool; 0 for an empty mask."""
    return mask.double().mean().item() if len(mask) else 0.0
