"""The page of a report: right in every browser window, for every theme and every name, without a network."""
import base64
import copy
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from report.sample_content import HOSTILE, make_content
from vision import VISION, lab

from gfl_plugin.report import figures, overlay, page
from gfl_plugin.report.page import render, write_page
from gfl_plugin.visualization.palette import contrast

TEXT_CONTRAST = 4.5  # WCAG 2, level AA
CELLS = {'td', 'th', 'dt', 'dd', 'br'}
VOID = {'meta', 'link', 'img', 'input', 'br'}


class Reader(HTMLParser):
    """The elements of a page with their attributes, the texts of its scripts, and all other text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.text, self._open = [], [], '', []
        self.feed(text)
        self.close()
        assert not self._open, f'these elements are never closed: {self._open}'

    def handle_starttag(self, tag, attributes):
        self.elements.append(SimpleNamespace(tag=tag, of=dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == 'script':
            self.scripts.append('')
        self.text += ' ' * (tag in CELLS)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(SimpleNamespace(tag=tag, of=dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f'</{tag}> closes another element'

    def handle_data(self, text):
        if self._open and self._open[-1] == 'script':
            self.scripts[-1] += text
        elif not self._open or self._open[-1] != 'style':
            self.text += text

    def all(self, tag, name=None):
        return [found for found in self.elements if found.tag == tag
                and (name is None or name in (found.of.get('class') or '').split())]


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Tests without a browser do not need plotly.js."""
    if 'open_page' not in request.fixturenames:
        monkeypatch.setattr(page, 'get_plotlyjs', lambda: 'var Plotly;')


@pytest.fixture
def show(open_page, tmp_path):
    """A function that opens the page of a content."""
    def open_content(content, **window):
        write_page(content, tmp_path / 'report.html')
        return open_page(tmp_path / 'report.html', **window)
    return open_content


def without(content, **changes):
    return {**content, **changes}


def nothing_found():
    """A run that never evaluated, of a detector that finds nothing and predicts no distributions."""
    content = make_content(names=['only'], found=0, images=1, spread=False)
    content.update(
        training=dict(content['training'], val=dict(unit='epoch', epoch=[], mAP=[], mAP_50=[], mAP_75=[])),
        metrics=dict.fromkeys(content['metrics']),
        confusion=dict(labels=['only', 'background'], matrix=[[0, 0], [0, 0]], shown='all'),
        classes=[dict(name='only', objects=0, AP=None, AP50=None, precision=None, recall=None)],
        precision_recall=dict(recall=[0.0, 1.0], mean=[None, None], classes={}),
        errors=dict(content['errors'], **dict.fromkeys(overlay.KINDS, 0)), doubtful=[],
        quality=dict(content['quality'], bins=[], sample=dict(score=[], iou=[]), rank_correlation=None),
        verdict=dict(kind='unknown', sentence='The run was never validated.', rule='Unknown: fewer than 3.'))
    return content


# ---- what it says ----

def test_the_head_says_what_was_measured():
    text = Reader(render(make_content())).text
    for expected in ('gfl_r18_fpn_shapes', 'still improving', 'AP was still rising', '0.734', '0.869', '0.801',
                     'data/shapes, val: 300 images, 1,234 objects', 'data/shapes, train, 12 epochs', '19,400,000',
                     'gfl_plugin 0.1.0', '2026-11-25 04:50', '2026-11-24 10:00'):
        assert expected in text


def test_the_page_carries_its_content_without_pictures_and_distributions():
    content = make_content()
    before = copy.deepcopy(content)
    data = json.loads(Reader(render(content)).scripts[0])
    assert content == before, 'the caller keeps the pictures'
    for image in content['images']:
        image['src'] = None
        for found in image['found']:
            found.update(places=None, probs=None)
    assert data == content


def test_the_contents_lead_to_every_section():
    reader = Reader(render(make_content()))
    links = [link.of['href'][1:] for link in reader.all('a') if link.of.get('class') != 'skip']
    assert links == [section.of['id'] for section in reader.all('section')] and len(links) == 9


