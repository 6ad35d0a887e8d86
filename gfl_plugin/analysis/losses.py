"""Draw the losses as curves over the predicted probability (GFL, arXiv:2006.04388, figure 5a), with sliders."""
import base64
from typing import Any, Dict, List, Sequence

import numpy as np
import torch

from ..losses import (
    distribution_focal_loss,
    focal_loss,
    generalized_focal_loss,
    quality_focal_loss,
    varifocal_loss,
)
from .charts import Chart, Layer, Panel, save_page

BETAS = (0.0, 0.5, 1.0, 2.0, 4.0)  # of figure 5a
FL_ALPHA, VFL_ALPHA = 0.25, 0.75  # the losses' defaults
SETTINGS = dict(beta=2.0, gamma=2.0, y=0.5)
RANGES = dict(beta=(0, 5, 0.25), gamma=(0, 5, 0.25), y=(0, 1, 0.05))  # first, last, step of each slider
EXPONENTS = dict(FL='gamma', QFL='beta', VFL='gamma', GFL='beta')  # the slider that changes a curve beside y
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


def measure(points: int = 99) -> Dict[str, Any]:
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
    """Save the chart with sliders for beta, gamma and y, which swap the curves at once."""
    drawn = chart(numbers)._replace(title='Losses over the predicted probability')
    save_page(drawn, path, 'losses.html', sliders=RANGES, settings=numbers['settings'], table=tabulate(numbers['p']))


def tabulate(p: Sequence[float]) -> Dict[str, Any]:
    """Compute every curve at every step of the sliders.

    Returns:
        For each label of a curve its ``slider`` (None if only y changes the curve), and its ``curves``: values at p as
        base64 of float32, by the step of this slider and the step of y.
    """
    # No curve depends on both beta and gamma, so they take the same steps together.
    grid = [[curves(p, exponent, exponent, y) for y in steps('y')] for exponent in steps('beta')]
    table = {}
    for name in grid[0][0]:
        rows = grid if name in EXPONENTS else grid[:1]
        table[LABELS.get(name, name)] = dict(slider=EXPONENTS.get(name), curves=[
            [_encode(losses[name]) for losses in row] for row in rows])
    return table


def steps(name: str) -> List[float]:
    """List the values that a slider can take."""
    first, last, step = RANGES[name]
    return [first + i * step for i in range(round((last - first) / step) + 1)]


def _encode(values: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(values, '<f4').tobytes()).decode()


def summary(numbers: Dict[str, Any]) -> str:
    return 'Curves of FL, QFL, VFL, DFL and GFL'
