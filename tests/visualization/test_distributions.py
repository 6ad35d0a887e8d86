"""Pictures of distributions show what is predicted, and nothing else."""
import numpy as np
import pytest

from gfl_plugin.visualization import draw_distributions
from gfl_plugin.visualization.distributions import density

BOX = np.array([[120., 160, 280, 320]])  # in a picture of 400 x 480 pixels
ORANGE, BLACK = (0, 173, 255), (0, 0, 0)  # class 0, blue, green, red


def bell(center, std, count=17, step=4.):
    """Places around a centre, and the probabilities of a bell curve."""
    places = center + step * (np.arange(count) - count // 2)
    probs = np.exp(-((places - center) / std)**2 / 2)
    return places, probs / probs.sum()


def draw(stds=(8, 8, 8, 8), boxes=BOX, intervals=None, size=(480, 400), shift=0.):
    """What is drawn on grey, as (H, W) bool masks: everything, and the strong colour of curves inside their bands."""
    places, probs = zip(*(bell(side + shift, std) for box in boxes for side, std in zip(box, stds)))
    image = np.full((*size, 3), 128, np.uint8)
    picture = draw_distributions(image, boxes, None, np.zeros(len(boxes)), [''], np.reshape(places, (-1, 4, 17)),
                                 np.reshape(probs, (-1, 4, 17)), intervals)
    assert (image == 128).all(), 'the image itself should not change'
    return picture


def changed(picture):
    return (picture != 128).any(2)


def height_at(picture, column, base=158):
    """Height of the curve above the box in a column, pixels."""
    return changed(picture)[:base, int(column)].sum()


# ---- the curve ----

@pytest.mark.parametrize('seed', range(5))
def test_a_curve_passes_through_the_probabilities_and_has_no_peak_of_its_own(seed):
    rng = np.random.default_rng(seed)
    places, probs = 3 + 2. * np.arange(17), rng.dirichlet(np.ones(17))
    points, heights = density(places, probs)
    assert np.interp(places, points, heights) == pytest.approx(probs / 2), 'probability per pixel'
    area = (np.diff(points) * (heights[1:] + heights[:-1]) / 2).sum()
    assert area == pytest.approx(1, abs=0.01) and heights.min() >= 0
    padded = np.concatenate([[0], probs, [0]])
    peaks = [int(((x[1:-1] > x[:-2]) & (x[1:-1] >= x[2:])).sum()) for x in (padded, heights)]
    assert peaks[0] == peaks[1], 'as many peaks as the probabilities have'


def test_falling_places_give_the_same_curve():
    places, probs = bell(50, 6)
    probs[3] += 0.1
    for ours, expected in zip(density(places[::-1], probs[::-1]), density(places, probs)):
        assert ours.tolist() == expected.tolist()


def test_uneven_places():
    """Equal probabilities on places that lie twice as far apart are half as dense."""
    points, heights = density(np.array([0., 1, 2, 3, 5, 7, 9]), np.full(7, 1 / 7))
    assert np.interp([1, 7], points, heights) == pytest.approx([1 / 7, 1 / 14])


def test_certainty_is_one_peak():
    points, heights = density(np.arange(17.), np.eye(17)[5])
    assert points[heights.argmax()] == 5 and heights.max() == 1 and not heights[abs(points - 5) >= 1].any()


# ---- the picture ----

def test_a_sure_side_is_high_and_narrow():
    picture = draw(stds=(4, 2, 16, 2))  # the curves of top and bottom stay below row 150
    left, right = height_at(picture, 120), height_at(picture, 280)
    assert left > 1.5 * right > 10
    columns = np.flatnonzero(changed(picture)[:150].any(0))
    assert (columns < 200).sum() < (columns >= 200).sum()
    assert abs(columns[columns < 200].mean() - 120) < 2 and abs(columns[columns >= 200].mean() - 280) < 2


def test_the_peak_is_where_the_probabilities_have_it():
    """And not at the side of the box."""
    picture = draw(stds=(4, 4, 4, 4), shift=16.)
    assert height_at(picture, 136) > 3 * height_at(picture, 120)
    rows = 162 + np.flatnonzero(changed(picture)[162:, 290:].any(1))
    assert abs(rows[rows < 240].mean() - 176) < 2 and abs(rows[rows > 240].mean() - 336) < 2, 'top and bottom'


def test_bands_cover_their_intervals():
    intervals = np.stack([BOX - [[10, 5, 20, 5]], BOX + [[6, 5, 20, 5]]], -1)
    row = changed(draw(intervals=intervals))[240]
    bare = changed(draw())[240]
    drawn = np.flatnonzero(row & ~bare)
    inside = [*range(110, 126), *range(260, 300)]
    assert set(drawn) <= set(inside) and set(inside) <= set(np.flatnonzero(row)), drawn


def test_the_curve_is_stronger_inside_the_band():
    intervals = np.stack([BOX - 6, BOX + 6], -1)
    picture = draw(intervals=intervals).astype(int)
    row = np.flatnonzero(changed(picture)[:150].any(1)).max() - 3  # low enough to cross the whole curve
    distance = np.abs(picture[row] - ORANGE).sum(1)
    assert distance[116:124].max() < 60 < distance[[109, 131]].min()


@pytest.mark.parametrize('box', [[0, 0, 400, 480], [0, 0, 200, 240], [200, 240, 400, 480], [-50, 100, 450, 300]])
def test_curves_stay_on_the_picture(box):
    """Where there is no room above or on the right, they stand below or on the left, or move inside."""
    box = np.array([box], float)
    picture = draw(boxes=box, stds=(12, 12, 12, 12))
    strong = changed(picture)
    frame_only = changed(draw(boxes=box, stds=(np.nan, ) * 4))
    assert (strong & ~frame_only).sum() > 1000, 'the curves should be seen'


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_distributions_that_are_not_finite_leave_the_frame(bad):
    places, probs = (np.tile(x, (1, 4, 1)) for x in bell(50, 6))
    image, frame = np.full((480, 400, 3), 128, np.uint8), changed(draw(stds=(np.nan, ) * 4))
    for name in ('places', 'probs', 'intervals'):
        arrays = dict(places=places.copy(), probs=probs.copy(), intervals=np.stack([BOX - 5, BOX + 5], -1))
        arrays[name][0, 2, 1] = bad
        picture = draw_distributions(image, BOX, np.array([0.5]), [0], [''], **arrays)
        assert changed(picture)[200:300, 100:300].sum() >= frame[200:300, 100:300].sum() > 0, name


def test_no_detections_and_no_image_that_is_too_small():
    image = np.full((20, 10, 3), 128, np.uint8)
    empty = draw_distributions(image, [], [], [], ['cat'], np.zeros((0, 4, 17)), np.zeros((0, 4, 17)))
    assert not changed(empty).any() and empty.shape == (320, 160, 3), 'small images are enlarged'
    places, probs = (np.tile(x, (1, 4, 1)) for x in bell(5, 1, step=0.5))
    picture = draw_distributions(image, [[2, 5, 8, 15]], [0.9], [0], ['cat'], places, probs)
    assert changed(picture).sum() > 500


def test_more_sides_than_pixels():
    """A Gaussian of a hundredth of a pixel is a line of the greatest height, and the other curves stay."""
    places, probs = zip(*(bell(side, std, step=std / 2) for side, std in zip(BOX[0], (0.01, 8, 8, 8))))
    picture = draw_distributions(np.full((480, 400, 3), 128, np.uint8), BOX, None, [0], [''], [places], [probs])
    assert 60 <= height_at(picture, 120) <= 72, 'two fifths of the box'
    assert height_at(picture, 280) > 10
