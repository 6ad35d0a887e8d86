"""Fit intervals for the sides of boxes, measure them on other images, and store them in the checkpoint."""
import json
import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from tqdm import tqdm

from .. import conformal, files, safe_loading
from ..card import KEY, Card
from ..conformal import MatchedDetections
from ..datasets.annotations import some
from ..datasets.folder import read_data, read_split
from ..datasets.layouts import Split
from ..errors import SetupError
from ..evaluation.matching import match_detections
from ..inference import Detector, Result
from .config import Options, find_config
from .recipe import VAL_SHARE
from .run_folders import numbered

FOLDER = os.path.join('work_dirs', 'calibrate')
MOST_DOUBTFUL = 5  # images that the summary names; the report lists all


class Calibrated(NamedTuple):
    """What was found: ``text`` for a reader, ``content`` for a program."""
    text: str
    content: Dict[str, Any]


class Measured(NamedTuple):
    """The detections of a split of a data set, beside its objects.

    Attributes:
        matched: M detections that match an object.
        labels: (M,) their classes.
        doubts: The doubt about each image, by its file; see :func:`measure_doubt`.
    """
    matched: MatchedDetections
    labels: np.ndarray
    doubts: Dict[str, Optional[float]]


def calibrate(options: Options) -> Calibrated:
    """Calibrate as ``tools/calibrate.py`` says.

    Raises:
        SetupError: The data are unusable or too few, the model predicts no distributions, or a file cannot be written.
    """
    config = options.config and find_config(options.config)
    detector = Detector(options.checkpoint, options.device, config, options.score_thr, uncertainty=True,
                        trust=options.trust_checkpoint)
    share = VAL_SHARE if options.val_share is None else options.val_share
    split = options.split or ('test' if 'test' in read_data(options.data, share).splits else 'val')
    part = read_split(options.data, split, share)
    warning = find_training_images(detector.card, part)
    found = measure(detector, part)
    images = found.matched.image
    fitting = conformal.first_half(images, options.seed)
    calibration = conformal.fit(found.matched.select(fitting), options.coverage)
    report = conformal.evaluate(calibration, found.matched.select(~fitting), found.labels[~fitting], detector.classes)
    content = dict(
        checkpoint=options.checkpoint, data=os.path.abspath(options.data), split=split, score_thr=detector.score_thr,
        calibration=calibration.to_dict(), measured=report, warnings=[warning] if warning else [],
        reliability=conformal.reliability(found.matched.select(fitting), found.matched.select(~fitting)),
        halves=repeat_halves(found, options.coverage, options.halves) if options.halves else None,
        images=[dict(file=file, doubt=doubt) for file, doubt in sort_by_doubt(found.doubts)])
    folder = write_report(content, options.out)
    if options.store:
        store(options.checkpoint, detector.card._replace(calibration=calibration.to_dict()), options.trust_checkpoint)
    return Calibrated(summarize(content, folder, options.store), content)


# ---- detections and objects ----

def measure(detector: Detector, part: Split) -> Measured:
    """Detect on the images of a split, and match the detections with its objects.

    A match has the object's class and an IoU of at least 0.5. The best score chooses first.
    """
    label_of = {name: label for label, name in enumerate(detector.classes)}
    labels = {category['id']: label_of.get(category['name'], -1) for category in part.content['categories']}
    objects: Dict[int, List[dict]] = {}
    for entry in part.content['annotations']:
        objects.setdefault(entry['image_id'], []).append(entry)
    paths = [os.path.join(part.images, image['file_name']) for image in part.content['images']]
    rows: List[Tuple[np.ndarray, ...]] = []
    doubts: Dict[str, Optional[float]] = {}
    results = tqdm(detector.stream(paths), total=len(paths), unit='image', disable=None)
    for index, (image, result) in enumerate(zip(part.content['images'], results)):
        doubts[result.path] = measure_doubt(result)
        rows.append((*_match(result, objects.get(image['id'], []), labels), np.full(1, index)))
    sides, truth, std, classes, images = ([row[column] for row in rows] for column in range(5))
    counts = [len(one) for one in sides]
    matched = MatchedDetections.of(*(np.concatenate([np.empty((0, 4)), *parts]) for parts in (sides, truth, std)),
                                   np.repeat(np.arange(len(images)), counts))
    return Measured(matched, np.concatenate([np.empty(0, int), *classes]), doubts)


