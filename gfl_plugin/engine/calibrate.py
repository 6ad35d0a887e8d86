"""Fit intervals for the sides of boxes, measure them on other images, and store them in the checkpoint."""
import io
import json
import os
import tempfile
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from tqdm import tqdm

from .. import conformal, files, safe_loading
from ..card import KEY, Card
from ..conformal import MatchedDetections
from ..datasets.annotations import load_annotations, some
from ..datasets.folder import read_data, read_split
from ..datasets.layouts import Split
from ..errors import SetupError
from ..evaluation.matching import match_detections
from ..inference import Detector, Result
from .config import Options
from .recipe import VAL_SHARE
from .run_folders import make_output_folder

FOLDER = os.path.join('work_dirs', 'calibrate')
MOST_DOUBTFUL = 5  # images that the summary names; the report lists all


class Calibrated(NamedTuple):
    """What was found: ``text`` for a reader, ``content`` for a program."""
    text: str
    content: Dict[str, Any]


class MatchedSplit(NamedTuple):
    """The detections in the images of a split that match an object.

    Attributes:
        matched: M detections, and their objects.
        labels: (M,) their classes.
        doubts: :attr:`gfl_plugin.inference.Result.doubt` of each image, by its file.
    """
    matched: MatchedDetections
    labels: np.ndarray
    doubts: Dict[str, Optional[float]]


def calibrate(options: Options) -> Calibrated:
    """Calibrate as ``tools/calibrate.py`` says.

    Raises:
        SetupError: The data are unusable or too few, the model predicts no distributions, or a file cannot be written.
    """
    check_outputs(options)
    detector = Detector(options.checkpoint, options.device, options.config, options.score_thr, uncertainty=True,
                        trust=options.trust_checkpoint)
    share = VAL_SHARE if options.val_share is None else options.val_share
    data = read_data(options.data, share)
    split_name = options.split or ('test' if 'test' in data.splits else 'val')
    split = read_split(options.data, split_name, share)
    warning = find_training_images(detector.card, split, data.root)
    matched, labels, doubts = match_split(detector, split)
    fitting = conformal.first_half(matched.image, options.seed)
    calibration = conformal.fit(matched.select(fitting), options.coverage, detector.score_thr)
    report = conformal.evaluate(calibration, matched.select(~fitting), labels[~fitting], detector.classes)
    content = dict(
        checkpoint=options.checkpoint, data=os.path.abspath(options.data), split=split_name,
        score_thr=detector.score_thr,
        calibration=calibration.to_dict(), measured=report, warnings=[warning] if warning else [],
        reliability=conformal.reliability(matched.select(fitting), matched.select(~fitting)),
        halves=repeat_halves(matched, options.coverage, options.halves) if options.halves else None,
        images=[dict(file=file, doubt=doubt) for file, doubt in sort_by_doubt(doubts)])
    folder = write_report(content, options.out)
    if options.store:
        store(options.checkpoint, detector.card._replace(calibration=calibration.to_dict()), options.trust_checkpoint)
    return Calibrated(summarize(content, folder, options.store), content)


# ---- detections and objects ----

def match_split(detector: Detector, split: Split) -> MatchedSplit:
    """Detect on the images of a split, and match the detections with its objects.

    A match has the object's class and an IoU of at least 0.5. The best score chooses first.

    Raises:
        SetupError: The detector knows none of the classes of the split.
    """
    label_of = find_labels(split.content['categories'], detector.classes)
    objects: Dict[int, List[dict]] = {}
    for entry in split.content['annotations']:
        objects.setdefault(entry['image_id'], []).append(entry)
    images = split.content['images']
    paths = [os.path.join(split.images, image['file_name']) for image in images]
    per_image: List[Tuple[np.ndarray, ...]] = []
    doubts: Dict[str, Optional[float]] = {}
    results = tqdm(detector.stream(paths), total=len(paths), unit='image', disable=None)
    for image, result in zip(images, results):
        doubts[result.path] = result.doubt
        per_image.append(_match(result, objects.get(image['id'], []), label_of))
    sides, truth, std, labels = zip(*per_image) if per_image else [()] * 4
    matched = MatchedDetections.of(*(np.concatenate([np.empty((0, 4)), *arrays]) for arrays in (sides, truth, std)),
                                   np.repeat(np.arange(len(labels)), np.array([len(one) for one in labels], int)))
    return MatchedSplit(matched, np.concatenate([np.empty(0, int), *labels]), doubts)


