"""Studies of trained heads: every pair of quality and box, and numbers worked by hand."""
import itertools

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from reference import head_config, random_features, random_objects

from gfl_plugin.analysis import centerness, perturb, quality
from gfl_plugin.analysis.centerness import Labels
from gfl_plugin.analysis.perturb import Moved
from gfl_plugin.analysis.quality import Scores
from gfl_plugin.analysis.reading import Scene, Trained, rank_correlation, sample_of
from gfl_plugin.errors import SetupError
from gfl_plugin.functional.boxes import iou
from gfl_plugin.registry import BOXES, QUALITIES

PAIRS = [(quality, box) for quality, box in itertools.product(sorted(QUALITIES.module_dict), sorted(BOXES.module_dict))
         if quality != 'DistributionGuidedQuality' or box == 'GeneralDistribution']  # it reads the distribution


def build(quality='JointQuality', box='GeneralDistribution'):
    """Build a head whose scores cover the whole range, as after training."""
    config = head_config('gfl_plugin.GFLHead', 'gfl_plugin.')
    for name in ('loss_cls', 'loss_dfl', 'reg_max'):
        config.pop(name)
    head = MODELS.build(dict(config, quality=dict(type=quality), box=dict(type=box))).eval()
    torch.nn.init.normal_(getattr(head, head.quality.cls_layer).weight, std=0.1)
    torch.nn.init.normal_(getattr(head, head.box.reg_layer).weight, std=0.15)
    return head


def scene(counts=(5, 3), height=160, width=192, **options):
    objects, metas = random_objects(counts, height, width, **options)
    return Scene(random_features(len(counts), height, width), objects, [InstanceData(bboxes=torch.zeros(0, 4))
                                                                        for _ in counts], metas, [None] * len(counts))


@pytest.mark.parametrize('kinds', PAIRS)
def test_scores_and_boxes_are_those_of_detections(kinds):
    """The study reads at each prior what the head would detect there."""
    head, given = build(*kinds), scene()
    with torch.no_grad():
        maps = head(given.features)
        scores = quality.scores_of_all(head.predictions(*maps))
        found = head.predict_by_feat(*maps, batch_img_metas=given.metas, with_nms=False,
                                     cfg=dict(score_thr=-1, nms_pre=-1, min_bbox_size=-1, nms=dict(type='nms')))
    for image, detections in enumerate(found):
        expected = scores[image].flatten().sort().values
        assert torch.allclose(detections.scores.sort().values, expected, atol=1e-6), \
            'the study should read the scores of the detections'
    read = quality.read_scores(head, given)
    assert len(read.positive) == len(read.positive_iou) > 0 and len(read.negative) > 0
    assert read.negatives + len(read.positive) == scores.shape[0] * scores.shape[1], \
        'every prior should be a positive or a negative'
    assert (read.branch is not None) == head.quality.has_branch
    boxes = torch.cat([d.bboxes for d in found])
    for overlap in read.positive_iou[:5]:
        best = torch.cat([iou(boxes[:, None], each.bboxes).flatten() for each in given.objects])
        assert (best - overlap).abs().min() < 1e-5, 'the IoU should be that of a detection and an object'


@pytest.mark.parametrize('kinds', PAIRS)
def test_every_pair_is_studied(kinds):
    batches = [scene(), scene((0, 2))]
    models = [Trained('a', build(*kinds), lambda: iter(batches), lambda detect: len(detect(batches[0], 0)))]
    for study in (quality, centerness, perturb):
        numbers = study.study(models)
        assert numbers['models']['a'] and study.chart(numbers).panels and 'a' in study.summary(numbers)
    numbers = perturb.study(models, with_ap=True)['models']['a']
    assert numbers['drop'][0] == 0 and numbers['iou_with_calm_box'][0] == pytest.approx(1, abs=1e-3), \
        'nothing should move without noise'
    assert numbers['iou_with_calm_box'][-1] < 0.99, 'noise should move boxes'
    assert numbers['ap'] == [2] * len(numbers['strengths']), 'both images should have detections at each strength'


@pytest.mark.parametrize('study', [quality, centerness, perturb])
def test_images_without_objects_are_named(study):
    with pytest.raises(SetupError, match='a is studied on hold no object'):
        study.study([Trained('a', build(), lambda: iter([scene((0, 0))]), None)])


