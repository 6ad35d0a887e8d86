"""Draw the losses as curves over the predicted probability (GFL, arXiv:2006.04388, figure 5a), with sliders."""
from typing import Any, Dict, List, Sequence

import torch

from ..losses import (
    distribution_focal_loss,
    focal_loss,
    generalized_focal_loss,
    quality_focal_loss,
    varifocal_loss,
)
from .charts import Chart, Layer, Panel, arrange, bokeh_figure, save_page

BETAS = (0.0, 0.5, 1.0, 2.0, 4.0)  # of figure 5a
FL_ALPHA, VFL_ALPHA = 0.25, 0.75  # the losses' defaults
SETTINGS = dict(beta=2.0, gamma=2.0, y=0.5)
RANGES = dict(beta=(0, 5, 0.1), gamma=(0, 5, 0.1), y=(0, 1, 0.01))  # first, last, step of each slider

# Computes the numbers of `curves` in the page while a slider moves. A test checks that both agree.
JAVASCRIPT = '''
function curves(p, beta, gamma, y, betas, fl_alpha, vfl_alpha) {
    const result = {};
    const add = (name, loss) => { result[name] = Array.from(p, loss); };
    const cross_entropy = (p, y) => -((1 - y) * Math.log(1 - p) + y * Math.log(p));
    const qfl = (beta) => (p) => Math.pow(Math.abs(y - p), beta) * cross_entropy(p, y);
    const label = y >= 0.5 ? 1 : 0;
    const alpha_t = label ? fl_alpha : 1 - fl_alpha;
    add('FL', (p) => alpha_t * Math.pow(Math.abs(label - p), gamma) * cross_entropy(p, label));
    add('QFL', qfl(beta));
    add('VFL', (p) => (y > 0 ? y : vfl_alpha * Math.pow(p, gamma)) * cross_entropy(p, y));
    add('DFL', (p) => -((1 - y) * Math.log(1 - p) + (y - 0) * Math.log(p)));
    add('GFL', (p) => Math.pow(Math.abs(y - (0 * (1 - p) + 1 * p)), beta)
                      * -((1 - y) * Math.log(1 - p) + (y - 0) * Math.log(p)));
    for (const beta of betas) add('beta = ' + beta, qfl(beta));
    return result;
}
'''
UPDATE = '''
const values = curves(p, beta.value, gamma.value, y.value, betas, fl_alpha, vfl_alpha);
for (const name of Object.keys(sources)) sources[name].data = {x: p, y: values[name]};
'''
LABELS = dict(FL='FL: label 1 where y ≥ 1/2, else 0 (gamma; alpha 1/4)', QFL='QFL (beta, y)',
              VFL='VFL (gamma, y; alpha 3/4)', DFL='DFL: S_r = p, y between two bins',
              GFL='GFL, eq. 7, y_l = 0, y_r = 1 (beta, y)')
DASHES = dict(DFL='dashed', GFL='dotted')


def curves(p: Sequence[float], beta: float, gamma: float, y: float) -> Dict[str, List[float]]:
    """Compute FL, QFL, VFL, DFL and GFL at the probabilities p, and QFL at the betas of figure 5a.

    FL takes only hard labels: 1 if y is at least one half, else 0. DFL has two bins, and S_r = p.

    Args:
        p: Probabilities in (0, 1).
        beta: Exponent of QFL and GFL, >= 0.
        gamma: Exponent of FL and VFL, >= 0.
        y: The target, in [0, 1].
    """
    p = torch.tensor(p, dtype=torch.float64)
    log_p, log_q = p.log(), (1 - p).log()
    logits, target = log_p - log_q, torch.full_like(p, y)
    losses = dict(
        FL=focal_loss(logits, (target >= 0.5).double(), gamma, FL_ALPHA),
        QFL=quality_focal_loss(logits, target, beta),
        VFL=varifocal_loss(logits, target, VFL_ALPHA, gamma),
        DFL=distribution_focal_loss(torch.stack([log_q, log_p], -1), target),
        GFL=generalized_focal_loss(log_q, log_p, target, 0, 1, beta))
    losses.update({f'beta = {b:g}': quality_focal_loss(logits, target, b) for b in BETAS})
    return {name: loss.tolist() for name, loss in losses.items()}


def measure(points: int = 199) -> Dict[str, Any]:
    """Compute the curves at the initial settings of the sliders."""
    p = [(i + 1) / (points + 1) for i in range(points)]
    return dict(settings=SETTINGS, alpha=dict(FL=FL_ALPHA, VFL=VFL_ALPHA), p=p, losses=curves(p, **SETTINGS))


def chart(numbers: Dict[str, Any]) -> Chart:
    p, losses = numbers['p'], numbers['losses']
    settings = ', '.join(f'{name} = {value:g}' for name, value in numbers['settings'].items())
    axes = dict(x_label='predicted probability p', y_label='loss', x_range=(0, 1), y_range=(0, 2))
    return Chart(f'Losses over the predicted probability, at {settings}', [
        Panel('QFL for several beta (figure 5a)', layers=[
            Layer('line', p, losses[f'beta = {b:g}'], f'beta = {b:g}', i) for i, b in enumerate(BETAS)], **axes),
        Panel('FL, QFL, VFL, DFL and GFL', layers=[
            Layer('line', p, losses[name], label, i, DASHES.get(name, 'solid'))
            for i, (name, label) in enumerate(LABELS.items())], **axes),
    ], notes='QFL is GFL between 0 and 1, so their curves coincide; DFL is GFL at beta = 0.', columns=2)


def save_html(numbers: Dict[str, Any], path: str) -> None:
    """Save the chart with sliders for beta, gamma and y, which redraw the curves at once."""
    from bokeh.layouts import column, row
    from bokeh.models import CustomJS, Slider
    drawn = chart(numbers)._replace(title='Losses over the predicted probability')
    figures = [bokeh_figure(panel) for panel in drawn.panels]
    names = {label: name for name, label in LABELS.items()}
    sources = {names.get(line.name, line.name): line.data_source for plot in figures for line in plot.renderers}
    sliders = {name: Slider(title=name, value=numbers['settings'][name], start=first, end=last, step=step, width=280)
               for name, (first, last, step) in RANGES.items()}
    update = CustomJS(code=JAVASCRIPT + UPDATE, args=dict(
        sliders, sources=sources, p=numbers['p'], betas=list(BETAS), fl_alpha=FL_ALPHA, vfl_alpha=VFL_ALPHA))
    for slider in sliders.values():
        slider.js_on_change('value', update)
    save_page(drawn, column(row(*sliders.values()), arrange(drawn, figures)), path)


def summary(numbers: Dict[str, Any]) -> str:
    return 'Curves of FL, QFL, VFL, DFL and GFL'
