"""Figures and pages: they draw their description, need no network, and their sliders compute what Python does."""
import json
import re
import shutil
import subprocess

import cv2
import pytest
import torch

from gfl_plugin.analysis import charts, losses
from gfl_plugin.analysis.charts import Chart, Layer, Panel

SETTINGS = [dict(beta=2, gamma=2, y=0.5), dict(beta=0, gamma=0, y=0.3), dict(beta=0.5, gamma=3.5, y=0),
            dict(beta=4, gamma=1, y=1), dict(beta=2.5, gamma=5, y=0.73)]


def chart():
    return Chart('A title', [
        Panel('lines', 'x [px]', 'y', [Layer('line', [0, 1], [1, 2], 'one'), Layer('line', [0, 1], [2, 1], 'two', 1)],
              y_log=True),
        Panel('bars', 'x', 'y', [Layer('bars', [0, 1, 2], [3, 4], 'counts')], x_mark=(1, 'a mark')),
        Panel('points', 'x', 'y', [Layer('points', [0.5], [0.5], 'dots')], (0, 1), (0, 1)),
        Panel('nothing', 'x', 'y', [])], 'A note', 'A warning')


def is_self_contained(page: str) -> bool:
    """Whether a page loads no script, style sheet or import from elsewhere."""
    bare = re.sub(r'(<script[^>]*>).*?</script>', r'\1', page, flags=re.DOTALL)  # the text of a script is not markup
    return not re.search(r'\b(src|href)\s*=|@import', bare)


def test_a_chart_is_a_picture_and_a_page(tmp_path):
    pytest.importorskip('bokeh')
    charts.save_png(chart(), str(tmp_path / 'a.png'))
    assert cv2.imread(str(tmp_path / 'a.png')).std() > 5, 'the picture should not be blank'
    charts.save_html(chart(), str(tmp_path / 'a.html'))
    page = (tmp_path / 'a.html').read_text()
    assert is_self_contained(page) and len(page) < 5e6, len(page)
    for text in ('A title', 'A note', 'A warning', 'x [px]', 'counts', 'a mark'):
        assert text in page, f'{text} should be on the page'


def test_what_is_not_self_contained():
    assert not is_self_contained('<script src="https://cdn.bokeh.org/bokeh.js"></script>')
    assert not is_self_contained('<link href="https://cdn.bokeh.org/bokeh.css">')


def test_the_page_of_the_losses_has_its_sliders(tmp_path):
    pytest.importorskip('bokeh')
    losses.save_html(losses.measure(), str(tmp_path / 'losses.html'))
    page = (tmp_path / 'losses.html').read_text()
    assert is_self_contained(page) and len(page) < 5e6
    document = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])
    text = json.dumps(document)
    assert [text.count(f'"title": "{name}"') for name in ('beta', 'gamma', 'y')] == [1, 1, 1], \
        'there should be a slider for each setting'
    assert 'function curves' in text, 'the page should hold the code of the sliders'
    callback = next(re.finditer(r'"name": "CustomJS".*?"sources", \{(.*?)\}\]\}', text))[0]
    for name in losses.curves([0.5], **SETTINGS[0]):
        assert f'"{name}"' in callback, f'the sliders should update {name}'


@pytest.mark.parametrize('settings', SETTINGS)
def test_the_sliders_compute_what_python_does(settings, tmp_path):
    node = shutil.which('node') or shutil.which('nodejs')
    if node is None:
        pytest.skip('needs node')
    p = losses.measure()['p']
    expected = losses.curves(p, **settings)
    arguments = dict({name: dict(value=value) for name, value in settings.items()}, p=p, betas=losses.BETAS,
                     fl_alpha=losses.FL_ALPHA, vfl_alpha=losses.VFL_ALPHA, sources={name: {} for name in expected})
    script = tmp_path / 'callback.js'  # the whole callback, with the arguments that Bokeh passes
    script.write_text(''.join(f'const {name} = {json.dumps(value)};\n' for name, value in arguments.items())
                      + losses.JAVASCRIPT + losses.UPDATE + 'console.log(JSON.stringify(sources));')
    done = subprocess.run([node, str(script)], capture_output=True, text=True, check=True)
    for name, source in json.loads(done.stdout).items():
        assert source['data']['x'] == p
        assert torch.allclose(torch.tensor(source['data']['y']), torch.tensor(expected[name]), rtol=1e-5,
                              atol=1e-6), name


def test_curves_match_the_paper():
    p = [i / 100 for i in range(1, 100)]
    curves = losses.curves(p, beta=2, gamma=2, y=0.3)
    for name in ('QFL', 'GFL', 'DFL'):
        assert p[torch.tensor(curves[name]).argmin()] == 0.3, f'{name} should have its minimum where p is the target'
    assert curves['QFL'] == pytest.approx(curves['GFL'], abs=1e-6), 'GFL between 0 and 1 should be QFL'
    assert losses.curves(p, 0, 2, 0.3)['GFL'] == pytest.approx(curves['DFL'], abs=1e-6), 'GFL at beta = 0 should be DFL'
    assert curves['beta = 2'] == curves['QFL'], 'the slider beta should be the beta of QFL'
