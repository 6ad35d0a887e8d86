"""Intervals that contain the true sides with a chosen probability."""
import itertools
import json

import numpy as np
import pytest

from gfl_plugin import conformal
from gfl_plugin.conformal import EPS, Calibration, MatchedDetections, evaluate, first_half, fit, reliability
from gfl_plugin.errors import SetupError

NOT_FINITE = [float('nan'), float('inf'), -float('inf')]


def matched(errors, std=1., per_image=1):
    """Detections of boxes at 0, 0, 50, 50 whose sides are off by ``errors`` (M, 4)."""
    errors = np.asarray(errors, float)
    truth = np.tile([0., 0, 50, 50], (len(errors), 1))
    return MatchedDetections.of(truth + errors, truth, np.broadcast_to(std, errors.shape),
                                np.arange(len(errors)) // per_image)


def random_matches(count, rng, per_image=3, noise=1.):
    """Detections whose errors grow with their spreads. A share of each error is common to all sides of an image."""
    std = rng.gamma(2, 2, (count, 4))
    common = np.repeat(rng.normal(size=-(-count // per_image)), per_image)[:count, None]
    errors = std * (0.6 * common + 0.8 * rng.standard_t(4, (count, 4))) + noise * rng.normal(size=(count, 4))
    return matched(errors, std, per_image)


# ---- by hand ----

def test_the_quantile_by_hand():
    """Nine detections, errors of 1 to 9 pixels on one side. The ceil(10 x 0.9) = 9th smallest is the largest."""
    errors = np.zeros((9, 4))
    errors[:, 2] = range(1, 10)
    calibration = fit(matched(errors, std=1.5), 0.9)
    assert calibration.box_fixed == 9 and calibration.box_factor == 9 / (1.5 + EPS)
    assert calibration.side_fixed == 7, 'the ceil(37 x 0.9) = 34th of 36, of which 27 are 0'
    assert (calibration.detections, calibration.images, calibration.coverage) == (9, 9, 0.9)
    assert fit(matched(errors), 0.9, score_thr=0.3).score_thr == 0.3


@pytest.mark.parametrize('coverage, needed', [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_too_few_detections_are_refused_with_the_number_needed(coverage, needed):
    assert fit(matched(np.arange(4. * needed).reshape(-1, 4)), coverage).box_fixed == 4 * needed - 1
    with pytest.raises(SetupError, match=f'{coverage} needs at least {needed} .* half of the images has {needed - 1}:'):
        fit(matched(np.ones((needed - 1, 4))), coverage)


@pytest.mark.parametrize('coverage', [0, 1, 90, -0.1, float('nan')])
def test_impossible_coverages_are_refused(coverage):
    with pytest.raises(SetupError, match='not between 0 and 1'):
        fit(matched(np.ones((99, 4))), coverage)


def test_intervals_by_hand():
    calibration = Calibration(0.9, side_factor=2., box_factor=3., side_fixed=5., box_fixed=7., eps=0.5, detections=9,
                              images=9, score_thr=0.)
    sides, std = np.array([[10., 20, 30, 40]]), np.array([[0., 1, 2, 4]])
    assert calibration.intervals(sides, std).tolist() == [[[9, 11], [17, 23], [25, 35], [31, 49]]]
    assert calibration.intervals(sides, std, whole_box=True)[0, 0].tolist() == [8.5, 11.5]
    assert calibration.intervals(sides[:0], std[:0]).shape == (0, 4, 2)


def test_equal_spreads_give_the_fixed_width():
    rng = np.random.default_rng(0)
    calibration = fit(matched(rng.normal(size=(200, 4)), std=3.), 0.8)
    for whole_box, fixed in ((False, calibration.side_fixed), (True, calibration.box_fixed)):
        intervals = calibration.intervals(np.zeros((1, 4)), np.full((1, 4), 3.), whole_box)
        assert np.diff(intervals) == pytest.approx(2 * fixed)


def test_a_spread_of_zero_still_gives_an_interval():
    calibration = fit(matched(np.full((50, 4), 0.25), std=0.), 0.9)
    assert calibration.side_factor == 0.25 / EPS
    assert calibration.intervals(np.ones((1, 4)), np.zeros((1, 4)))[0, 0].tolist() == [0.75, 1.25]


def test_signs_do_not_matter():
    errors = np.random.default_rng(0).normal(size=(50, 4))
    assert fit(matched(errors), 0.9) == fit(matched(-errors), 0.9)


# ---- coverage ----

@pytest.mark.parametrize('coverage', [0.5, 0.9])
def test_new_detections_are_covered(coverage):
    """Averaged over many draws, the coverage is the chosen one, within its binomial error."""
    rng = np.random.default_rng(0)
    found = dict(sides=[], boxes=[])
    for _ in range(150):
        report = evaluate(fit(random_matches(90, rng), coverage), random_matches(90, rng))
        for name in found:
            found[name].append((report[name]['coverage'], report[name]['fixed_coverage']))
    for name, values in found.items():
        mean, error = np.mean(values, 0), np.std(values, 0) / 150**0.5
        # At most one detection in 91 is covered beyond the coverage asked for, because ranks are whole numbers.
        assert (mean > coverage - 3 * error).all() and (mean < coverage + 3 * error + 1 / 91).all(), (name, mean, error)


def test_halves_split_images():
    data = random_matches(300, np.random.default_rng(0))
    halves = [first_half(data.image, seed) for seed in range(3)]
    for half in halves:
        assert not set(data.image[half]) & set(data.image[~half]) and len(set(data.image[half])) == 50
    assert (halves[0] != halves[1]).any() and (halves[0] == first_half(data.image, 0)).all()


def test_what_the_spreads_are_worth():
    rng = np.random.default_rng(0)
    calibration = fit(random_matches(3000, rng), 0.9)
    report = evaluate(calibration, random_matches(3000, rng))
    for name in ('sides', 'boxes'):
        assert report[name]['width'] < 0.9 * report[name]['fixed_width'], 'adaptive intervals should be narrower'
    useless = random_matches(3000, rng)._replace(std=rng.gamma(2, 2, (3000, 4)))
    assert evaluate(fit(useless, 0.9), useless)['sides']['width'] > report['sides']['fixed_width'], \
        'spreads that know nothing about the errors should not pay'
    assert report['rank_correlation'] > 0.3 > abs(evaluate(calibration, useless)['rank_correlation']) + 0.2


def test_the_report_by_hand():
    """Two detections. Errors 1, 2, 3, 4 with spread 1, and 0, 0, 0, 10 with spread 9.5."""
    data = matched([[1, 2, 3, 4], [0, 0, 0, 10]], np.array([[1.] * 4, [9.5] * 4]), per_image=2)
    calibration = Calibration(0.9, side_factor=2., box_factor=3., side_fixed=2., box_fixed=10., eps=0.5, detections=9,
                              images=9, score_thr=0.)
    report = evaluate(calibration, data)
    assert (report['detections'], report['images']) == (2, 1)
    assert report['sides'] == dict(coverage=7 / 8, width=pytest.approx(23), fixed_coverage=5 / 8, fixed_width=4)
    assert report['boxes'] == dict(coverage=1., width=pytest.approx(34.5), fixed_coverage=1., fixed_width=20)
    assert report['by_size'] == report['by_class'] == {}, 'too few to say'


def test_groups_need_enough_detections():
    data = random_matches(200, np.random.default_rng(0))
    truth = data.truth.copy()
    truth[:60, 2:], truth[60:109, 2:] = 31.99, 96  # 60 small, 49 large and 91 medium objects
    data = data._replace(truth=truth, sides=truth + data.sides - data.truth)
    report = evaluate(fit(data, 0.9), data, np.repeat([0, 2, 1], [60, 90, 50]), ['cat', 'dog', 'cow'])
    assert {name: group['detections'] for name, group in report['by_size'].items()} == dict(small=60, medium=91)
    assert {name: group['detections'] for name, group in report['by_class'].items()} == dict(cat=60, dog=50, cow=90)
    assert json.loads(json.dumps(report)) == report


def test_reliability_is_the_diagonal():
    rng = np.random.default_rng(0)
    rows = reliability(random_matches(4000, rng, per_image=1), random_matches(4000, rng, per_image=1))
    assert [row['coverage'] for row in rows] == list(conformal.LEVELS)
    assert all(abs(row[name] - row['coverage']) < 0.04 for row in rows for name in ('sides', 'boxes')), rows
    few = reliability(random_matches(10, rng), random_matches(10, rng))
    assert few[-1]['coverage'] == 0.9, 'ten detections are too few for 0.95'


def test_rank_correlation_by_hand():
    ranks = conformal.rank_correlation
    assert ranks(np.array([1, 2, 3]), np.array([1, 10, 1000])) == pytest.approx(1)
    assert ranks(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    assert ranks(np.array([1, 2, 2, 3]), np.array([1, 3, 2, 4])) == pytest.approx(0.9**0.5), 'ranks 1, 2.5, 2.5, 4'
    assert ranks(np.ones(3), np.arange(3)) is None and ranks(np.array([]), np.array([])) is None


# ---- bad input ----

@pytest.mark.parametrize('field, name, bad', [
    *itertools.product([0], ['side'], NOT_FINITE), *itertools.product([1], ['true side'], NOT_FINITE),
    *itertools.product([2], ['standard deviation'], [*NOT_FINITE, -1.])])
def test_values_that_are_not_finite_are_refused(field, name, bad):
    arrays = [x.copy() for x in matched(np.ones((20, 4)))]
    arrays[field][[3, 7], 1] = bad
    with pytest.raises(SetupError, match=f'2 of 20 matched detections have a {name} that is not a finite number'):
        MatchedDetections.of(*arrays)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r'\(20, 3\)'):
        MatchedDetections.of(np.ones((20, 4)), np.ones((20, 4)), np.ones((20, 3)), np.ones(20))


def test_a_calibration_survives_json():
    calibration = fit(random_matches(50, np.random.default_rng(0)), 0.9)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


@pytest.mark.parametrize('change', [
    dict(eps=None), dict(eps='1'), dict(side_factor=float('nan')), dict(box_factor=float('inf')), dict(side_fixed=-1.),
    dict(coverage=1.), dict(coverage=2), dict(detections=2.5), dict(images=True), dict(detections=10**400),
    dict(box_fixed=[1.]), dict(score_thr=1.01), dict(score_thr=-0.1), dict(score_thr='0.5'), dict(score_thr=True)])
def test_a_damaged_calibration_is_refused(change):
    content = fit(random_matches(50, np.random.default_rng(0)), 0.9).to_dict()
    name, = change
    with pytest.raises(SetupError, match=f'{name}='):
        Calibration.from_dict(dict(content, **change))


@pytest.mark.parametrize('content', [None, [], 'text', {}, dict(coverage=0.9), dict.fromkeys(
    [*fit(matched(np.ones((9, 4))), 0.9).to_dict(), 'more'], 0.5)])
def test_what_is_no_calibration_is_refused(content):
    with pytest.raises(SetupError, match='not a table of coverage, side_factor, '):
        Calibration.from_dict(content)
