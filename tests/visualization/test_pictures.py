"""Pictures: nothing that matters is covered, names can be read in any script, and frames stand out."""
import itertools
import os

import numpy as np
import pytest
from PIL import Image
from vision import VISION, lab

from gfl_plugin.visualization import draw_detections, fonts, save_truth
from gfl_plugin.visualization.files import name_pictures, read_image, write_picture
from gfl_plugin.visualization.labels import MOST_HIDDEN, MOST_LABELS, areas, overlaps, place_labels
from gfl_plugin.visualization.palette import FIRST, black_or_white, class_color, contrast
from gfl_plugin.visualization.pictures import Canvas


def grey(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(90, 160, (height, width, 3), dtype=np.uint8)


def changed(picture: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Top, bottom, left and right end of the region that was drawn on."""
    rows, columns = np.nonzero((picture != image).any(2))
    return np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])


# ---- labels ----

def place(boxes, versions, canvas=(400, 300), others=()):
    boxes = np.array(boxes, float).reshape(-1, 4)
    return place_labels(boxes, boxes.astype(int), versions, canvas, np.array(others, float).reshape(-1, 4))


def small_boxes(hole=(0, 0, 0, 0)):
    """Boxes of 10 x 10 pixels side by side, with a hole."""
    left, top, right, bottom = hole
    return [[x, y, x + 10, y + 10] for x in range(0, 400, 10) for y in range(0, 300, 10)
            if not (left <= x < right and top <= y < bottom)]


@pytest.mark.parametrize('box, others, expected', [
    ([100, 100, 200, 200], [], (0, 100, 88)),  # above
    ([100, 5, 200, 200], [], (0, 100, 200)),  # no room above: below
    ([100, 100, 200, 200], [[110, 80, 122, 92]], (0, 150, 88)),  # a small box is above on the left: right
    ([380, 100, 395, 200], [], (0, 350, 88)),  # moved into the picture
    ([0, 0, 400, 300], [], (0, 0, 0)),  # all of the picture: inside, at the top
    ([100, 100, 140, 110], small_boxes(), None),  # no room at all
    ([100, 100, 140, 110], small_boxes(hole=(140, 100, 170, 120)), (1, 140, 100)),  # room for the second version
])
def test_place_of_a_label(box, others, expected):
    """Its versions have 50 and 25 pixels; where the first does not fit, the second is tried."""
    assert place([box], [[(50, 12), (25, 12)]], others=others) == [expected]


def test_labels_of_a_crowd_hide_nothing():
    random = np.random.default_rng(0)
    corner = random.uniform(0, 350, (120, 2)) * [1, 0.75]
    boxes = np.concatenate([corner, np.minimum(corner + random.uniform(4, 120, (120, 2)), [400, 300])], axis=1)
    sizes = [[(int(width), 12), (24, 12)] for width in random.integers(40, 90, 120)]
    places = place(boxes, sizes)
    assert places == place(boxes, sizes), 'the same input should give the same places'
    found = np.array([(x, y, x + sizes[index][version][0], y + 12)
                      for index, (version, x, y) in ((i, p) for i, p in enumerate(places) if p)])
    assert len(found) >= 30, 'many labels should have found a place'
    assert (found[:, :2] >= 0).all() and (found[:, 2:] <= (400, 300)).all(), 'labels should lie in the picture'
    assert (overlaps(found, found) == np.diag(areas(found))).all(), 'labels should not overlap'
    assert (overlaps(found, boxes) <= MOST_HIDDEN * areas(boxes)).all(), 'labels should hide little of any box'


def test_every_label_is_whole_where_there_is_room():
    boxes = [[x, y, x + 30, y + 20] for x in range(20, 380, 90) for y in range(30, 280, 50)]
    assert all(found and found.version == 0 for found in place(boxes, [[(60, 12), (20, 12)]] * len(boxes)))


def test_boxes_beyond_the_most_have_no_label():
    boxes = np.tile([[10, 20, 30, 30]], (MOST_LABELS + 5, 1)) + 40 * np.arange(MOST_LABELS + 5)[:, None]
    places = place(boxes, [[(10, 5)]] * len(boxes), canvas=(20_000, 20_000))
    assert all(places[:MOST_LABELS]) and places[MOST_LABELS:] == [None] * 5


def test_the_first_box_chooses_first():
    first, second = place([[100, 100, 200, 200], [102, 101, 202, 201]], [[(50, 12)]] * 2)
    assert first == (0, 100, 88) and second is not None and second != first


# ---- drawing ----

def test_small_boxes_stay_visible():
    """Neither frames nor labels cover the pixels of a 10 x 10 box, alone or among others."""
    image = grey(480, 640)
    corner = np.array([[x, y] for x in (2, 100, 120, 300, 628) for y in (3, 60, 78, 240, 468)], float)
    boxes = np.concatenate([corner, corner + 10], axis=1)
    picture = draw_detections(image, boxes, np.linspace(0.9, 0.3, 25), np.arange(25) % 3, ['cat', 'dog', 'a bird'])
    covered = {(x, y): (picture[y:y + 10, x:x + 10] != image[y:y + 10, x:x + 10]).any(2).mean()
               for x, y in corner.astype(int)}
    inner = {at: share for at, share in covered.items() if 2 < at[0] < 628 and 3 < at[1] < 468}
    assert max(inner.values()) <= MOST_HIDDEN, inner
    assert max(covered.values()) < 0.6, 'at the border of the picture, frames move inside'


def test_the_picture_is_a_copy_of_the_same_size():
    image = grey(400, 500)
    before = image.copy()
    picture = draw_detections(image, [[100, 100, 200, 250]], [0.874], [0], ['cat'])
    assert (image == before).all() and picture.shape == image.shape and picture.dtype == np.uint8
    top, bottom, left, right = changed(picture, image)
    assert (bottom, left, right) == (254, 96, 204) and 70 < top < 90, 'a frame of 4 pixels, with a label above'
    assert (picture[150, 97:99] == class_color(0)[::-1]).all(), 'the line has the colour of the class'
    assert (picture[100:250, 100:200] == image[100:250, 100:200]).all(), 'the frame lies outside the box'


@pytest.mark.parametrize('shape, factor', [((1, 1), 320), ((40, 60), 6), ((319, 4), 2), ((320, 4), 1), ((3, 4000), 1)])
def test_small_images_are_enlarged(shape, factor):
    image = grey(*shape)
    picture = draw_detections(image, [[0, 0, shape[1], shape[0]]], [0.5], [0], ['a name'])
    assert picture.shape == (shape[0] * factor, shape[1] * factor, 3)


def test_text_and_lines_grow_with_the_picture():
    small, large = Canvas(grey(240, 320)), Canvas(np.zeros((3000, 4000, 3), np.uint8))
    assert 11 <= small.text <= 13 and small.line == 2
    assert 50 <= large.text <= 80 and 8 <= large.line <= 12, 'as large as those of 640 x 480, seen at equal size'


@pytest.mark.parametrize('box', [[np.nan, 1, 20, 20], [1, 1, np.inf, 20], [-50, -50, 0, -1], [400, 10, 450, 20],
                                 [50, 50, 20, 20]])
def test_boxes_that_cannot_be_drawn(box):
    image = grey(400, 400)
    assert (draw_detections(image, [box], [0.5], [0], ['x'], [box]) == image).all()


def test_boxes_that_lie_partly_outside_are_cut():
    image = grey(400, 400)
    picture = draw_detections(image, [[-1e6, 100, 50.4, 1e9]], [1.0], [0], ['x'])
    assert (picture[200, 1:3] == class_color(0)[::-1]).all(), 'the line moves inside'
    assert (changed(picture[200:], image[200:]) == (0, 200, 0, 54)).all()


def test_nothing_to_draw():
    image = grey(400, 400)
    assert (draw_detections(image, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), ['x']) == image).all()


def test_ground_truth_stays_visible_below_an_equal_detection():
    image = grey(400, 400)
    box = [[100, 100, 300, 300]]
    picture = draw_detections(image, box, [0.5], [1], ['a', 'b'], box)
    row = picture[200, 90:110].tolist()
    assert [255] * 3 in row and list(class_color(1)[::-1]) in row
    named = draw_detections(image, [], [], [], ['a', 'b'], box, [1])
    assert (named[80:95, 100:110] == 255).any(), 'a name on a white plate'
    assert (draw_detections(image, [], [], [], ['a', 'b'], box)[:96] == image[:96]).all(), 'no name unless asked for'


def test_boxes_without_scores_have_names_alone():
    image, box = grey(400, 400), [[100, 100, 300, 300]]
    named, scored = (draw_detections(image, box, scores, [0], ['cat']) for scores in (None, [0.5]))
    assert changed(named[:96], image[:96])[3] < changed(scored[:96], image[:96])[3]
    nameless = draw_detections(image, box, None, [0], [''])
    assert (nameless[:96] == image[:96]).all(), 'an empty name has no label'


@pytest.mark.parametrize('name', [
    '', ' ', 'two\nlines', '\x00\x1b[31m', 'ä', '猫の写真', 'بطاقة', 'राजा', 'cat 🐱', '👨\u200d👩\u200d👧', '\ud800',
    '\u202eabc', 'a' * 100_000, '\u0301' * 500])
def test_any_name_can_be_drawn(name):
    image = grey(300, 400)
    for scores in (None, [0.5]):
        picture = draw_detections(image, [[100, 100, 300, 200]], scores, [0], [name])
        assert picture.shape == image.shape and (picture != image).any()


def test_a_label_without_a_class_has_its_number():
    image, box = grey(300, 400), [[100, 100, 300, 200]]
    expected = draw_detections(image, box, [0.5], [7], ['class 7'] * 8)
    assert (draw_detections(image, box, [0.5], [7], ['x']) == expected).all()


# ---- fonts ----

def test_a_font_that_has_the_characters(monkeypatch, tmp_path):
    """DejaVu Sans has no arc (U+2312), and DejaVu Sans Mono has one."""
    mono = fonts.DEJAVU.replace('Sans.ttf', 'SansMono.ttf')
    (tmp_path / 'broken.ttf').write_bytes(b'\0\1\0\0' + bytes(100))
    monkeypatch.setattr(fonts, '_installed_fonts', lambda: [str(tmp_path / 'broken.ttf'), str(tmp_path / 'none'), mono])
    fonts._choose.cache_clear()
    fonts.font_for.cache_clear()
    try:
        for text, path in (('cat', fonts.DEJAVU), ('Łódź', fonts.DEJAVU), ('кот', fonts.DEJAVU), ('arc ⌒', mono),
                           ('arc ⌒\u200d\ufe0f', mono), ('猫', fonts.DEJAVU), ('⌒猫 x', mono)):
            assert fonts.font_for(text, 20).path == path, text
    finally:
        fonts._choose.cache_clear()
        fonts.font_for.cache_clear()


def test_installed_fonts_have_glyphs_to_draw():
    found = fonts._installed_fonts()
    assert fonts.DEJAVU in found and not any('LastResort' in path for path in found), 'it has a box for each character'


def test_latin_names_need_no_search(monkeypatch):
    """Finding the fonts of a system can take seconds."""
    monkeypatch.setattr(fonts, '_installed_fonts', lambda: pytest.fail('fonts were searched'))
    assert fonts.font_for('Äpfel ' + os.urandom(4).hex(), 20).path == fonts.DEJAVU


def test_names_are_put_on_one_line():
    assert fonts.clean(' a\n\tb\x00c ') == 'a b c' and fonts.clean('क्\u200dष') == 'क्\u200dष'
    assert len(fonts.clean('x' * 10**6)) == 101 and fonts.clean('x' * 10**6).endswith('…')


def test_shortened_names_fit():
    text = 'a very long name'
    font = fonts.font_for(text, 20)
    widths = {width: fonts.shorten(text, font, width) for width in (1, 40, 60, 100, 1000)}
    assert widths[1] == '' and widths[1000] == text
    for width in (40, 60, 100):
        short = widths[width]
        longer = text[:len(short)] + '…'
        assert short.endswith('…') and text.startswith(short[:-1]) and font.getlength(short) <= width
        assert font.getlength(longer) > width or longer[:-1].endswith(' '), 'no longer part should fit'


# ---- colours ----

@pytest.mark.parametrize('vision', VISION)
def test_the_first_colours_differ_for_every_eye(vision):
    seen = [lab(color, np.array(VISION[vision])) for color in FIRST]
    assert len(seen) == 8
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 23


def test_colours_of_many_classes():
    colors = [class_color(label) for label in range(80)]
    assert len(set(colors)) == 80 and all(0 <= part <= 255 for color in colors for part in color)


def test_contrast():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21) and contrast(FIRST[0], FIRST[0]) == 1
    for color in map(class_color, range(200)):
        edge = black_or_white(color)
        assert contrast(color, edge) >= 4.5, 'text on a plate can be read'
        for level in range(0, 256, 5):
            ground = (level, level, level)
            assert max(contrast(color, ground), contrast(edge, ground)) >= 2.1, 'a line or its edge stands out'


def test_the_colours_of_a_caller():
    image, box = grey(400, 400), [[100, 100, 300, 300]]
    picture = draw_detections(image, box, [0.5], [1], ['a', 'b'], colors=[(1, 2, 3), (200, 10, 20)])
    assert (picture[200, 97:99] == (20, 10, 200)).all(), 'red, green, blue become blue, green, red'


# ---- files ----

def test_names_of_pictures():
    assert name_pictures(['/d/a/1.jpg', '/d/b/1.jpg', '/d/b/x.GIF']) == {
        '/d/a/1.jpg': 'a/1.jpg', '/d/b/1.jpg': 'b/1.jpg', '/d/b/x.GIF': 'b/x.GIF.png'}
    assert name_pictures(['d/a/1.jpg']) == {'d/a/1.jpg': '1.jpg'} and name_pictures([]) == {}


def test_pictures_of_any_path(tmp_path):
    image = grey(20, 30)
    path = str(tmp_path / 'новая папка' / '写真.png')
    write_picture(path, image)
    assert (read_image(path) == image).all()
    with pytest.raises(OSError, match='写真.png'):
        write_picture(os.path.join(path, 'x.png'), image)


def test_sheet_of_ground_truth(tmp_path):
    """An ignored box is thin and white, one of a class has its colour, and a file that is no image is left out."""
    Image.new('RGB', (320, 320), (90, 90, 90)).save(tmp_path / 'a.png')
    (tmp_path / 'b.png').write_bytes(b'')
    content = dict(
        images=[dict(id=1, file_name='a.png'), dict(id=2, file_name='b.png'), dict(id=3, file_name='none.png')],
        categories=[dict(id=5, name='другое'), dict(id=9, name='猫')],
        annotations=[dict(image_id=1, category_id=9, bbox=[100, 100, 50, 50]),
                     dict(image_id=1, category_id=5, bbox=[200, 200, 50, 50], iscrowd=1),
                     dict(image_id=1, category_id=5, bbox=[float('nan'), 0, 5, 5]),
                     dict(image_id=2, category_id=5, bbox=[0, 0, 9, 9])])
    assert save_truth(content, str(tmp_path), str(tmp_path / 'sheets' / 's.png')) == 1
    sheet = read_image(str(tmp_path / 'sheets' / 's.png'))
    seen = {tuple(pixel) for pixel in sheet[6:326, 6:326].reshape(-1, 3).tolist()}
    assert class_color(1)[::-1] in seen and (255, 255, 255) in seen and class_color(0)[::-1] not in seen
