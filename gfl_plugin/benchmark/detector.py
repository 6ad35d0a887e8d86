"""The Detector on one image, from array to result, against the part of it that is the network's."""
from typing import List

import numpy as np
import torch

from ..inference import Detector
from ..inference.images import find_images
from .timing import Row, compare_times, in_turn

SIZE = 480, 640  # height and width of the image, pixels


def compare_detector(checkpoint: str, device: str, rounds: int) -> List[Row]:
    """Measure a call of the detector against the network and its post-processing, with and without folded layers."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    return [_compare(Detector(checkpoint, device=device, fold=fold), image, f'detector on one image of 640 x 480{note}',
                     rounds) for fold, note in ((True, ''), (False, ', not folded'))]


def _compare(detector: Detector, image: np.ndarray, name: str, rounds: int) -> Row:
    source, = find_images(image)
    prepared = detector.prepare(source)
    batch = detector.model.data_preprocessor(dict(inputs=[prepared.pixels], data_samples=[prepared.sample]))

    @torch.inference_mode()
    def network() -> None:
        detector.model(**batch, mode='predict')

    device = str(next(detector.model.parameters()).device)
    return compare_times(f'{name} (network alone)', in_turn(lambda: detector(image), network, rounds, device))