def test_padding_is_not_counted_as_negative():
    head, given = build(), scene((3, 3), unpadded=((160, 192), (80, 96)))
    given.metas[1]['pad_shape'] = (96, 96)  # half of the columns belong to the other image only
    full = [m.shape[-2] * m.shape[-1] for m in given.features]
    part = [-(-96 // s) * -(-96 // s) for s in (8, 16, 32, 64, 128)]
    read = quality.read_scores(head, given)
    assert read.negatives + len(read.positive) == sum(full) + sum(part)


def test_iou_of_a_negative_is_with_an_object_of_its_class():
    given = scene((1, 0))
    given.objects[0] = InstanceData(bboxes=torch.tensor([[0., 0, 10, 10]]), labels=torch.tensor([2]))
    boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]])
    found = quality._best_iou(boxes, torch.tensor([2, 1, 2, 2]), torch.tensor([0, 0, 0, 1]), given)
    assert found.tolist() == [1, 0, 0.5, 0], 'only objects of the same class and image should count'


def test_quality_by_hand():
    scores = Scores(torch.tensor([0.9, 0.6, 0.4, 0.2]), torch.tensor([0.9, 0.8, 0.7, 0.3]),
                    torch.tensor([0.7, 0.35, 0.12]), torch.tensor([0.0, 0.9, 0.2]), 10, torch.tensor([0.2, 0.4] * 5))
    numbers = quality.measure(scores)
    assert numbers['positives']['rank_correlation'] == pytest.approx(1), \
        'the scores and IoUs of the positives have the same order'
    assert numbers['negatives']['above'] == {'0.1': dict(share=0.3, misses=pytest.approx(2 / 3)),
                                             '0.3': dict(share=0.2, misses=0.5), '0.5': dict(share=0.1, misses=1)}
    assert numbers['negatives']['branch_above'] == {'0.1': 1, '0.3': 0.5, '0.5': 0}
    ranked = {row['fraction']: row for row in numbers['ranking']}
    assert ranked[1] == dict(fraction=1, negatives=0.25, misses=0.25), \
        'the highest four are 0.9, 0.7 (misses), 0.6, 0.4'
    assert ranked[0.5] == dict(fraction=0.5, negatives=0.5, misses=0.5) and ranked[1.5]['negatives'] == 2 / 6
    assert sum(numbers['sample']['positives']['score']) == pytest.approx(2.1), \
        'a sample of few points should hold all of them'


def test_centerness_by_hand():
    numbers = centerness.measure(Labels(torch.tensor([0.05, 0.15, 0.25, 0.95]), torch.tensor([0.5, 0.6, 0.7, 0.8])))
    assert numbers['centerness']['below'] == {'0.1': 0.25, '0.2': 0.5, '0.3': 0.75}
    assert numbers['iou']['below']['0.3'] == 0 and numbers['iou']['mean'] == pytest.approx(0.65)
    assert sum(numbers['centerness']['histogram']) == 4 and numbers['rank_correlation'] == pytest.approx(1)


def test_centerness_of_a_prior_needs_no_prediction():
    given = scene()
    first, second = (centerness.read_labels(build(), given) for _ in range(2))
    assert torch.equal(first.centerness, second.centerness) and not torch.equal(first.iou, second.iou)


def test_perturb_by_hand():
    numbers = perturb.measure(Moved(torch.tensor([[0.8, 0.6], [0.6, 0.5]]), torch.tensor([[1, 1], [0.7, 0.9]])), (0, 1))
    assert numbers['drop'] == pytest.approx([0, 0.15]) and numbers['iou_with_calm_box'] == pytest.approx([1, 0.8])
    assert numbers['error_of_drop'] == pytest.approx([0, 0.05 / 2**0.5])


def test_noise_is_the_same_for_every_model_and_grows_with_the_features():
    small = [torch.randn(1, 4, 32, 32)]
    noise, again = (perturb.disturb(small, 0.5, seed=3)[0] - small[0] for _ in range(2))
    assert torch.equal(noise, again) and noise.std() == pytest.approx(0.5 * small[0].std().item(), rel=0.1)
    large = perturb.disturb([10 * small[0]], 0.5, seed=3)[0] - 10 * small[0]
    assert torch.allclose(large, 10 * noise, atol=1e-4)
    assert torch.equal(perturb.disturb(small, 0, seed=3)[0], small[0]), 'strength 0 should add no noise'


def test_rank_correlation():
    assert rank_correlation(torch.tensor([1., 2, 3]), torch.tensor([5., 4, 3])) == pytest.approx(-1)
    assert rank_correlation(torch.ones(5), torch.rand(5)) is None and rank_correlation(*torch.rand(2, 2)) is None


def test_a_sample_is_always_the_same():
    columns = dict(a=torch.arange(100) / 100, b=-torch.arange(100) / 100)
    sample = sample_of(columns, 10)
    assert sample == sample_of(columns, 10) and len(sample['a']) == 10
    assert [-a for a in sample['a']] == sample['b'], 'rows should stay together'
