"""Pure tensor functions: boxes, distributions, priors, NMS."""
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.task_modules.prior_generators import AnchorGenerator, anchor_inside_flags

from gfl_plugin.functional.boxes import (
    best_iou,
    box_to_distance,
    centerness,
    clip_boxes,
    delta_to_box,
    distance_to_box,
    giou,
    iou,
)
from gfl_plugin.functional.distributions import expectation, expectation_around_peak, standard_deviation
from gfl_plugin.functional.nms import class_aware_nms, greedy_nms
from gfl_plugin.functional.priors import all_priors, num_priors, read_maps, read_priors, stack_grids


def random_boxes(count, scale=100.):
    corner, size = torch.rand(count, 2) * scale, torch.rand(count, 2) * scale / 3
    return torch.cat([corner, corner + size], 1)


def test_decode_of_encode_is_the_box():
    points = torch.rand(50, 2) * 5 + 5
    boxes = torch.cat([points - torch.rand(50, 2) * 5, points + torch.rand(50, 2) * 5], 1)
    assert torch.allclose(distance_to_box(points, box_to_distance(points, boxes, 16)), boxes, atol=1e-5)


def test_distances_are_clamped_below_the_last_bin():
    distances = box_to_distance(torch.tensor([[5., 5.]]), torch.tensor([[-20., 7., 30., 9.]]), 16)
    assert distances.tolist() == [[pytest.approx(15.9), 0, pytest.approx(15.9), 4]], \
        'distances should be clamped to [0, n - 0.1]'


def test_the_best_iou_is_with_a_box_of_the_same_label():
    boxes = torch.tensor([[0., 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2]])
    gt_boxes = torch.tensor([[1., 1, 3, 3], [0, 0, 2, 2], [0, 0, 2, 4]])
    found = best_iou(boxes, torch.tensor([0, 1, 2]), gt_boxes, torch.tensor([0, 1, 0]))
    assert found.tolist() == pytest.approx([1 / 2, 1, 0])
    assert best_iou(boxes, torch.tensor([0, 1, 2]), gt_boxes[:0], torch.zeros(0)).tolist() == [0, 0, 0]
    assert best_iou(boxes[:0], torch.zeros(0), gt_boxes, torch.tensor([0, 1, 0])).shape == (0, )


def test_iou_by_hand():
    a, b = torch.tensor([[0., 0, 2, 2]]), torch.tensor([[1., 1, 3, 3]])
    assert iou(a, b).item() == pytest.approx(1 / 7), 'the boxes share one of seven unit squares'
    assert giou(a, b).item() == pytest.approx(1 / 7 - 2 / 9), 'two of the nine squares of the hull lie in neither box'
    assert iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0, 'boxes without area should give 0, not NaN'


def test_clip_takes_height_before_width():
    clipped = clip_boxes(torch.tensor([[-3., -3, 50, 50]]), torch.tensor([[20, 30]]))
    assert clipped.tolist() == [[0, 0, 30, 20]], 'shapes are (height, width), boxes are (x, y)'


def test_expectation_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]]).log()
    assert expectation(logits).tolist() == pytest.approx([0.75, 1.0]), 'the expectation should be that of eq. 5'


@pytest.mark.parametrize('border', [-1, 0, 5, 40])
@pytest.mark.parametrize('offset', [0, 0.5])
def test_cells_in_are_the_anchors_inside(border, offset):
    strides = (8, 16, 32)
    generator = AnchorGenerator(strides, ratios=[1.0], octave_base_scale=4, scales_per_octave=1, center_offset=offset)
    sizes = [(33, 40), (17, 21), (9, 10)]  # maps larger than the image needs
    bases = [base[0].tolist() for base in generator.base_anchors]
    for image, pad in (((250, 300), (256, 320)), ((97, 111), (128, 128)), ((64, 320), (256, 320))):
        grids = stack_grids(sizes, generator.strides, bases)
        boxes = all_priors(grids).boxes().split([g.size for g in grids])
        levels = zip(grids, boxes, generator.grid_priors(sizes, device='cpu'), generator.valid_flags(sizes, pad, 'cpu'))
        for grid, priors, anchors, flags in levels:
            assert priors.equal(anchors), 'the priors should be MMDetection\'s anchors'
            expected = anchor_inside_flags(anchors, flags, image, border).view(grid.height, grid.width)
            x0, y0, x1, y1 = grid.cells_in(image, pad, border)
            inside = torch.zeros_like(expected)
            inside[y0:y1, x0:x1] = True
            assert inside.equal(expected), f'cells differ for image {image}, padded to {pad}, border {border}'