def find_labels(categories: Sequence[dict], classes: Sequence[str]) -> Dict[int, int]:
    """The detector's label of each category, by the category's id; -1 for a category that the detector does not know.

    Raises:
        SetupError: The detector knows none of them.
    """
    label_of = {name: label for label, name in enumerate(classes)}
    names = [category['name'] for category in categories]
    if not label_of.keys() & set(names):
        raise SetupError(f'The detector knows none of the classes of the data. The data have {some(names)}; the '
                         f'detector has {some(list(classes))}. Rename the classes of the data')
    return {category['id']: label_of.get(category['name'], -1) for category in categories}


def _match(result: Result, objects: Sequence[dict], label_of: Dict[int, int]) -> Tuple[np.ndarray, ...]:
    """Sides, true sides, standard deviations and labels of the detections that match an object."""
    boxes = np.array([entry['bbox'] for entry in objects], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    ignored = np.array([bool(entry.get('iscrowd') or entry.get('ignore')) for entry in objects], bool)
    matches = match_detections(result.boxes, result.scores, result.labels, boxes,
                               np.array([label_of[entry['category_id']] for entry in objects], int), ignored)
    keep = matches.gt_index >= 0
    return result.boxes[keep], boxes[matches.gt_index[keep]], result.side_std[keep], result.labels[keep]


def sort_by_doubt(doubts: Dict[str, Optional[float]]) -> List[Tuple[str, Optional[float]]]:
    """The most doubtful image first; images without detections last."""
    return sorted(doubts.items(), key=lambda item: -1.0 if item[1] is None else item[1], reverse=True)


def repeat_halves(matched: MatchedDetections, coverage: float, times: int) -> Dict[str, Any]:
    """Fit on a random half of the images and measure on the other half, several times.

    Returns:
        ``times``; ``used``, the number of halves that had enough detections to fit; and for ``sides`` and ``boxes``
        the means over these halves, unless there are none.
    """
    reports = []
    for seed in range(times):
        fitting = conformal.first_half(matched.image, seed)
        if fitting.sum() >= conformal.fewest(coverage):
            calibration = conformal.fit(matched.select(fitting), coverage)
            reports.append(conformal.evaluate(calibration, matched.select(~fitting)))
    means = {kind: {key: float(np.mean([report[kind][key] for report in reports])) for key in reports[0][kind]}
             for kind in ('sides', 'boxes') if reports}
    return dict(times=times, used=len(reports), **means)


# ---- the images that trained the model ----

def find_training_images(card: Card, split: Split, root: str,
                         consequence: str = 'the intervals will be too narrow') -> Optional[str]:
    """Warn if the model was trained on images of a split, as far as their names show.

    The card may come from a stranger, and its training images may be gone. Then there is no warning.

    Args:
        card: Of the checkpoint.
        split: The images to calibrate or to evaluate on.
        root: The data set that they belong to: a folder, or the file that describes it.
        consequence: What the warning ends with.
    """
    trained_on = card.trained_on or {}
    try:
        trained = read_located(trained_on)
        if trained is None:
            return None
        # Two splits of one data set, and two sets of shapes, may have different images of the same names.
        names_tell = not trained_on['type'].endswith('ShapesDataset') and not _is_inside(trained.images, root)
        return _warn_of_shared(trained, split, names_tell, consequence)
    except (OSError, ValueError):  # a SetupError is a ValueError, and so is what Python says of an impossible path
        return None


def _warn_of_shared(trained: Split, split: Split, names_tell: bool, consequence: str) -> Optional[str]:
    """Warn about the images of a split that are training images, or else, if ``names_tell``, have their names."""
    count, more_accurate = len(split.content['images']), 'The model is more accurate on images it was trained on'
    same_files = sorted(_paths(trained) & _paths(split))
    if same_files:
        return (f'{len(same_files)} of the {count} images trained the model ({some(same_files)}). {more_accurate}, so '
                f'{consequence}')
    same_names = sorted(_names(trained) & _names(split)) if names_tell else []
    if same_names:
        return (f'{len(same_names)} of the {count} images have the names of images that trained the model '
                f'({some(same_names)}). {more_accurate}: if they are the same images, {consequence}')
    return None


def read_located(located: Dict[str, Any]) -> Optional[Split]:
    """Read the images that :func:`gfl_plugin.card.locate_data` has located; None if they are not there.

    Raises:
        SetupError: They are no data set.
    """
    kind, path = located.get('type', ''), located.get('data', '')
    name = located.get('split', 'train')
    if kind.endswith('FolderDataset') and os.path.exists(path):
        return read_split(path, name, located.get('val_share', VAL_SHARE))
    images = located.get('images', '')
    if kind.endswith('ShapesDataset'):
        path, images = os.path.join(path, name, 'annotations.json'), os.path.join(path, name, 'images')
    if not os.path.isfile(path):
        return None
    return Split(load_annotations(path, path, needs_annotations=False), images, path)


def _paths(split: Split) -> Set[str]:
    return {os.path.realpath(os.path.join(split.images, name)) for name in _names(split)}


def _names(split: Split) -> Set[str]:
    return {image['file_name'] for image in split.content['images']}


def _is_inside(path: str, root: str) -> bool:
    """Whether a path lies in the folder ``root``, or in the folder of the file ``root``."""
    path, root = os.path.realpath(path), os.path.realpath(root)
    folder = root if os.path.isdir(root) else os.path.dirname(root)
    return os.path.commonpath([path, folder]) == folder


# ---- what is written ----

def check_outputs(options: Options) -> None:
    """Check before all detection that the report and the checkpoint can be written.

    Raises:
        SetupError: One of them cannot.
    """
    folder = options.out or FOLDER
    try:
        try_to_write(folder)
    except OSError as error:
        raise SetupError(_explain_report(folder, error)) from error
    if options.store:
        _refuse_url(options.checkpoint)
        try:
            try_to_write(os.path.dirname(os.path.abspath(options.checkpoint)))
        except OSError as error:
            raise SetupError(f'The folder of {options.checkpoint} cannot be written to ({error.strerror}). Copy the '
                             'checkpoint elsewhere, or leave it as it is by --no-store') from error


def try_to_write(folder: str) -> None:
    """Write a temporary file to a folder, or to the nearest folder around it that exists."""
    folder = os.path.abspath(folder)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _refuse_url(checkpoint: str) -> None:
    if '://' in checkpoint:
        raise SetupError(f'The calibration cannot be stored in {checkpoint}: download it first')


def store(checkpoint: str, card: Card, trust: bool) -> None:
    """Replace the card of a checkpoint. The file is written completely or not at all.

    Raises:
        SetupError: The checkpoint cannot be written.
    """
    _refuse_url(checkpoint)
    with safe_loading.trusting(*([checkpoint] if trust else [])):
        content = safe_loading.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    content[KEY] = card.to_text()
    buffer = io.BytesIO()
    torch.save(content, buffer)  # to memory: torch.save raises no OSError when it cannot write a file
    try:
        with files.replacing(checkpoint) as temporary, open(temporary, 'wb') as file:
            file.write(buffer.getbuffer())
    except OSError as error:
        raise SetupError(f'{checkpoint} cannot be written ({error.strerror}). It is unchanged') from error


def write_report(content: Dict[str, Any], folder: Optional[str]) -> str:
    """Write the numbers as JSON, and the reliability as a figure."""
    try:
        folder = make_output_folder(folder, FOLDER)
        files.write_text(os.path.join(folder, 'calibration.json'), json.dumps(content, indent=1, ensure_ascii=False))
        draw_reliability(content, os.path.join(folder, 'reliability.png'))
    except OSError as error:
        raise SetupError(_explain_report(folder or FOLDER, error)) from error
    return folder


def _explain_report(folder: str, error: OSError) -> str:
    return f'The report cannot be written to {folder} ({error.strerror}). Name another folder by --out'


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
                                      (.2, 'fixed_width', '0.6', 'fixed width')):
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
             f'{"":8}{"asked for":>10}{"covered":>10}{"mean width":>13}{"fixed width":>13}{"its coverage":>14}']
    lines += [_row(name, fitted['coverage'], measured[name]) for name in ('sides', 'boxes')]
    if content['halves']:
        lines += _summarize_halves(content['halves'], fitted['coverage'])
    doubtful = [image for image in content['images'] if image['doubt'] is not None][:MOST_DOUBTFUL]
    lines.append('Most doubt (look at their labels first):')
    lines += [f'  {image["doubt"]:.2f}  {image["file"]}' for image in doubtful]
    if content['split'] == 'val':
        lines.append('Note: if val chose the best checkpoint, errors on it may be a little smaller than on new images')
    lines += [f'Warning: {warning}' for warning in content['warnings']]
    lines.append(f'Report: {folder}')
    if is_stored:
        lines.append(f'The intervals are stored in {content["checkpoint"]}')
    return '\n'.join(lines)


def _summarize_halves(halves: Dict[str, Any], coverage: float) -> List[str]:
    too_few = halves['times'] - halves['used']
    if not halves['used']:
        return [f'None of {too_few} random halves has enough matched detections to fit']
    left_out = f'; {too_few} more have too few matched detections to fit' if too_few else ''
    return [f'Means over {halves["used"]} random halves{left_out}',
            *(_row(name, coverage, halves[name]) for name in ('sides', 'boxes'))]


def _row(name: str, coverage: float, numbers: Dict[str, float]) -> str:
    return (f'{name:8}{coverage:10.1%}{numbers["coverage"]:10.1%}{numbers["width"]:10.2f} px'
            f'{numbers["fixed_width"]:10.2f} px{numbers["fixed_coverage"]:14.1%}')
