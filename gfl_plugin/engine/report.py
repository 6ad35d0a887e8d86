"""Write a page about a trained detector: from a run or a checkpoint to the numbers, and from them to the page."""
import ast
import contextlib
import errno
import glob
import importlib.util
import os
from typing import Any, Dict, Iterator, NamedTuple, Optional

from mmengine.config import Config

from ..card import Card, locate_data
from ..config_bases import find_config
from ..datasets.folder import read_data, read_split
from ..datasets.layouts import Split
from ..errors import SetupError
from ..inference import Detector
from .calibrate import find_labels, find_training_images, read_located, try_to_write
from .config import Options
from .recipe import VAL_SHARE
from .start import existing_file, newest_whole

FILE = 'report.html'
EXTRA = ('jinja2', 'plotly', 'scipy')
TOO_GOOD = 'the numbers of this page are too good'


class Found(NamedTuple):
    """What ``gfl report`` was asked about.

    Attributes:
        checkpoint: Path or URL.
        run: The folder of the run that wrote it; None if it lies in none.
    """
    checkpoint: str
    run: Optional[str]


class Images(NamedTuple):
    """The images to evaluate on."""
    data: str  # path of the data set
    split_name: str
    split: Split


def report(options: Options) -> str:
    """Write the page as ``tools/report.py`` says.

    Returns:
        Where it is, and its verdict.

    Raises:
        SetupError: There is no such run, checkpoint or data set, or the page cannot be written.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:  # before the work starts
        raise SetupError(f'A report needs {", ".join(missing)}, which is not installed: '
                         'pip install -c constraints.txt -e ".[analysis]"')
    found = find_checkpoint(options.run)
    path = options.out or os.path.join(found.run or _folder_of(found.checkpoint), FILE)
    with _explaining(path):  # before all detection
        try_to_write(os.path.dirname(os.path.abspath(path)))
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    from ..report.content import Subject, read_report
    from ..report.page import write_page
    # Batches of one and the network as it is: so the metrics are those of tools/test.py to the digit.
    detector = Detector(found.checkpoint, options.device, options.config, options.score_thr, batch_size=1, fold=False,
                        trust=options.trust_checkpoint)
    images = find_images(options, detector.card, found)
    shared = find_training_images(detector.card, images.split, images.data, TOO_GOOD)
    content = read_report(detector, Subject(
        found.checkpoint, found.run, _name_config(options, found), *images,
        find_labels(images.split.content['categories'], detector.classes), [f'{shared}.'] if shared else []))
    with _explaining(path):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        write_page(content, path)
    return '\n'.join([content['verdict']['sentence'], *content['notes'], f'Written: {path}'])


def report_on_run(folder: str, trust: bool = False) -> str:
    """Write the page of a run, and say where it is, or why there is none."""
    try:
        options = Options(run=folder, data=None, val_share=None, split=None, out=None, score_thr=None, config=None,
                          device='auto', trust_checkpoint=trust)
        return report(options).splitlines()[-1].removeprefix('Written: ')
    except SetupError as error:
        return f'none ({error})'


# ---- which checkpoint ----

def find_checkpoint(name: str) -> Found:
    """Find the best checkpoint of a run, or else its last one; or the run that a checkpoint is of.

    Raises:
        SetupError: The folder is no run's, or there is no such file.
    """
    if '://' in name:
        return Found(name, None)
    if os.path.isdir(name):
        best = sorted(glob.glob(os.path.join(glob.escape(name), 'best_*.pth')), key=os.path.getmtime)
        checkpoint = best[-1] if best else newest_whole(name).path
        if checkpoint is None:
            raise SetupError(f'{name} is not the folder of a run: it has no checkpoint, neither best_*.pth nor '
                             'epoch_N.pth. Name a folder that train has written to, or a checkpoint')
        return Found(checkpoint, name)
    from ..report.history import log_files
    folder = _folder_of(existing_file(name))
    return Found(name, folder if log_files(folder) else None)


def _folder_of(checkpoint: str) -> str:
    return '' if '://' in checkpoint else os.path.dirname(checkpoint)


def _name_config(options: Options, found: Found) -> Optional[str]:
    path = options.config or (found.run and _run_config(found.run))
    return path and os.path.splitext(os.path.basename(path))[0]


def _run_config(run: str) -> Optional[str]:
    """The config that a run wrote to its folder, if it is there."""
    configs = sorted(glob.glob(os.path.join(glob.escape(run), '*.py')), key=os.path.getmtime)
    named = [path for path in configs if not os.path.basename(path)[:8].isdigit()]  # a start's own copy has its date
    return (named or configs or [None])[-1]


# ---- which images ----

def find_images(options: Options, card: Card, found: Found) -> Images:
    """Find the images to evaluate on: those of ``--data``, of ``--config``, or those that the run validated on.

    Raises:
        SetupError: They are unknown or gone, or there are none.
    """
    images = _of_data(options) if options.data else next(_known_images(options, card, found), None)
    if images is None:
        raise SetupError(f'It is not known which images {found.checkpoint} was validated on, or they are not where '
                         'they were. Name a data set: --data PATH')
    if not images.split.content['images']:
        raise SetupError(f'The {images.split_name} split of {images.data} has no images')
    images.split.content.setdefault('annotations', [])
    return images


def _of_data(options: Options) -> Images:
    share, split_name = VAL_SHARE if options.val_share is None else options.val_share, options.split or 'val'
    return Images(read_data(options.data, share).root, split_name, read_split(options.data, split_name, share))


def _known_images(options: Options, card: Card, found: Found) -> Iterator[Images]:
    """Yield the images that a config, the card and the run's config name, as far as they are there."""
    split_name, trained_on = options.split or 'val', card.trained_on or {}
    loaders = [f'{options.split}_dataloader'] if options.split else ['test_dataloader', 'val_dataloader']
    places = []
    if options.config:
        config = Config.fromfile(find_config(options.config))
        places += [locate_data(config.get(loader)) for loader in loaders]
    if trained_on.get('type', '').endswith(('FolderDataset', 'ShapesDataset')):
        places.append({**trained_on, 'split': split_name})
    config = read_settings(found.run and _run_config(found.run))
    places += [_locate(config.get(loader)) for loader in loaders]
    for place in places:
        with contextlib.suppress(OSError):  # a stranger's card may name any path
            split = place and read_located(place)
            if split:
                yield Images(place['data'], place.get('split', split_name), split)