def test_places_read_the_maps_where_they_are():
    grids = stack_grids([(3, 4), (2, 2)], [(8, 8), (16, 16)], [(-4, -4, 4, 4), (-8, -8, 8, 8)])
    maps = [torch.randn(2, 5, 3, 4), torch.randn(2, 5, 2, 2)]
    flat = torch.cat([m.flatten(2) for m in maps], 2)
    at = SimpleNamespace(image=torch.tensor([1, 0, 1]), prior=torch.tensor([6, 11, 14]), sizes=[2, 1])
    for same in (maps, [m.contiguous(memory_format=torch.channels_last) for m in maps]):
        assert read_maps(same, grids, at).equal(flat[at.image, :, at.prior]), \
            'prior p should be cell p of the flattened maps'
    priors = read_priors(grids, at.prior, at.sizes)
    assert priors.center.tolist() == [[16, 8], [24, 16], [0, 16]], 'centres should be (x, y), in pixels'
    assert priors.stride.tolist() == [[8, 8], [8, 8], [16, 16]], 'strides should be (x, y), in pixels'
    assert priors.size.tolist() == [[8, 8], [8, 8], [16, 16]], 'sizes should be (width, height), in pixels'


def nms_in_a_loop(boxes, scores, threshold, offset):
    """Visit the boxes one by one in the order of their scores, as mmcv's C++ code does."""
    kept = []
    for i in scores.sort(descending=True, stable=True).indices.tolist():
        x1, y1, x2, y2 = boxes[i]
        for j in kept:
            a1, b1, a2, b2 = boxes[j]
            overlap = ((torch.minimum(x2, a2) - torch.maximum(x1, a1) + offset).clamp(min=0)
                       * (torch.minimum(y2, b2) - torch.maximum(y1, b1) + offset).clamp(min=0))
            union = ((x2 - x1 + offset) * (y2 - y1 + offset) + (a2 - a1 + offset) * (b2 - b1 + offset) - overlap)
            if overlap / union > threshold:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.6])
def test_nms_keeps_what_a_loop_keeps(threshold, offset):
    for count in (0, 1, 30, 300):  # 300 boxes take more than one block
        boxes, scores = random_boxes(count), (torch.rand(count) * 50).round() / 50  # many scores are equal
        kept = greedy_nms(boxes, scores, threshold, offset).tolist()
        assert kept == nms_in_a_loop(boxes, scores, threshold, offset), \
            f'NMS of {count} boxes should keep what the loop keeps'
        assert greedy_nms(boxes, scores, threshold, offset, max_keep=7).tolist() == kept[:7], \
            'max_keep should keep the best 7 of these'


def test_nms_of_a_chain():
    """Each box suppresses only the next one, so every second box is kept, after as many rounds as there are boxes."""
    x = torch.arange(300.)
    boxes = torch.stack([x, 0 * x, x + 3, 0 * x + 3], 1)
    kept = greedy_nms(boxes, -x, 0.4)
    assert kept.equal(torch.arange(0, 300, 2)), 'IoU is 1/2 with the next box and 1/5 with the one after it'