def test_tables_give_the_numbers():
    content = make_content()
    text = re.sub(r'\s+', ' ', Reader(render(content)).text)
    for entry in content['classes']:
        assert f'{entry["name"]} {entry["objects"]} {entry["AP"]:.3f} 0.950 0.80 0.70' in text
    for name, row in zip(content['confusion']['labels'], content['confusion']['matrix']):
        assert f'{name} {" ".join(map(str, row))}' in text
    for kind, name in overlay.KINDS.items():
        assert f'{name} {content["errors"][kind]} {content["errors"]["definitions"][kind]}' in text


# ---- content of every kind ----

@pytest.mark.parametrize('changes', [
    dict(training=None), dict(uncertainty=None), dict(confusion=None), dict(classes=[], precision_recall=None),
    dict(images=[], worst=[], doubtful=[]), dict(notes=[]), dict(quality=None),
    dict(training=dict(loss=None, lr=None, val=None, val_loss=None, thinning=None))], ids=lambda changes: min(changes))
def test_parts_may_be_missing(changes):
    reader = Reader(render(without(make_content(), **changes)))
    assert len(reader.all('section')) == 9 and 'None' not in reader.text and 'nan' not in reader.text.lower().split()


def test_an_empty_report_says_what_is_missing():
    reader = Reader(render(nothing_found()))
    assert 'There are no detections to compare.' in reader.text and 'There are no such images.' in reader.text
    assert 'no verdict' in reader.text and '–' in reader.text and 'None' not in reader.text
    charts = [place.of['data-chart'] for place in reader.all('div', 'plot')]
    assert charts == ['loss', 'learning_rate'], 'charts without numbers are left out'


def test_pictures_that_are_gone_leave_their_boxes():
    content = make_content(images=2)
    content['images'][0].update(src=None, view=None)
    content['images'][1]['src'] = 'https://example.org/picture.jpg'
    reader = Reader(render(content))
    assert not reader.all('img') and 'example.org' not in str([found.of for found in reader.elements])
    assert reader.text.count('The picture could not be read.') == 4
    assert len(reader.all('g', 'box')) == 2 * sum(len(image['found']) for image in content['images'])


def test_a_single_validation_is_a_point():
    """A line needs two."""
    drawn = figures.draw_figures(make_content())
    assert {trace['mode'] for trace in drawn['ap']['data']} == {'lines+markers'}


def test_curves_of_many_classes_are_grey_behind_their_mean():
    few, many = (figures.draw_figures(make_content(names=[f'c{i}' for i in range(count)]))['precision_recall']['data']
                 for count in (6, 7))
    assert len({trace['line']['color'] for trace in few}) == 7 and all(trace['showlegend'] for trace in few)
    assert {trace['line']['color'] for trace in many[:-1]} == {figures.GREY}
    assert [trace['showlegend'] for trace in many] == [False] * 7 + [True]


def test_hostile_names_stay_text():
    content = make_content(names=HOSTILE, found=9)
    plain = Reader(render(make_content(names=['x'] * len(HOSTILE), found=9)))
    for image, name in zip(content['images'], HOSTILE):
        image['file'] = name
    content.update(title=HOSTILE[2], notes=list(HOSTILE))
    content['about'].update(checkpoint=HOSTILE[0], trained_on={HOSTILE[1]: HOSTILE[0]})
    content['versions'][HOSTILE[0]] = HOSTILE[2]
    reader = Reader(render(content))
    assert json.loads(reader.scripts[0])['title'] == HOSTILE[2]
    assert len(reader.scripts) == 4 and len(reader.all('img')) == len(plain.all('img'))
    assert {name for found in reader.elements for name in found.of} == {
        name for found in plain.elements for name in found.of}, 'no name makes an attribute'
    for name in HOSTILE:
        assert name in reader.text


def test_a_page_has_an_encoding_for_every_text(tmp_path):
    """A name from a file system may be no text: a lone surrogate."""
    write_page(without(make_content(), title='caf\udce9 猫'), tmp_path / 'report.html')
    assert '猫' in (tmp_path / 'report.html').read_text(encoding='utf-8')


def test_numbers_that_are_not_finite_are_refused():
    content = make_content()
    content['metrics']['mAP_75'] = float('nan')
    with pytest.raises(ValueError):
        render(content)


