"""Describe a figure once and draw it twice: as a PNG with Matplotlib, as an offline page with Bokeh."""
import math
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from matplotlib.figure import Figure

# Okabe and Ito's palette: colour-blind readers can tell its colours apart, on paper too.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
WARNING = '#b00000'


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


# ---- Bokeh ----

def save_html(chart: Chart, path: str) -> None:
    """Save a page on its own. A click on a name hides its series, and the pointer shows values."""
    save_page(chart, arrange(chart, [bokeh_figure(panel) for panel in chart.panels]), path)


def arrange(chart: Chart, figures: Sequence[Any]) -> Any:
    """Arrange Bokeh figures in rows below the chart's title."""
    from bokeh.layouts import column, gridplot
    from bokeh.models import Div
    heading = f'<h2 style="margin: 4px">{chart.title}</h2><p style="margin: 4px">{chart.notes}</p>'
    if chart.warning:
        heading += f'<p style="margin: 4px; color: {WARNING}"><b>{chart.warning}</b></p>'
    return column(Div(text=heading, width=1200), gridplot(list(figures), ncols=min(chart.columns, len(figures))))


def save_page(chart: Chart, layout: Any, path: str) -> None:
    from bokeh.embed import file_html
    from bokeh.resources import INLINE
    with open(path, 'w', encoding='utf-8') as file:
        file.write(file_html(layout, INLINE, chart.title))


def bokeh_figure(panel: Panel) -> Any:
    """Draw a panel with Bokeh. The glyphs of each layer carry its label as their name."""
    from bokeh.models import Range1d, Span
    from bokeh.plotting import figure
    options = dict(y_axis_type='log') if panel.y_log else {}
    for name, limits in (('x_range', panel.x_range), ('y_range', panel.y_range)):
        if limits:
            options[name] = Range1d(*limits)
    result = figure(title=panel.title, x_axis_label=panel.x_label, y_axis_label=panel.y_label, width=440, height=360,
                    tools='pan,wheel_zoom,box_zoom,reset,save,hover', tooltips=[('', '$name'), ('x, y', '$x, $y')],
                    **options)
    for layer in panel.layers:
        _draw_layer(result, layer, panel)
    for mark, dimension in ((panel.x_mark, 'height'), (panel.y_mark, 'width')):
        if mark:
            result.add_layout(Span(location=mark[0], dimension=dimension, line_color=WARNING, line_dash='dashed'))
            result.line([], [], color=WARNING, line_dash='dashed', legend_label=mark[1])
    if result.legend:
        result.legend.click_policy, result.legend.label_text_font_size = 'hide', '8pt'
        result.legend.background_fill_alpha = 0.7
    return result


def _draw_layer(plot: Any, layer: Layer, panel: Panel) -> None:
    from bokeh.models import ColumnDataSource
    shared = dict(color=color(layer.color), legend_label=layer.label, name=layer.label)
    if layer.kind == 'bars':
        floor = (panel.y_range or (0.5 if panel.y_log else 0, ))[0]
        plot.quad(left=layer.x[:-1], right=layer.x[1:], bottom=floor, top=layer.y, alpha=0.55, **shared)
        return
    source = ColumnDataSource(dict(x=layer.x, y=layer.y))
    if layer.kind == 'line':
        plot.line('x', 'y', source=source, line_width=2, line_dash=layer.dash, **shared)
    else:
        plot.scatter('x', 'y', source=source, size=3, alpha=0.4, line_color=None, **shared)
