"""The studies of :mod:`gfl_plugin.analysis`, from a command line to a folder of numbers and figures."""
import importlib.util
import json
import os
import time
from argparse import Namespace
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from ..config_bases import CONFIGS
from ..errors import SetupError
from ..files import write_text
from .config import Options, load_config
from .own_data import innermost
from .parts import build_head, own_head, read_resize
from .reproduce import ON_COCO
from .run import load_trained

EXTRA = ('jinja2', 'matplotlib', 'plotly', 'scipy')


def analyze(options: Options) -> str:
    """Study as ``tools/analyze.py`` says, and write STUDY.json, STUDY.png and STUDY.html.

    Returns:
        A summary, and the paths of the files.

    Raises:
        SetupError: The user made a mistake, or a package is missing.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:  # before the work starts
        raise SetupError(f'This study needs {", ".join(missing)}, which is not installed: '
                         'pip install -c constraints.txt -e ".[analysis]"')
    from .. import analysis
    study = getattr(analysis, options.study)
    folder = options.out or os.path.join('work_dirs', 'analyze', options.study)
    os.makedirs(folder, exist_ok=True)
    numbers = STUDIES[options.study](options, folder)

    paths = {kind: os.path.join(folder, f'{options.study}.{kind}') for kind in ('json', 'png', 'html')}
    asked = {name: value for name, value in vars(options).items() if value is not None}
    write_text(paths['json'], json.dumps(dict(options=asked, **numbers), indent=1, allow_nan=False) + '\n')
    chart = study.chart(numbers)
    analysis.charts.save_png(chart, paths['png'])
    getattr(study, 'save_html', lambda *_: analysis.charts.save_html(chart, paths['html']))(numbers, paths['html'])
    return f'{study.summary(numbers)}\n{" ".join(paths.values())}'


# ---- data ----

def _study_targets(options: Options, folder: str) -> Dict[str, Any]:
    from ..analysis import targets
    if not (options.annotations or options.config):
        raise SetupError('targets needs an annotation file, or a --config whose training data it looks at')
    config = load_config(_with(options, config=options.config or os.path.join(CONFIGS, ON_COCO)))
    init_default_scope(config.get('default_scope', 'mmdet'))
    if options.annotations:
        images = targets.objects_of_file(options.annotations)
    else:
        from mmdet.registry import DATASETS
        images = targets.objects_of_dataset(DATASETS.build(config.train_dataloader.dataset))

    def build(strides: Optional[Sequence[float]]):
        return build_head(config, strides or options.strides, options.octave_base_scale)

    return targets.study(build, images, read_resize(config, options.scale), options.reg_max)


# ---- models ----

def _study_models(options: Options, folder: str) -> Dict[str, Any]:
    from .. import analysis
    study, pairs = getattr(analysis, options.study), options.models
    if len(pairs) % 2:
        raise SetupError(f'{options.study} takes pairs of CONFIG and CHECKPOINT, and {len(pairs)} names were given')
    models: List[Any] = []
    for config, checkpoint in zip(pairs[::2], pairs[1::2]):
        name = os.path.splitext(os.path.basename(config))[0]
        same = sum(model.name.partition(' #')[0] == name for model in models)
        models.append(_open(options, config, checkpoint, f'{name} #{same + 1}' if same else name, folder))
    extra = dict(with_ap=True) if getattr(options, 'ap', False) else {}
    return dict(images=options.images, **study.study(models, **extra))


def _open(options: Options, config_file: str, checkpoint: str, name: str, folder: str):
    """Load a trained model and the first test images of its config, with their boxes."""
    from ..analysis.reading import Scene, Trained, read_scenes
    config = load_config(_with(options, config=config_file))
    own_head(config)
    pipeline = innermost(config.test_dataloader.dataset).pipeline
    innermost(config.test_dataloader.dataset).pipeline = load_boxes_first(pipeline)
    config.work_dir, config.experiment_name = os.path.join(folder, 'logs'), f'analyze_{time.time_ns()}'
    runner = load_trained(config, _with(options, checkpoint=checkpoint))
    model, loop = runner.model, runner.test_loop

    def scenes() -> Iterator[Scene]:
        return read_scenes(model, loop.dataloader, options.images)

    def average_precision(detect: Callable[[Scene, int], List[InstanceData]]) -> float:
        count = 0
        for number, scene in enumerate(scenes()):
            loop.evaluator.process(model.add_pred_to_datasample(scene.samples, detect(scene, number)))
            count += len(scene.samples)
        # MMDetection gives no AP if nothing was detected. It is 0.
        return float(loop.evaluator.evaluate(count).get('coco/bbox_mAP', 0.0))

    return Trained(name, model.bbox_head, scenes, average_precision)


def load_boxes_first(pipeline: Sequence[ConfigDict]) -> List[ConfigDict]:
    """Change a test pipeline so that boxes go through the same transforms as the image.

    Test pipelines load boxes last, in pixels of the original image, or not at all.
    """
    names = [transform['type'].rpartition('.')[2] for transform in pipeline]
    boxes = ConfigDict(type='LoadAnnotations', with_bbox=True)
    rest = [transform for transform, name in zip(pipeline, names) if name != 'LoadAnnotations']
    first = next((i for i, transform in enumerate(rest) if not transform['type'].rpartition('.')[2].startswith('Load')),
                 len(rest))
    return rest[:first] + [boxes] + rest[first:]


# ---- losses ----

def _study_losses(options: Options, folder: str) -> Dict[str, Any]:
    from ..analysis import losses
    return losses.measure()


def _with(options: Options, **changes: Any) -> Options:
    return Namespace(**{**vars(options), **changes})


STUDIES = dict(targets=_study_targets, quality=_study_models, centerness=_study_models, perturb=_study_models,
               losses=_study_losses)