def test_the_page_stays_small(monkeypatch):
    """The content of 5,000 images is bounded: 24 pictures, here with 100 detections each."""
    monkeypatch.undo()
    content = make_content(names=[f'class {i}' for i in range(500)], images=1, found=100, size=(720, 540))
    content.update(worst=list(range(12)), doubtful=list(range(12, 24)))
    picture = 'data:image/jpeg;base64,' + base64.b64encode(bytes(130_000)).decode()  # a photo of 720 x 540 pixels
    content['images'] = [dict(content['images'][0], src=picture)] * 24
    assert 10e6 < len(render(content).encode()) < 15e6


# ---- nothing comes from elsewhere ----

def test_only_the_scripts_of_the_page_run():
    reader = Reader(render(make_content()))
    policy = next(meta.of['content'] for meta in reader.all('meta')
                  if meta.of.get('http-equiv') == 'Content-Security-Policy')
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
              for script in reader.scripts[2:]]
    assert f'script-src {" ".join(hashes)};' in policy and policy.startswith("default-src 'none'")
    for found in reader.elements:
        for name in ('src', 'href'):
            assert re.match(r'data:|#|$', found.of.get(name, '')), f'{found.tag} loads {found.of[name]}'
    assert not re.search(r'url\(|@import', Path(page.TEMPLATES, 'report.css').read_text())


# ---- boxes and curves ----

def points_of(path):
    """The corners (M, 2) of a path, pixels."""
    first, steps = re.fullmatch(r'M(-?\d+ -?\d+)l([-\d ]+)z', path).groups()
    corners = np.array([*first.split(), *steps.split()], int).reshape(-1, 2).cumsum(0)
    return corners / overlay.TENTHS


def middle(points, is_top):
    """The middle of the top of a curve, which is flat where a tall curve is cut off."""
    return (points[is_top].min(0) + points[is_top].max(0)) / 2


def test_a_curve_peaks_at_its_side():
    image = make_content(images=1, found=1, size=(1440, 1080))['images'][0]
    found = image['found'][0]
    found.update(box=[500, 400, 900, 800], std=[6] * 4)
    offsets = np.arange(-8, 9) * 8.0
    probs = np.exp(-0.5 * (offsets / 6)**2)
    found.update(places=[(side + offsets).tolist() for side in found['box']],
                 probs=[(probs / probs.sum()).tolist()] * 4)
    left, right, top, bottom = (points_of(path) for path in overlay.lay_out(image)['found'][0]['curves'])
    for points, x in ((left, 250), (right, 450)):  # half of the image's pixels, above the box
        assert middle(points, points[:, 1].min() == points[:, 1])[0] == pytest.approx(x, abs=1)
        assert points[:, 1].max() < 200
    for points, y in ((top, 200), (bottom, 400)):  # to the right of it
        assert middle(points, points[:, 0].max() == points[:, 0])[1] == pytest.approx(y, abs=1)
        assert points[:, 0].min() > 450


def test_short_paths_look_the_same():
    t = np.linspace(0, 10, 201)
    corners = np.stack([40 * t, 60 * np.sin(t)], 1)
    few = overlay._drop_straight(corners)
    assert len(few) < 0.6 * len(corners) and (few[[0, -1]] == corners[[0, -1]]).all()
    assert abs(np.interp(corners[:, 0], few[:, 0], few[:, 1]) - corners[:, 1]).max() < 0.5


def test_boxes_are_scaled_to_the_picture_and_small_ones_lie_on_top():
    image = make_content(images=1, found=8, size=(1440, 1080))['images'][0]
    laid_out = overlay.lay_out(image)
    assert (laid_out['width'], laid_out['height']) == (720, 540)
    areas = [entry['width'] * entry['height'] for entry in laid_out['found']]
    assert areas == sorted(areas, reverse=True)
    for entry in laid_out['found']:
        left, top, right, bottom = image['found'][entry['index']]['box']
        assert (entry['x'], entry['width']) == pytest.approx((left / 2, (right - left) / 2), abs=0.1)
        assert (entry['y'], entry['height']) == pytest.approx((top / 2, (bottom - top) / 2), abs=0.1)


