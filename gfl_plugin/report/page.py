"""Write a report as one HTML page that needs no network: templates by Jinja, charts by Plotly."""
import base64
import hashlib
import os
from typing import Any, Dict, List, Optional

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..files import replacing
from . import figures, overlay

TEMPLATES = os.path.join(os.path.dirname(__file__), 'templates')
VERDICTS = dict(improving='still improving', overfitted='over-fitted', settled='settled', unknown='no verdict')
# The names of COCO's metrics, in the order of its tables.
METRICS = dict(mAP='AP', mAP_50='AP50', mAP_75='AP75', mAP_s='AP of small objects', mAP_m='AP of medium objects',
               mAP_l='AP of large objects')
HEADLINE = ('mAP', 'mAP_50', 'mAP_75')


def write_page(content: Dict[str, Any], path: str) -> None:
    """Write the page of a report.

    Args:
        content: What :func:`gfl_plugin.report.content.read_report` returns. The page carries it as JSON in the element
            ``report-data``, without the pictures and the distributions, which would make it large.
        path: The file to write.
    """
    text = render(content)
    with replacing(path) as temporary, open(temporary, 'w', encoding='utf-8', errors='replace') as file:
        file.write(text)


def render(content: Dict[str, Any]) -> str:
    """The HTML of a report."""
    scripts = [Markup(get_plotlyjs()), Markup(_read('report.js'))]
    return _environment().get_template('page.html').render(
        content, content=content, scripts=scripts, policy=_policy(scripts), data=_without_pictures(content),
        figures=figures.draw_figures(content), pictures=[overlay.lay_out(image) for image in content['images']],
        kinds=overlay.KINDS, verdict_name=VERDICTS[content['verdict']['kind']],
        headline=[(METRICS[key], content['metrics'].get(key)) for key in HEADLINE],
        other_metrics=_other_metrics(content['metrics']), most_errors=max(_counts(content['errors']), default=0),
        confusion_rows=_shade(content['confusion']), calibration=(content['uncertainty'] or {}).get('calibration'))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(number=_number, count=_count, percent=_percent, day=_day)
    environment.policies['json.dumps_kwargs'] = dict(sort_keys=False, ensure_ascii=False, allow_nan=False,
                                                     separators=(',', ':'))
    return environment


def _read(name: str) -> str:
    with open(os.path.join(TEMPLATES, name), encoding='utf-8') as file:
        return file.read()


def _policy(scripts: List[str]) -> str:
    """A content security policy: the page's own scripts run, no others, and nothing is loaded from elsewhere."""
    hashes = ' '.join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
                      for script in scripts)
    return (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
            "base-uri 'none'; form-action 'none'")


def _without_pictures(content: Dict[str, Any]) -> Dict[str, Any]:
    """The content for the page's data. The page has the pictures as images, and the distributions as curves."""
    return dict(content, images=[dict(image, src=None, found=[dict(found, places=None, probs=None)
                                                              for found in image['found']])
                                 for image in content['images']])


def _other_metrics(metrics: Dict[str, Optional[float]]) -> List[Any]:
    return [(METRICS.get(key, key.replace('_', ' ')), value) for key, value in metrics.items() if key not in HEADLINE]


def _counts(errors: Dict[str, Any]) -> List[int]:
    return [errors[kind] for kind in overlay.KINDS]


def _shade(confusion: Optional[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The rows of the confusion matrix. A cell's shade is the root of its share of the row, so that rare
    confusions can be seen."""
    if not confusion:
        return []
    rows = []
    for row, (name, counts) in enumerate(zip(confusion['labels'], confusion['matrix'])):
        total = sum(counts)
        rows.append(dict(name=name, cells=[dict(count=count, share=round((count / total)**0.5, 3) if total else 0,
                                                is_right=row == column) for column, count in enumerate(counts)]))
    return rows


# ---- filters ----

def _number(value: Optional[float], digits: int = 3) -> str:
    return '–' if value is None else f'{value:.{digits}f}'


def _count(value: Optional[int]) -> str:
    return '–' if value is None else f'{value:,}'


def _percent(value: Optional[float], digits: int = 0) -> str:
    return '–' if value is None else f'{100 * value:.{digits}f} %'


def _day(made: str) -> str:
    """An ISO date to the minute, as people write it."""
    return made[:16].replace('T', ' ')
