"""Draw what a test detects."""
import os
from typing import Dict, Optional, Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..errors import SetupError
from ..registry import HOOKS
from ..visualization import draw_detections
from ..visualization.files import name_pictures, read_image, true_boxes, write_picture


@HOOKS.register_module()
class PictureHook(Hook):
    """Draw the detections of a test on each image, and thin white frames around the ground truth.

    Unlike MMDetection's hook: images of one name in several folders have pictures of their own; the ground truth is the
    data set's, so that a pipeline that flips or scales it changes nothing; and names may be in any script.

    Args:
        folder: Where the pictures go, relative to the folder of this test's log (``work_dir/<time>``).
        score_thr: Detections with a lower score are not drawn.
    """

    def __init__(self, folder: str, score_thr: float = 0.3) -> None:
        self.folder, self.score_thr = folder, score_thr
        self._names: Dict[str, str] = {}  # of the picture of each image
        self._indices: Dict[str, int] = {}

    def before_test(self, runner: Runner) -> None:
        dataset = runner.test_dataloader.dataset
        self._indices = {dataset.get_data_info(index)['img_path']: index for index in range(len(dataset))}
        self._names = name_pictures(list(self._indices))
        folder = self._path(runner)
        try:
            os.makedirs(folder, exist_ok=True)  # before the test has taken an hour
        except OSError as error:
            raise _cannot_write(folder, error) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SetupError(f'The pictures cannot be written to {folder}: there is no permission')

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None,
                        outputs: Sequence = ()) -> None:
        dataset = runner.test_dataloader.dataset
        for sample in outputs:
            found = sample.pred_instances[sample.pred_instances.scores >= self.score_thr].cpu().numpy()
            truth = true_boxes(dataset.get_data_info(self._indices[sample.img_path]))
            picture = draw_detections(read_image(sample.img_path), found.bboxes, found.scores, found.labels,
                                      dataset.metainfo['classes'], truth)
            path = self._path(runner, self._names[sample.img_path])
            try:
                write_picture(path, picture)
            except OSError as error:
                raise _cannot_write(path, error) from error

    def _path(self, runner: Runner, *names: str) -> str:
        return os.path.join(runner.work_dir, runner.timestamp, self.folder, *names)


def _cannot_write(path: str, error: OSError) -> SetupError:
    return SetupError(f'The pictures cannot be written to {path}: {error.strerror or error}')
