"""Describe a figure once and draw it twice: as a PNG with Matplotlib, on an offline page with Plotly."""
import html
import math
import textwrap
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from ..files import replacing

# Found by a search: each contrasts with white and with the pages' dark background by at least 3, and under each of the
# three kinds of colour blindness, and without one, the two most similar colours differ by 26 units of CIELAB.
COLORS = ('#3460c8', '#e07708', '#07a866', '#8a16fd', '#8f5370', '#ca1b2a', '#9a8ac4')
WARNING = COLORS[5]
CLEAR, GRID, TEXT = 'rgba(0,0,0,0)', 'rgba(128,128,128,0.3)', '#808080'  # for light and for dark
PLOTLY_DASHES = dict(solid='solid', dashed='dash', dotted='dot')
FOLDER = Path(__file__).parent


class Layer(NamedTuple):
    """One series of a panel."""
    kind: str  # 'line', 'points' or 'bars'
    x: Sequence[float]  # for bars: their edges, one more than heights
    y: Sequence[float]
    label: str
    color: int = 0  # index into COLORS
    dash: str = 'solid'  # for a line: 'solid', 'dashed' or 'dotted'


class Panel(NamedTuple):
    """One pair of axes."""
    title: str
    x_label: str
    y_label: str
    layers: List[Layer]
    x_range: Optional[Tuple[float, float]] = None
    y_range: Optional[Tuple[float, float]] = None
    y_log: bool = False
    x_mark: Optional[Tuple[float, str]] = None  # position and label of a vertical line
    y_mark: Optional[Tuple[float, str]] = None  # position and label of a horizontal line


class Chart(NamedTuple):
    """Panels under a title. ``notes`` come below the title; ``warning`` is highlighted."""
    title: str
    panels: List[Panel]
    notes: str = ''
    warning: str = ''
    columns: int = 3


def color(index: int) -> str:
    return COLORS[index % len(COLORS)]


# ---- Matplotlib ----

def save_png(chart: Chart, path: str) -> None:
    columns = min(chart.columns, len(chart.panels))
    rows = math.ceil(len(chart.panels) / columns)
    figure = Figure(figsize=(5.4 * columns, 4.1 * rows + 1), layout='constrained', dpi=110)
    figure.suptitle('\n'.join(filter(None, (chart.title, chart.notes))), fontsize=11)
    if chart.warning:
        figure.supxlabel(chart.warning, color=WARNING, fontsize=12, fontweight='bold')
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, chart.panels):
        _draw_axes(axes, panel)
    for axes in figure.axes[len(chart.panels):]:
        axes.set_axis_off()
    figure.savefig(path, format='png')


def _draw_axes(axes: Any, panel: Panel) -> None:
    for layer in panel.layers:
        if layer.kind == 'line':
            axes.plot(layer.x, layer.y, color=color(layer.color), linestyle=layer.dash, label=layer.label)
        elif layer.kind == 'points':
            axes.scatter(layer.x, layer.y, s=6, alpha=0.4, color=color(layer.color), linewidths=0, label=layer.label)
        else:
            axes.stairs(layer.y, layer.x, fill=True, alpha=0.55, color=color(layer.color), label=layer.label)
    if panel.x_mark:
        axes.axvline(panel.x_mark[0], color=WARNING, linestyle='dashed', linewidth=1, label=panel.x_mark[1])
    if panel.y_mark:
        axes.axhline(panel.y_mark[0], color=WARNING, linestyle='dashed', linewidth=1, label=panel.y_mark[1])
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    axes.title.set_fontsize(10)
    if panel.y_log:
        axes.set_yscale('log')
    if panel.x_range:
        axes.set_xlim(panel.x_range)
    if panel.y_range:
        axes.set_ylim(panel.y_range)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[1]:
        legend = axes.legend(fontsize=8, markerscale=2.5)
        for handle in legend.legend_handles:
            handle.set_alpha(1)


# ---- Plotly ----

def save_html(chart: Chart, path: str) -> None:
    """Save a page on its own. A click on a name hides its series, and the pointer shows values."""
    save_page(chart, path, 'page.html')


def save_page(chart: Chart, path: str, template: str, **values: Any) -> None:
    """Fill a template of this folder with a chart and further values."""
    divs = [(panel.title, plotly_div(plotly_figure(panel), f'panel-{i}')) for i, panel in enumerate(chart.panels)]
    templates = Environment(loader=FileSystemLoader(FOLDER), autoescape=True)
    page = templates.get_template(template).render(
        chart=chart, columns=min(chart.columns, len(divs)), panels=divs, style=page_style(), script=page_script(),
        **values)
    with replacing(path) as temporary:
        Path(temporary).write_text(page, encoding='utf-8')


