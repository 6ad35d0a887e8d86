"""Figures and pages: they draw their description, need no network, and their sliders show what Python computes."""
import itertools
import re

import cv2
import numpy as np
import pytest
import torch
from vision import VISION, lab

from gfl_plugin.analysis import charts, losses
from gfl_plugin.analysis.charts import Chart, Layer, Panel
from gfl_plugin.visualization.palette import contrast

SETTINGS = [dict(beta=2, gamma=2, y=0.5), dict(beta=0, gamma=0, y=0.3), dict(beta=0.5, gamma=3.5, y=0),
            dict(beta=4, gamma=1, y=1), dict(beta=2.5, gamma=5, y=0.75)]


def chart():
    return Chart('A title', [
        Panel('lines', 'x [px]', 'y', [Layer('line', [0, 1], [1, 2], 'one'), Layer('line', [0, 1], [2, 1], 'two', 1)],
              y_log=True),
        Panel('bars', 'x', 'y', [Layer('bars', [0, 1, 2], [3, 4], 'counts')], x_mark=(1, 'a mark')),
        Panel('points', 'x', 'y', [Layer('points', [0.5], [0.5], 'dots')], (0, 1), (0, 1)),
        Panel('nothing', 'x', 'y', [])], 'A note', 'A warning')


def read(page, panel, values):
    """What Plotly drew in a panel: ``values`` of its traces, as JavaScript."""
    return page.evaluate(f'document.getElementById("panel-{panel}")._fullData.map(trace => {values})')


def move(page, slider, value):
    """Move a slider as the keyboard and the mouse do: set its value, and send the event."""
    page.evaluate("""([id, value]) => {
        const slider = document.getElementById(id);
        slider.value = value;
        slider.dispatchEvent(new Event('input', {bubbles: true}));
    }""", [slider, value])


def test_a_chart_is_a_picture(tmp_path):
    charts.save_png(chart(), str(tmp_path / 'a.png'))
    assert cv2.imread(str(tmp_path / 'a.png')).std() > 5, 'the picture should not be blank'


def test_a_chart_is_a_page(tmp_path, open_page):
    charts.save_html(chart(), str(tmp_path / 'a.html'))
    source = (tmp_path / 'a.html').read_text()
    assert len(source) < 5e6 and source.count('plotly.js v') == 1, 'plotly.js should be there once'
    page = open_page(tmp_path / 'a.html').page
    said = page.inner_text('body')
    for text in ('A title', 'A note', 'A warning', 'x [px]', 'counts', 'a mark', 'nothing'):
        assert text in said, f'{text} should be on the page'
    assert read(page, 0, '[trace.name, [...trace.x], [...trace.y]]') == [
        ['one', [0, 1], [1, 2]], ['two', [0, 1], [2, 1]]]
    assert read(page, 1, '[trace.type, [...trace.x], [...trace.y]]') == [['bar', [0, 1], [3, 4]]]
    assert page.evaluate('document.getElementById("panel-0")._fullLayout.yaxis.type') == 'log'


    # The pointer shows values, and a click in the legend hides a series.
    point(page, 1, 0.8, 0.5)
    assert '1 to 2: 4' in page.locator('#panel-1 .hoverlayer').text_content()
    point(page, 2, 0.5, 0.5)
    assert '0.5, 0.5' in page.locator('#panel-2 .hoverlayer').text_content()
    page.locator('#panel-0 .legendtoggle').first.click()
    page.wait_for_function('document.getElementById("panel-0")._fullData[0].visible === "legendonly"')
    assert read(page, 0, 'trace.visible') == ['legendonly', True]


def point(page, panel, x, y):
    """Move the pointer to a place of a panel, as shares of its axes."""
    axes = page.locator(f'#panel-{panel} .nsewdrag').bounding_box()
    page.mouse.move(axes['x'] + x * axes['width'], axes['y'] + y * axes['height'])
    page.wait_for_selector(f'#panel-{panel} .hovertext')


def test_a_page_is_legible(tmp_path, open_page):
    charts.save_html(chart(), str(tmp_path / 'a.html'))
    page = open_page(tmp_path / 'a.html').page
    for width, columns, scheme in ((1440, 3, 'light'), (1440, 3, 'dark'), (390, 1, 'dark'), (390, 1, 'light')):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(dict(width=width, height=900))
        page.wait_for_function('[...document.querySelectorAll(".chart")].every(chart => Math.abs('
                               'chart.clientWidth - chart.querySelector(".main-svg").clientWidth) <= 1)')
        assert page.evaluate('document.documentElement.scrollWidth') <= width, 'nothing should stick out'
        boxes = [chart.bounding_box() for chart in page.locator('.chart').all()]
        assert len({round(box['x']) for box in boxes}) == columns and len({round(box['width']) for box in boxes}) == 1
        check_contrast(page)