def _match(result: Result, objects: Sequence[dict], labels: Dict[int, int]) -> Tuple[np.ndarray, ...]:
    """Sides, true sides, standard deviations and labels of the detections that match an object."""
    boxes = np.array([entry['bbox'] for entry in objects], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    ignored = np.array([bool(entry.get('iscrowd') or entry.get('ignore')) for entry in objects], bool)
    matches = match_detections(result.boxes, result.scores, result.labels, boxes,
                               np.array([labels[entry['category_id']] for entry in objects], int), ignored)
    keep = matches.gt_index >= 0
    return result.boxes[keep], boxes[matches.gt_index[keep]], result.side_std[keep], result.labels[keep]


def measure_doubt(result: Result) -> Optional[float]:
    """The doubt about an image: of its detections, the largest mean spread of the sides, as a share of the box's size.

    The size is the square root of the area. None without detections.
    """
    if not len(result):
        return None
    size = np.sqrt((result.boxes[:, 2:] - result.boxes[:, :2]).clip(1).prod(1))
    return float((result.side_std.mean(1) / size).max())


def sort_by_doubt(doubts: Dict[str, Optional[float]]) -> List[Tuple[str, Optional[float]]]:
    """The most doubtful image first; images without detections last."""
    return sorted(doubts.items(), key=lambda item: -1.0 if item[1] is None else item[1], reverse=True)


def repeat_halves(found: Measured, coverage: float, times: int) -> Dict[str, Any]:
    """Fit on a random half of the images and measure on the other half, several times: means over the halves."""
    reports = []
    for seed in range(times):
        fitting = conformal.first_half(found.matched.image, seed)
        calibration = conformal.fit(found.matched.select(fitting), coverage)
        reports.append(conformal.evaluate(calibration, found.matched.select(~fitting)))
    means = {part: {key: float(np.mean([report[part][key] for report in reports])) for key in reports[0][part]}
             for part in ('sides', 'boxes')}
    return dict(times=times, **means)


def find_training_images(card: Card, part: Split) -> Optional[str]:
    """Warn if file names show that the model was trained on images of a split."""
    train = card.trained_on or {}
    if train.get('type', '').rpartition('.')[2] != 'FolderDataset' or not os.path.exists(train.get('data', '')):
        return None
    trained = read_split(train['data'], train['split'], train['val_share'])
    both = sorted(_paths(trained) & _paths(part))
    if not both:
        return None
    return (f'{len(both)} of the {len(part.content["images"])} images trained the model ({some(both)}). On these it '
            'errs less than on new ones, so the intervals will be too narrow')


def _paths(part: Split) -> Set[str]:
    return {os.path.realpath(os.path.join(part.images, image['file_name'])) for image in part.content['images']}


# ---- what is written ----

def store(checkpoint: str, card: Card, trust: bool) -> None:
    """Replace the card of a checkpoint. The file is written completely or not at all."""
    if '://' in checkpoint:
        raise SetupError(f'The calibration cannot be stored in {checkpoint}: download it first')
    with safe_loading.trusting(*([checkpoint] if trust else [])):
        content = safe_loading.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    content[KEY] = card.to_text()
    try:
        with files.replacing(checkpoint) as temporary:
            torch.save(content, temporary)
    except OSError as error:
        raise SetupError(f'{checkpoint} cannot be written ({error.strerror}). It is unchanged') from error


def write_report(content: Dict[str, Any], folder: Optional[str]) -> str:
    """Write the numbers as JSON, and the reliability as a figure."""
    if folder is None:
        folder = next(free for free in numbered(FOLDER) if not os.path.exists(free))
    try:
        os.makedirs(folder, exist_ok=True)
        files.write_text(os.path.join(folder, 'calibration.json'), json.dumps(content, indent=1, ensure_ascii=False))
        draw_reliability(content, os.path.join(folder, 'reliability.png'))
    except OSError as error:
        raise SetupError(f'The report cannot be written to {folder} ({error.strerror}). Name another folder by '
                         '--out') from error
    return folder


def draw_reliability(content: Dict[str, Any], path: str) -> None:
    """Draw the coverage that was asked for against the one that was measured, and the widths of the intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 4.2), layout='constrained')
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    rows = content['reliability']
    left.plot([0, 1], [0, 1], color='0.6', linewidth=1, label='as asked for')
    for name, color, marker in (('sides', '#0072b2', 'o'), ('boxes', '#d55e00', 's')):
        asked, covered = ([row[key] for row in rows] for key in ('coverage', name))
        left.plot(asked, covered, color=color, marker=marker, label=name)
    left.set(xlabel='coverage asked for', ylabel='coverage on images that were not fitted', xlim=(0, 1), ylim=(0, 1))
    left.legend(frameon=False)
    measured = content['measured']
    names = ['sides', 'boxes']
    for offset, key, color, label in ((-.2, 'width', '#0072b2', 'by the predicted spread'),
                                      (.2, 'fixed_width', '0.6', 'of one width')):
        bars = right.bar([index + offset for index in range(2)], [measured[name][key] for name in names], .4,
                         color=color, label=label)
        right.bar_label(bars, fmt='%.1f')
    right.set_xticks(range(2), names)
    right.set(ylabel=f'mean width of a {content["calibration"]["coverage"]:.0%} interval, pixels')
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=120)


def summarize(content: Dict[str, Any], folder: str, is_stored: bool) -> str:
    """What was found, in a few lines."""
    fitted, measured = content['calibration'], content['measured']
    lines = [f'Fitted on {fitted["detections"]} matched detections in {fitted["images"]} images of {content["split"]}, '
             f'measured on {measured["detections"]} in {measured["images"]} other images',
             f'{"":8}{"asked for":>10}{"covered":>10}{"mean width":>13}{"fixed width":>13}{"it covers":>11}']
    lines += [_row(name, fitted['coverage'], measured[name]) for name in ('sides', 'boxes')]
    if content['halves']:
        lines.append(f'Means over {content["halves"]["times"]} random halves')
        lines += [_row(name, fitted['coverage'], content['halves'][name]) for name in ('sides', 'boxes')]
    doubtful = [image for image in content['images'] if image['doubt'] is not None][:MOST_DOUBTFUL]
    lines.append('Most doubt, and so worth a label first:')
    lines += [f'  {image["doubt"]:.2f}  {image["file"]}' for image in doubtful]
    lines += [f'Warning: {warning}' for warning in content['warnings']]
    lines.append(f'Report: {folder}')
    if is_stored:
        lines.append(f'The intervals are stored in {content["checkpoint"]}')
    return '\n'.join(lines)


def _row(name: str, coverage: float, numbers: Dict[str, float]) -> str:
    return (f'{name:8}{coverage:10.1%}{numbers["coverage"]:10.1%}{numbers["width"]:10.2f} px'
            f'{numbers["fixed_width"]:10.2f} px{numbers["fixed_coverage"]:11.1%}')
