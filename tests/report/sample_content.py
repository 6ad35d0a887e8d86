"""The content of a report, made by hand, in the form that `gfl_plugin.report.content.read_report` returns."""
import base64
import io
from typing import List, Sequence

import numpy as np
from PIL import Image, ImageDraw

KINDS = ('correct', 'wrong_class', 'poorly_placed', 'duplicate', 'background')
HOSTILE = ('<script>alert(1)</script>', '"quoted" & \'single\'', '</script><img src=x onerror=alert(2)>', '🂡 ace',
           '{{ 7 * 7 }}', 'a' * 300, '猫の写真', 'a\u2028b', '<!-- <script>')


def make_content(names: Sequence[str] = ('circle', 'square', 'triangle'), images: int = 4, found: int = 5,
                 size=(640, 480), spread: bool = True) -> dict:
    """A report on ``images`` pictures with ``found`` detections each. Set parts of it to None to leave them out."""
    rng = np.random.default_rng(0)
    return dict(
        title='gfl_r18_fpn_shapes', made='2026-11-25T04:50:00', versions=dict(gfl_plugin='0.1.0', torch='2.13.0'),
        about=dict(checkpoint='work_dirs/shapes/best.pth', run='work_dirs/shapes', config='gfl_r18_fpn_shapes',
                   classes=list(names), trained_on=dict(type='ShapesDataset', data='data/shapes', split='train'),
                   data='data/shapes', split='val', images=300, objects=1234, score_thr=0.35, epochs=12,
                   trained_with=dict(gfl_plugin='0.1.0', torch='2.13.0', date='2026-11-24T10:00:00+00:00'),
                   parameters=19_400_000),
        metrics=dict(mAP=0.734, mAP_50=0.869, mAP_75=0.801, mAP_s=None, mAP_m=0.55, mAP_l=0.76, AR_100=0.79),
        verdict=dict(kind='improving', sentence='AP was still rising when the training ended.',
                     rule='AP rose by more than 0.01 over the last third of the validations.'),
        training=_training(),
        classes=[dict(name=name, objects=100 + i, AP=0.9 - 0.4 * i / len(names), AP50=0.95, precision=0.8, recall=0.7)
                 for i, name in enumerate(names)],
        precision_recall=dict(recall=_numbers(np.linspace(0, 1, 101)), mean=_fall(0.95),
                              classes={str(i): _fall(0.99 - 0.02 * i) for i in range(min(len(names), 20))}),
        confusion=_confusion(names[:20], rng),
        errors=dict(correct=900, wrong_class=30, poorly_placed=55, duplicate=12, background=41, missed=88, definitions={
            kind: f'How a report tells that a detection is {kind}.' for kind in (*KINDS, 'missed')}),
        quality=_quality(rng),
        uncertainty=_uncertainty(rng) if spread else None,
        images=[_image(f'picture_{i}.jpg', names, found, size, rng, spread) for i in range(images)],
        worst=list(range(images)), doubtful=list(range(images))[::-1] if spread else [],
        rules=dict(worst='The images with the most errors', doubtful='The images with the largest doubt'),
        notes=['The curves are thinned to 1000 points.'])


def _training() -> dict:
    steps, epochs = np.arange(0, 3000, 25), np.arange(1, 13)
    loss = {key: _numbers(height * np.exp(-steps / 900) + 0.2) for key, height in
            dict(loss=2.0, loss_cls=1.0, loss_bbox=0.7, loss_dfl=0.3).items()}
    return dict(loss=dict(iteration=steps.tolist(), epoch=(steps // 250).tolist(), **loss),
                lr=dict(iteration=steps.tolist(), lr=(1e-3 * np.cos(steps / 2000)**2).tolist()),
                val=dict(unit='epoch', epoch=epochs.tolist(), **{
                    key: _numbers(top * (1 - np.exp(-epochs / 4)))
                    for key, top in dict(mAP=0.77, mAP_50=0.9, mAP_75=0.84).items()}),
                val_loss=None, thinning=None)


def _confusion(names: Sequence[str], rng: np.random.Generator) -> dict:
    matrix = rng.poisson(2, (len(names) + 1, ) * 2) + np.diag([90] * len(names) + [0])
    matrix[-1, -1] = 0
    return dict(labels=[*names, 'background'], matrix=matrix.tolist(), shown='all')


def _quality(rng: np.random.Generator) -> dict:
    score = rng.random(300)
    iou = (score + rng.normal(0, 0.1, 300)).clip(0, 1)
    return dict(bins=[dict(score=x, iou=x * 0.95, count=30) for x in (0.05, 0.25, 0.45, 0.65, 0.85)],
                sample=dict(score=_numbers(score), iou=_numbers(iou)), rank_correlation=0.83,
                definition='All detections')


def _uncertainty(rng: np.random.Generator) -> dict:
    std = rng.gamma(2, 2, 300)
    return dict(rank_correlation=0.6, definition='The sides of the correct detections',
                bins=[dict(std=x, error=x * 0.8, count=60) for x in (1.0, 2.0, 4.0, 8.0)],
                sample=dict(std=_numbers(std), error=_numbers(np.abs(rng.normal(0, std)))),
                calibration=dict(coverage=0.9, sides=dict(coverage=0.905), boxes=dict(coverage=0.91),
                                 note='These are not the images that the calibration was fitted on.'))


def _image(file: str, names: Sequence[str], found: int, size, rng: np.random.Generator, spread: bool) -> dict:
    width, height = size
    view = [round(length * min(1, 720 / max(size))) for length in size]
    boxes = _boxes(found, width, height, rng)
    return dict(
        file=file, width=width, height=height, view=view, src=_picture(boxes, size, view),
        truth=[dict(box=_numbers(box), name=names[i % len(names)], missed=i == 0) for i, box in enumerate(boxes)],
        found=[dict(box=_numbers(box + rng.normal(0, 4, 4)), name=names[i % len(names)], kind=KINDS[i % len(KINDS)],
                    score=round(0.95 - 0.5 * i / found, 3), **_distribution(box, spread))
               for i, box in enumerate(boxes)],
        counts={kind: 1 for kind in (*KINDS, 'missed')}, doubt=0.4 if spread else None)


def _boxes(count: int, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    middle = rng.uniform((0.15, 0.2), (0.85, 0.8), (count, 2)) * (width, height)
    half = rng.uniform(0.06, 0.15, (count, 2)) * min(width, height)
    return np.concatenate([middle - half, middle + half], 1)


def _distribution(box: np.ndarray, spread: bool) -> dict:
    """The places of a side lie around it, 8 pixels apart."""
    if not spread:
        return dict(std=None, places=None, probs=None)
    std = np.array([3.0, 6.0, 9.0, 14.0])
    offsets = np.arange(-8, 9) * 8.0
    probs = np.exp(-0.5 * (offsets / std[:, None])**2)
    return dict(std=_numbers(std), places=[_numbers(side + offsets) for side in box],
                probs=[_numbers(row / row.sum()) for row in probs])


def _picture(boxes: np.ndarray, size, view: List[int]) -> str:
    picture = Image.new('RGB', size, (108, 117, 112))
    draw = ImageDraw.Draw(picture)
    for i, box in enumerate(boxes):
        draw.ellipse(box.tolist(), fill=((214, 178, 94), (92, 128, 168), (176, 108, 96))[i % 3])
    return data_uri(picture.resize(view))


def data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, 'JPEG', quality=80)
    return 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode()


def _fall(top: float) -> List[float]:
    return _numbers(top * (1 - np.linspace(0, 1, 101)**6))


def _numbers(values) -> List[float]:
    return np.round(np.asarray(values, float), 4).tolist()
