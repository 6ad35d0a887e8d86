"""Detect objects with a trained checkpoint."""
import warnings
from typing import Any, Callable, Collection, Dict, Iterator, List, NamedTuple, Optional

import numpy as np
import torch
from mmdet.structures import DetDataSample

from ..conformal import Calibration
from ..errors import SetupError
from ..heads import GFLHead
from ..heads.build_axes import require_distributions
from ..heads.test_time_augmentation import SIDE_FIELDS
from .folding import fold_batch_norms
from .images import ImageError, Source, find_images, read_image
from .loading import build_transforms, load_model
from .result import Result

FALLBACK_THR = 0.3  # if the checkpoint recommends none


class Prepared(NamedTuple):
    """An image as the network gets it."""
    source: Source
    pixels: torch.Tensor  # (3, H, W) uint8
    sample: DetDataSample  # with ori_shape, img_shape and scale_factor

    def padded_shape(self, divisor: int) -> tuple:
        """Height and width once the preprocessor has padded the image, pixels."""
        return tuple(-(-side // divisor) * divisor for side in self.pixels.shape[-2:])


class Detector:
    """A trained detector: images in, boxes out.

    .. code-block:: python

        detector = gfl_plugin.Detector('work_dirs/gfl_lite0_fpn/best_coco_bbox_mAP_epoch_24.pth')
        for result in detector('photos/'):
            print(result.path, result.names, result.scores, result.boxes)

    Args:
        checkpoint: A file or URL. It carries its config if it was trained with this release or a later one.
        device: Such as ``'cpu'`` or ``'cuda:1'``; ``'auto'`` is the first GPU that PyTorch can use, or else the CPU.
        config: Path of the config, or the name of a config of this package, for a checkpoint that does not carry it. It
            runs as Python, so it must be your own.
        score_thr: Detections with a lower score are left out. By default the threshold that the checkpoint recommends,
            the one of best F1 on its validation set, or 0.3 if it recommends none. The config's own threshold
            (``test_cfg.score_thr``, 0.05 as a rule) stays.
        batch_size: The most images that the network gets at once. Only images of one padded size share a batch, so that
            an image has the same detections whatever it comes with.
        uncertainty: Whether results have ``side_std``, and ``side_interval`` if the checkpoint is calibrated.
        distributions: Whether results have ``side_places`` and ``side_probs``.
        fold: Whether batch normalisations are folded into the convolutions. This saves time, and changes scores and
            boxes by float rounding only.
        trust: Whether to load the checkpoint with full pickle. The file can then run any code on this machine.
        allow: Registered classes of your own that the checkpoint's config may name. It may name the classes of this
            project, and those of MMDetection, mmcv and PyTorch that detectors are made of, and no others.

    Attributes:
        classes: Names of the C classes.
        score_thr: As above.
        model: MMDetection's model, in evaluation mode.

    Raises:
        SetupError: There is no such checkpoint or device, the file is damaged, or it does not carry its config. Or
            distributions are asked for, and the model predicts none.
        UnsafeCheckpointError: The checkpoint asks for more than data.
    """

    def __init__(self, checkpoint: str, device: str = 'auto', config: Optional[str] = None,
                 score_thr: Optional[float] = None, batch_size: int = 8, uncertainty: bool = False,
                 distributions: bool = False, fold: bool = True, trust: bool = False,
                 allow: Collection[type] = ()) -> None:
        self.model, self.card = load_model(checkpoint, config, _choose_device(device), trust, allow)
        self.classes, self.batch_size = tuple(self.card.classes), batch_size
        self.calibration = self.card.calibration and Calibration.from_dict(self.card.calibration)
        recommended = FALLBACK_THR if self.card.score_thr is None else self.card.score_thr
        self.score_thr = recommended if score_thr is None else _require_share(score_thr)
        self._transforms = build_transforms(self.card.pipeline, checkpoint, allow if config is None else None)
        if uncertainty or distributions:
            self.ask_for_distributions(uncertainty, distributions)
        if fold:
            fold_batch_norms(self.model)

    def ask_for_distributions(self, uncertainty: bool = True, distributions: bool = True) -> None:
        """Let results have what the arguments of the same names say.

        Raises:
            SetupError: The model predicts no distributions.
        """
        head = getattr(self.model, 'bbox_head', None)
        if not isinstance(head, GFLHead):
            name = type(self.model if head is None else head).__name__
            raise SetupError(f'{name} does not hand out how far each side can be trusted: '
                             'gfl_plugin.GFLHead does, and it loads the checkpoints of mmdet.GFLHead')
        require_distributions(head.box, dict(uncertainty=uncertainty, distributions=distributions))
        head.test_cfg.update(uncertainty=uncertainty, distributions=distributions)
        if self.calibration and self.score_thr < self.calibration.score_thr:
            warnings.warn(f'The intervals are calibrated for scores of at least {self.calibration.score_thr:.2f}, and '
                          f'this detector gives scores from {self.score_thr:.2f} on. Calibrate it for these (calibrate '
                          '--score-thr)')

    def __call__(self, images: Any, rgb: bool = False, score_thr: Optional[float] = None) -> List[Result]:
        """Detect objects in images.

        Args:
            images: A path, a folder, a pattern such as ``photos/*.jpg``, an array (H, W, 3) or (H, W) of uint8, a PIL
                image, or a list of these.
            rgb: Whether arrays have their channels in the order red, green, blue. By default it is blue, green, red, as
                OpenCV reads them.
            score_thr: Overrides the detector's threshold for this call.

        Returns:
            One result per image, in the order of the images. Always a list.

        Raises:
            ImageError: An image cannot be read. :meth:`stream` can go on with the others.
        """
        return list(self.stream(images, rgb, score_thr))

    def stream(self, images: Any, rgb: bool = False, score_thr: Optional[float] = None,
               on_error: Optional[Callable[[ImageError], None]] = None) -> Iterator[Result]:
        """Like a call, but give one result after the other, so that any number of images fits in memory.

        Args:
            images, rgb, score_thr: As for a call.
            on_error: Is called with the error of each image that cannot be read; the others go on. Without it, the
                first such error is raised.
        """
        lowest = self.score_thr if score_thr is None else _require_share(score_thr)
        waiting: List[Prepared] = []
        for source in find_images(images, rgb):
            try:
                waiting.append(self.prepare(source))
            except ImageError as error:
                if on_error is None:
                    raise
                on_error(error)
            if len(waiting) == self.batch_size:
                yield from self._detect(waiting, lowest)
                waiting = []
        yield from self._detect(waiting, lowest)

    def prepare(self, source: Source) -> Prepared:
        """Read an image and bring it to the size of the network's input.

        Raises:
            ImageError: The image cannot be read or resized.
        """
        image = read_image(source)
        data: Dict[str, Any] = dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        try:
            for transform in self._transforms:
                data = transform(data)
        except Exception as error:  # OpenCV refuses to resize to a height of 0
            raise ImageError(source.name, f'its {image.shape[1]} x {image.shape[0]} pixels cannot be brought to the '
                             f'size of the network\'s input ({error})') from error
        keys = ('ori_shape', 'img_shape', 'scale_factor')
        sample = DetDataSample(metainfo={key: data[key] for key in keys if key in data})
        pixels = np.ascontiguousarray(data['img'].transpose(2, 0, 1))
        return Prepared(source, torch.from_numpy(pixels), sample)

    def _detect(self, prepared: List[Prepared], score_thr: float) -> Iterator[Result]:
        """Detect in one batch per padded size, and give the results in the order of the images."""
        divisor = getattr(self.model.data_preprocessor, 'pad_size_divisor', 1)
        batches: Dict[tuple, List[int]] = {}
        for index, one in enumerate(prepared):
            batches.setdefault(one.padded_shape(divisor), []).append(index)
        found: Dict[int, DetDataSample] = {}
        for batch in batches.values():
            found.update(zip(batch, self._run([prepared[index] for index in batch])))
        for index, one in enumerate(prepared):
            yield self._result(one.source, found[index], score_thr)

    @torch.inference_mode()
    def _run(self, batch: List[Prepared]) -> List[DetDataSample]:
        return self.model.test_step(dict(inputs=[one.pixels for one in batch],
                                         data_samples=[one.sample for one in batch]))

    def _result(self, source: Source, sample: DetDataSample, score_thr: float) -> Result:
        found = sample.pred_instances
        height, width = sample.ori_shape
        boxes, scores, labels = (found[name].cpu().numpy() for name in ('bboxes', 'scores', 'labels'))
        side_fields = {name: found[name].cpu().numpy() for name in SIDE_FIELDS if name in found}
        result = Result(boxes, scores, labels, self.classes, (width, height), source, **side_fields,
                        calibration=self.calibration)
        return result[result.scores >= score_thr]


def _require_share(score_thr: float) -> float:
    if not 0 <= score_thr <= 1:
        raise SetupError(f'score_thr={score_thr} is not between 0 and 1')
    return score_thr


def _choose_device(device: str) -> str:
    if device == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch without CUDA
        raise SetupError(f'PyTorch cannot use the device {device!r}: {str(error).splitlines()[0]}') from error
    return device