def test_labels_of_a_crowd_wait_for_the_pointer():
    image = make_content(images=1, found=10)['images'][0]
    image['found'] = [dict(found, box=[100, 100, 140, 140]) for found in image['found']]
    entries = overlay.lay_out(image)['found']
    assert {entry['is_crowded'] for entry in entries} == {True, False}


def test_errors_name_their_kind_beside_the_colour():
    for image in make_content()['images']:
        for entry in overlay.lay_out(image)['found']:
            assert overlay.KINDS[entry['kind']] in entry['about']
            assert entry['kind'] == 'correct' or overlay.KINDS[entry['kind']] in entry['text']


# ---- colours ----

def variables(theme):
    """The colours of the style sheet in a theme, (red, green, blue)."""
    light, dark = re.findall(r':root \{(.*?)\}', Path(page.TEMPLATES, 'report.css').read_text(), re.S)
    found = re.findall(r'--([\w-]+): #(\w{6})', light if theme == 'light' else light + dark)
    return {name: tuple(bytes.fromhex(value)) for name, value in found}


@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_colours_of_text_have_contrast(theme):
    colors = variables(theme)
    pairs = [('ink', 'paper'), ('muted', 'paper'), ('accent', 'paper'), ('ink', 'surface'), ('muted', 'surface'),
             ('accent', 'surface'), ('on-accent', 'accent'), *(('on-kind', kind) for kind in overlay.KINDS)]
    for text, ground in pairs:
        assert contrast(colors[text], colors[ground]) >= TEXT_CONTRAST, (text, ground)


@pytest.mark.parametrize('vision', VISION)
def test_kinds_of_error_can_be_told_apart(vision):
    seen = [lab(variables('light')[kind], np.asarray(VISION[vision])) for kind in overlay.KINDS]
    distances = [np.linalg.norm(first - second) for i, first in enumerate(seen) for second in seen[:i]]
    assert min(distances) > 15


# ---- in a browser ----

# The contrast of each visible text with the colours behind it, translucent ones included; the worst first.
CONTRASTS = '''() => {
  const parse = color => { const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number); return {rgb: [r, g, b], a}; };
  const linear = c => c / 255 <= .04045 ? c / 255 / 12.92 : ((c / 255 + .055) / 1.055) ** 2.4;
  const light = rgb => { const [r, g, b] = rgb.map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const over = (top, below) => below.map((c, i) => top.a * top.rgb[i] + (1 - top.a) * c);
  const ground = element => {
    if (!element) return [255, 255, 255];
    return over(parse(getComputedStyle(element).backgroundColor), ground(element.parentElement)); };
  const texts = 'h1, h2, h3, h4, p, dt, dd, td, th, a, button, label, figcaption, li, .chip, .panel div';
  return [...document.querySelectorAll(texts)]
    .filter(element => element.innerText.trim() && element.offsetParent)
    .map(element => { const behind = ground(element), text = over(parse(getComputedStyle(element).color), behind);
      const [low, high] = [light(text), light(behind)].sort((a, b) => a - b);
      return [(high + .05) / (low + .05), element.tagName, element.innerText.slice(0, 40)]; })
    .sort((a, b) => a[0] - b[0]); }'''
OVERFLOW = 'document.documentElement.scrollWidth - innerWidth'


def check_contrast(shown):
    measured = shown.evaluate(CONTRASTS)
    assert len(measured) > 30 and measured[0][0] >= TEXT_CONTRAST, measured[:3]


def test_pointing_at_a_box_shows_its_sides(show):
    content = make_content()
    shown = show(content).page
    assert shown.locator('.plot .main-svg').count() >= 6, 'the charts are drawn'
    card = shown.locator('#worst .card').first
    found = content['images'][0]['found'][0]
    box, curves = card.locator('.box[data-found="0"]'), card.locator('.curves[data-of="0"]')
    panel = card.locator('.panel')
    assert not curves.is_visible() and 'Point at a box' in panel.inner_text()
    box.scroll_into_view_if_needed()
    box.dispatch_event('pointerenter')
    assert curves.is_visible() and curves.locator('path').count() == 4
    assert card.locator('.curves:visible').count() == 1
    text = panel.inner_text()
    for expected in (f'circle {found["score"]:.2f}, correct', '± 3.0 px', '± 6.0 px', '± 9.0 px', '± 14.0 px'):
        assert expected in text
    box.dispatch_event('pointerleave')
    assert not curves.is_visible() and 'Point at a box' in panel.inner_text()
    small = card.locator('.box').last  # nothing lies above the smallest box: the real pointer reaches it
    small.hover()
    assert card.locator(f'.curves[data-of="{small.get_attribute("data-found")}"]').is_visible()
    card.locator('.enlarge').click()
    assert card.bounding_box()['width'] > 800
    check_contrast(shown)