def _locate(loader: Any) -> Optional[Dict[str, Any]]:
    """As ``locate_data``, of a loader that may be anything."""
    try:
        return locate_data(loader)
    except (AttributeError, KeyError, TypeError):
        return None


def read_settings(path: Optional[str]) -> Dict[str, Any]:
    """Read the config that MMEngine wrote to a run's folder, without running it. The folder may come from a stranger.

    Returns:
        The settings that are plain values, or lists, tuples and dicts of them. Empty if there is no such file.
    """
    settings: Dict[str, Any] = {}
    with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError, MemoryError, TypeError):
        with open(path, encoding='utf-8') as file:
            tree = ast.parse(file.read())
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                with contextlib.suppress(ValueError):
                    settings[node.targets[0].id] = _evaluate(node.value)
    return settings


def _evaluate(node: ast.expr) -> Any:
    """The value of a literal, or of a call of ``dict`` with names and literals.

    Raises:
        ValueError: It is more than that.
    """
    if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'dict' and not node.args:
        return {keyword.arg: _evaluate(keyword.value) for keyword in node.keywords}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_evaluate(child) for child in node.elts]
    return ast.literal_eval(node)


# ---- what is written ----

@contextlib.contextmanager
def _explaining(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(f'{path} cannot be written ({error.strerror or error}). Name another file by --out') from error