def page_style() -> Markup:
    """Read the style sheet of pages with charts. It names its colours as variables, for light and for dark."""
    return Markup(FOLDER.joinpath('page.css').read_text(encoding='utf-8'))


def page_script() -> Markup:
    """Read plotly.js and the script that draws the charts, for the head of a page."""
    return Markup(get_plotlyjs() + '\n' + FOLDER.joinpath('page.js').read_text(encoding='utf-8'))


def plotly_div(figure: go.Figure, name: str, height: int = 340) -> Markup:
    """Write a figure as HTML, as wide as its place. The page must hold :func:`page_style` and :func:`page_script`.

    Args:
        figure: What to draw.
        name: The div's id.
        height: In CSS pixels.
    """
    data = Markup(figure.to_json())  # Plotly escapes < and >, so no text ends the script
    return Markup('<div class="chart" id="{}" style="height: {}px"></div>\n'
                  '<script type="application/json">{}</script>').format(name, height, data)


def plain(text: str) -> str:
    """Escape a text for Plotly, which reads <b> and the like as HTML."""
    return html.escape(text, quote=False)


def fold(text: str, width: int = 48) -> str:
    """Escape an axis label for Plotly, and break it into lines that fit a phone."""
    return '<br>'.join(map(plain, textwrap.wrap(text, width)))


def empty_figure(x_label: str = '', y_label: str = '') -> go.Figure:
    """Make a figure with transparent backgrounds and grey grids. The style sheet colours the text."""
    axis = dict(gridcolor=GRID, zeroline=False, automargin=True, ticks='outside', tickcolor=GRID, ticklen=4,
                title=dict(font_size=12, standoff=8))
    legend = dict(orientation='h', x=0, xanchor='left', y=1, yanchor='bottom', bgcolor=CLEAR, itemwidth=30)
    return go.Figure(layout=dict(
        template='none', paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, font=dict(size=12, color=TEXT, family='sans-serif'),
        margin=dict(l=50, r=12, t=34, b=44), xaxis=dict(axis, title_text=fold(x_label)),
        yaxis=dict(axis, title_text=fold(y_label)), legend=legend, barmode='overlay', hovermode='closest',
        modebar=dict(bgcolor=CLEAR, color=TEXT, activecolor=COLORS[0])))


def plotly_figure(panel: Panel) -> go.Figure:
    """Draw a panel. Its title is missing: the page writes it above, where it can fold."""
    figure = empty_figure(panel.x_label, panel.y_label)
    figure.add_traces([_trace(layer) for layer in panel.layers])
    figure.update_layout(showlegend=bool(panel.layers or panel.x_mark or panel.y_mark))
    if any(layer.kind == 'points' for layer in panel.layers):
        figure.update_layout(legend_itemsizing='constant')  # points of the plot's size could not be seen in the legend
    mark = dict(line=dict(color=WARNING, dash='dash', width=1.5), showlegend=True)
    if panel.x_mark:
        figure.add_vline(panel.x_mark[0], name=plain(panel.x_mark[1]), **mark)
    if panel.y_mark:
        figure.add_hline(panel.y_mark[0], name=plain(panel.y_mark[1]), **mark)
    figure.update_xaxes(range=panel.x_range)
    if panel.y_log:
        figure.update_yaxes(type='log', range=panel.y_range and [math.log10(y) for y in panel.y_range])
    else:
        figure.update_yaxes(range=panel.y_range)
    return figure


def _trace(layer: Layer) -> Union[go.Scatter, go.Bar]:
    x, y = (np.asarray(values, np.float32) for values in (layer.x, layer.y))
    shared = dict(name=plain(layer.label), showlegend=True)
    said = '%{x:.4~g}, %{y:.4~g}<extra>%{fullData.name}</extra>'
    if layer.kind == 'line':
        line = dict(color=color(layer.color), dash=PLOTLY_DASHES[layer.dash], width=2)
        return go.Scatter(x=x, y=y, mode='lines', line=line, hovertemplate=said, **shared)
    if layer.kind == 'points':
        marker = dict(color=color(layer.color), size=4, opacity=0.7)
        return go.Scatter(x=x, y=y, mode='markers', marker=marker, hovertemplate=said, **shared)
    return go.Bar(x=x[:-1], y=y, width=np.diff(x), offset=0, marker=dict(color=color(layer.color), opacity=0.65),
                  customdata=x[1:], hovertemplate='%{x:.4~g} to %{customdata:.4~g}: %{y:.4~g}'
                  '<extra>%{fullData.name}</extra>', **shared)