@pytest.mark.parametrize('class_agnostic', [False, True])
def test_class_aware_nms_of_a_batch_equals_nms_of_each_class(class_agnostic):
    """The batch has images without boxes and images with few or many; only the best boxes are kept."""
    image = torch.tensor([1] * 400 + [2] * 3 + [4] * 90)[torch.randperm(493)]
    boxes, scores, labels = random_boxes(493), (torch.rand(493) * 50).round() / 50, torch.randint(0, 3, (493, ))
    expected = []
    for i in range(5):
        mine = (image == i).nonzero()[:, 0]
        group = torch.zeros_like(labels) if class_agnostic else labels
        kept = [mine[group[mine] == c] for c in range(3)]
        kept = torch.cat([k[nms_in_a_loop(boxes[k], scores[k], 0.5, 0)] for k in kept]).sort().values
        expected += kept[scores[kept].argsort(descending=True, stable=True)][:60].tolist()
    found = class_aware_nms(boxes, scores, labels, image, 0.5, max_keep=60, class_agnostic=class_agnostic)
    assert found.tolist() == expected, 'boxes should be ordered by image, best first'
    assert class_aware_nms(boxes[:0], scores[:0], labels[:0], image[:0], 0.5).tolist() == [], \
        'NMS of no boxes should keep none'


def test_delta_by_hand():
    # A 4 x 2 prior at the origin moves right by half its width, keeps its width and doubles its height.
    prior, delta = torch.tensor([[-2., -1, 2, 1]]), torch.tensor([[0.5, 0, 0, 0.6931472]])
    assert torch.allclose(delta_to_box(prior, delta), torch.tensor([[0., -2, 4, 2]]), atol=1e-5)


def test_centerness_by_hand():
    box = torch.tensor([[0., 0, 4, 8]])
    for point, expected in (((2., 4.), 1), ((1., 4.), (1 / 3)**0.5), ((1., 2.), 1 / 3), ((0., 4.), 0), ((9., 4.), 0)):
        assert centerness(torch.tensor([point]), box).item() == pytest.approx(expected), \
            f'the centre-ness at {point} is wrong'


def test_priors_in_strides():
    grids = stack_grids([(4, 5), (2, 3)], [(8, 8), (16, 16)], [(-28, -28, 36, 36), (-60, -60, 60, 60)])
    priors = all_priors(grids)
    assert len(priors.center) == num_priors(grids) == 26
    in_strides = priors.in_strides()
    assert torch.allclose(in_strides.boxes() * priors.stride.repeat(1, 2), priors.boxes()), \
        'boxes in strides, times the stride, should be the boxes'


def test_standard_deviation_by_hand():
    # Bins 0, 4, 8 with 1/4, 1/2, 1/4: variance 8. Two neighbours with 1/2 each: 1/2. One bin: 0, not NaN.
    p = torch.zeros(3, 17)
    p[0, 0], p[0, 4], p[0, 8], p[1, 5:7], p[2, 9] = 0.25, 0.5, 0.25, 0.5, 1
    assert standard_deviation(p.log()).tolist() == pytest.approx([8**0.5, 0.5, 0], abs=1e-6)
    logits = torch.randn(50, 17) * 5
    exact = logits.double().softmax(-1)
    mean = exact @ torch.arange(17.).double()
    variance = (exact * (torch.arange(17.) - mean[:, None]).square()).sum(-1)
    assert torch.allclose(standard_deviation(logits).double(), variance.sqrt(), rtol=1e-4)


def test_expectation_around_the_higher_of_two_peaks():
    # A side at one of two places: a mass of 0.55 lies symmetrically around bin 3, and 0.45 around bin 12.
    p = torch.full((17, ), 1e-6)
    p[2:5], p[11:14] = torch.tensor([0.1, 0.35, 0.1]), torch.tensor([0.1, 0.25, 0.1])
    assert expectation_around_peak(p.log()).item() == pytest.approx(3, abs=1e-3), \
        'the result should be the mean of the higher peak'
    assert expectation(p.log()).item() == pytest.approx(0.55 * 3 + 0.45 * 12, abs=1e-2), \
        'the overall mean should lie between the peaks'
    p[12] = 0.5
    assert expectation_around_peak(p.log()).item() == pytest.approx(12, abs=1e-3), \
        'the other peak is now the higher one'


def test_expectation_around_the_only_peak_is_the_expectation():
    bins = torch.arange(17.)
    logits = -(bins - torch.rand(60, 4, 1) * 16).abs() * torch.rand(60, 4, 1) * 3
    assert torch.allclose(expectation_around_peak(logits), expectation(logits), atol=1e-4)
    assert expectation_around_peak(torch.zeros(17)).item() == pytest.approx(8), \
        'a flat distribution should count as one peak'
