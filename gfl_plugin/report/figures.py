"""The charts of a report, as Plotly's figures."""
import json
import math
from typing import Any, Dict, List, Optional

from ..analysis import charts
from ..analysis.charts import Layer, Panel

GREY = 'rgba(128, 128, 128, 0.55)'
MOST_CURVES = 6  # classes whose curves have a colour and a place in the legend


def draw_figures(content: Dict[str, Any]) -> Dict[str, Any]:
    """Plotly's JSON of each chart, by the name that the templates use; None if the content has no numbers for it."""
    panels = dict(_training(content['training'] or {}), precision_recall=_precision_recall(content),
                  quality=_quality(content['quality']), spread=_spread(content['uncertainty']))
    drawn = {name: panel and json.loads(charts.plotly_figure(panel).to_json()) for name, panel in panels.items()}
    for trace in drawn['ap']['data'] if drawn.get('ap') else []:
        trace['mode'] = 'lines+markers'  # a single validation is seen too
    if drawn['precision_recall']:
        _emphasize_last(drawn['precision_recall']['data'])
    return drawn


def _emphasize_last(traces: List[Dict[str, Any]]) -> None:
    """Make the mean stand out from the classes. Many classes are grey, and have no place in the legend."""
    *classes, mean = traces
    mean['line']['width'] = 3.5
    for trace in classes:
        trace['line']['width'] = 1.5
        if len(classes) > MOST_CURVES:
            trace['line']['color'] = GREY
            trace['showlegend'] = False


def _training(training: Dict[str, Any]) -> Dict[str, Optional[Panel]]:
    return dict(ap=_ap(training.get('val')), loss=_loss(training.get('loss')),
                learning_rate=_learning_rate(training.get('lr')))


def _ap(val: Optional[Dict[str, Any]]) -> Optional[Panel]:
    if not val or not val['epoch']:
        return None
    names = dict(mAP='AP', mAP_50='AP50', mAP_75='AP75')
    layers = [Layer('line', val['epoch'], _finite(val[key]), name, color)
              for color, (key, name) in enumerate(names.items())]
    return Panel('', val['unit'], 'AP', layers, y_range=(0, 1))


def _loss(loss: Optional[Dict[str, Any]]) -> Optional[Panel]:
    if not loss or not loss['iteration']:
        return None
    keys = [key for key in loss if key not in ('iteration', 'epoch')]
    layers = [Layer('line', loss['iteration'], _finite(loss[key]), 'sum of the losses' if key == 'loss' else key, color)
              for color, key in enumerate(keys)]
    return Panel('', 'iteration', 'training loss', layers)


def _learning_rate(lr: Optional[Dict[str, Any]]) -> Optional[Panel]:
    if not lr or not lr['iteration']:
        return None
    return Panel('', 'iteration', 'learning rate', [Layer('line', lr['iteration'], _finite(lr['lr']), 'learning rate')])


def _precision_recall(content: Dict[str, Any]) -> Optional[Panel]:
    curves = content['precision_recall']
    if not curves or None in curves['mean']:
        return None
    names = [entry['name'] for entry in content['classes']]
    layers = [Layer('line', curves['recall'], values, names[int(index)], color + 1)
              for color, (index, values) in enumerate(curves['classes'].items())]
    layers.append(Layer('line', curves['recall'], curves['mean'], 'mean of all classes'))
    return Panel('', 'recall', 'precision at IoU 0.5', layers, x_range=(0, 1), y_range=(0, 1.02))


def _quality(quality: Optional[Dict[str, Any]]) -> Optional[Panel]:
    if not quality or not quality['sample']['score']:
        return None
    bins = quality['bins']
    layers = [Layer('points', quality['sample']['score'], quality['sample']['iou'], 'a detection', 6),
              Layer('line', [0, 1], [0, 1], 'score = IoU', 1, 'dashed'),
              Layer('line', _column(bins, 'score'), _column(bins, 'iou'), 'mean of a bin')]
    return Panel('', 'score', 'IoU with the ground truth', layers, x_range=(0, 1), y_range=(0, 1))


def _spread(uncertainty: Optional[Dict[str, Any]]) -> Optional[Panel]:
    if not uncertainty or not uncertainty['sample']['std']:
        return None
    bins, sample = uncertainty['bins'], uncertainty['sample']
    end = max(_column(bins, 'std') + _column(bins, 'error'), default=1.0)
    layers = [Layer('points', sample['std'], sample['error'], 'a side', 6),
              Layer('line', [0, end], [0, end], 'error = spread', 1, 'dashed'),
              Layer('line', _column(bins, 'std'), _column(bins, 'error'), 'mean of a bin')]
    return Panel('', 'predicted spread (pixels)', 'error (pixels)', layers)


def _column(bins: List[Dict[str, float]], key: str) -> List[float]:
    return [entry[key] for entry in bins]


def _finite(values: List[Optional[float]]) -> List[float]:
    """A curve with gaps in the place of values that are missing."""
    return [math.nan if value is None else value for value in values]