def test_the_keyboard_reaches_everything(show):
    shown = show(make_content(images=1)).page
    toggles = shown.locator('#worst .switches input')
    hidden = {0: '.truth', 1: '.box.correct', 2: '.box.background', 3: '.labels'}
    for index, part in hidden.items():
        toggles.nth(index).focus()
        assert shown.locator(f'#worst {part}').first.is_visible()
        shown.keyboard.press('Space')
        assert not shown.locator(f'#worst {part}').first.is_visible()
        assert shown.locator(f'#doubtful {part}').first.is_visible(), 'each section has its own switches'
        shown.keyboard.press('Space')
    shown.locator('#worst .enlarge').focus()
    shown.keyboard.press('Tab')
    active = shown.locator('#worst .box:focus')
    curves = shown.locator(f'#worst .curves[data-of="{active.get_attribute("data-found")}"]')
    assert curves.is_visible() and ', score ' in active.get_attribute('aria-label')
    assert shown.evaluate('getComputedStyle(document.activeElement.firstElementChild).strokeWidth') == '7px'
    shown.keyboard.press('Enter')
    shown.locator('#worst .enlarge').focus()
    assert curves.is_visible(), 'Enter keeps the curves'
    shown.keyboard.press('Tab')
    shown.keyboard.press('Escape')
    assert not curves.is_visible()
    shown.keyboard.press('Tab')
    assert shown.locator('#worst .curves:visible').count() == 1 and not curves.is_visible()


def test_a_phone_shows_hostile_names_of_500_classes_in_the_dark(show):
    names = [*HOSTILE, *(f'{name} {i}' for i, name in enumerate(HOSTILE * 55))][:500]
    content = without(make_content(names=names, images=3, found=9), title='W' * 200, notes=list(HOSTILE))
    for image, name in zip(content['images'], HOSTILE):
        image['file'] = name
    opened = show(content, width=390, dark=True)
    shown = opened.page
    assert shown.evaluate(OVERFLOW) <= 0
    check_contrast(shown)
    assert shown.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(20, 23, 27)'
    assert shown.evaluate('getComputedStyle(document.querySelector(".plot .xtick text")).fill') == 'rgb(232, 234, 237)'
    shown.locator('#worst .box').first.focus()
    assert names[int(shown.locator('#worst .box').first.get_attribute('data-found'))] in shown.locator(
        '#worst .panel').first.inner_text()
    assert [round(float(size[:-2]) / unit) for size, unit in shown.evaluate(
        '[...document.querySelectorAll(".labels text")].slice(0, 3).map(text => [getComputedStyle(text).fontSize, '
        'text.ownerSVGElement.viewBox.baseVal.width / text.ownerSVGElement.clientWidth])')] == [12] * 3
    shown.emulate_media(reduced_motion='reduce')
    assert shown.evaluate('getComputedStyle(document.documentElement).scrollBehavior') == 'auto'
    shown.evaluate('document.body.append(Object.assign(document.createElement("script"), {text: "window.ran = true"}))')
    assert shown.evaluate('window.ran') is None, 'no other script runs'
    assert any('Content Security Policy' in said for said in opened.trouble) and len(opened.trouble) == 1
    opened.trouble.clear()


@pytest.mark.parametrize('width', [390, 1440])
def test_an_empty_report_opens(show, width):
    shown = show(nothing_found(), width=width).page
    assert shown.evaluate(OVERFLOW) <= 0
    assert shown.locator('.plot .main-svg').count() >= 2
    assert 'There is no prediction on this image.' in shown.locator('#worst .panel').inner_text()