def check_contrast(page):
    """Check the contrast of texts and lines as WCAG AA asks for it."""
    paper = rgb(page.evaluate('getComputedStyle(document.body).backgroundColor'))
    texts = page.evaluate("""[...document.querySelectorAll('h1, h2, p')].map(e => getComputedStyle(e).color).concat(
        [...document.querySelectorAll('.main-svg text')].map(e => getComputedStyle(e).fill))""")
    assert len(texts) > 20 and min(contrast(rgb(text), paper) for text in texts) >= 4.5
    assert min(contrast(hex_rgb(line), paper) for line in charts.COLORS) >= 3


def rgb(text):
    """Read (red, green, blue) from a browser's text."""
    return tuple(int(part) for part in re.findall(r'\d+', text)[:3])


def hex_rgb(text):
    return tuple(bytes.fromhex(text[1:]))


def test_names_are_text(tmp_path, open_page):
    """Names come from the user's files. None may become a part of the page."""
    name = '<b>x</b><script>window.bad = 1</script><img src=x onerror="window.bad = 1">"\'&amp; \U0001f600'
    panel = Panel(name, name, name, [Layer('line', [0, 1], [1, 2], name)], x_mark=(0.5, name))
    charts.save_html(Chart(name, [panel], name, name), str(tmp_path / 'a.html'))
    page = open_page(tmp_path / 'a.html').page
    assert page.evaluate('window.bad') is None
    for selector in ('title', 'h1', 'h2', '.notes', '.warning'):
        assert page.locator(selector).text_content() == name
    shown = ''.join(page.locator('.main-svg').all_text_contents())
    assert shown.count('<b>x</b>') == 4 and shown.count('"\'&amp; \U0001f600') == 4, \
        'the name should be at both axes and twice in the legend'


def test_the_first_colours_differ_for_every_eye():
    for vision in VISION.values():
        seen = [lab(hex_rgb(color), np.array(vision)) for color in charts.COLORS]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 26


# ---- the losses ----

def shown_losses(page):
    """The curves on the page, by name."""
    names = {label: name for name, label in losses.LABELS.items()}
    drawn = [pair for panel in (0, 1) for pair in read(page, panel, '[trace.name, [...trace.x], [...trace.y]]')]
    return {names.get(label, label): (x, y) for label, x, y in drawn}


def check_losses(page, settings):
    """Check that the page shows the curves, and the settings, that Python computes."""
    p, shown = losses.measure()['p'], shown_losses(page)
    expected = losses.curves(p, **settings)
    assert set(shown) == set(expected)
    for name, (x, y) in shown.items():
        assert x == pytest.approx(p, rel=1e-6), name
        assert y == pytest.approx(expected[name], rel=1e-5, abs=1e-6), f'{name} at {settings}'
    for slider, value in settings.items():
        assert page.locator(f'#{slider} + output').text_content() == f'{value:g}'
    return shown


def test_the_sliders_show_what_python_computes(tmp_path, open_page):
    losses.save_html(losses.measure(), str(tmp_path / 'losses.html'))
    assert (tmp_path / 'losses.html').stat().st_size < 7e6
    page = open_page(tmp_path / 'losses.html').page
    seen = [check_losses(page, losses.SETTINGS)]
    page.keyboard.press('Tab')
    page.keyboard.press('ArrowRight')
    seen.append(check_losses(page, dict(losses.SETTINGS, beta=2.25)))
    for settings in SETTINGS:
        for slider, value in settings.items():
            move(page, slider, value)
        seen.append(check_losses(page, settings))
    assert all(a['QFL'] != b['QFL'] for a, b in itertools.pairwise(seen)), 'the curves should change'


def test_curves_match_the_paper():
    p = [i / 100 for i in range(1, 100)]
    curves = losses.curves(p, beta=2, gamma=2, y=0.3)
    for name in ('QFL', 'GFL', 'DFL'):
        assert p[torch.tensor(curves[name]).argmin()] == 0.3, f'{name} should have its minimum where p is the target'
    assert curves['QFL'] == pytest.approx(curves['GFL'], abs=1e-6), 'GFL between 0 and 1 should be QFL'
    assert losses.curves(p, 0, 2, 0.3)['GFL'] == pytest.approx(curves['DFL'], abs=1e-6), 'GFL at beta = 0 should be DFL'
    assert curves['beta = 2'] == curves['QFL'], 'the slider beta should be the beta of QFL'
