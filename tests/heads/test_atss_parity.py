"""(CenternessBranch, DiracDelta) is MMDetection's ATSSHead: losses, gradients, detections and checkpoints."""
import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from reference import assert_close, atss_heads, losses_and_gradients, random_features, random_objects

from gfl_plugin.compat.packages import get_installed_path

CASES = {
    'ordinary': dict(),
    'image_without_objects': dict(counts=(5, 0)),
    'no_object_at_all': dict(counts=(0, 0)),
    'one_class': dict(head=dict(num_classes=1)),
    '150_objects': dict(counts=(150, 20)),
    'odd_sizes': dict(height=243, width=331, unpadded=((243, 311), (199, 331))),
    'smaller_maps': dict(excess=-1, height=384, width=512),
    'border_0': dict(head=dict(allowed_border=0), height=640, width=640, unpadded=((640, 512), (600, 640))),
    'pos_weight': dict(head=dict(pos_weight=2.5)),
    'three_levels': dict(head=dict(strides=(4, 8, 16))),
}
SCOPES = {'own': 'gfl_plugin.', 'mmdet': ''}


def setup(case, scope):
    options = dict(CASES[case])
    head = options.pop('head', {})
    counts, height, width = options.pop('counts', (6, 3)), options.pop('height', 256), options.pop('width', 320)
    excess = options.pop('excess', 0)
    reference, ours = atss_heads(SCOPES[scope], **head)
    features = random_features(len(counts), height, width, head.get('strides', (8, 16, 32, 64, 128)), excess)
    objects, metas = random_objects(counts, height, width, head.get('num_classes', 8), **options)
    return reference, ours, features, objects, metas


@pytest.mark.parametrize('scope', SCOPES)
@pytest.mark.parametrize('case', CASES)
def test_losses_and_gradients(case, scope):
    reference, ours, features, objects, metas = setup(case, scope)
    expected, expected_gradients = losses_and_gradients(reference, features, objects, metas)
    losses, gradients = losses_and_gradients(ours, features, objects, metas)
    assert losses.keys() == expected.keys(), 'the losses should have MMDetection\'s names'
    for name in expected:
        assert_close(losses[name], expected[name], name)
    for name, gradient in expected_gradients.items():
        assert_close(gradients[name], gradient, f'the gradient of {name}')


@pytest.mark.parametrize('case', CASES)
def test_losses_and_gradients_with_slots(case, monkeypatch):
    """As on a GPU: see the test of this name of the default pair."""
    monkeypatch.setattr('gfl_plugin.assigners.atss.can_be_read_at_once', lambda x: False)
    test_losses_and_gradients(case, 'own')


def ordered(detections):
    detections = detections[(detections.bboxes.sum(1) + detections.labels * 1e4).argsort(stable=True)]
    return detections[detections.scores.argsort(stable=True)]


@pytest.mark.parametrize('rescale', [False, True])
@pytest.mark.parametrize('with_nms', [False, True])
@pytest.mark.parametrize('case', CASES)
def test_detections(case, with_nms, rescale):
    reference, ours, features, _, metas = setup(case, 'own')
    with torch.no_grad():
        expected, found = (head.predict_by_feat(*head(features), batch_img_metas=metas, rescale=rescale,
                                                with_nms=with_nms) for head in (reference, ours))
    assert sum(map(len, expected)) > 0, 'the case should have detections to compare'
    for ours_of_image, theirs in zip(found, expected):
        assert len(ours_of_image) == len(theirs), 'there should be as many detections as the reference has'
        if not with_nms:
            ours_of_image, theirs = ordered(ours_of_image), ordered(theirs)
        assert_close(ours_of_image.scores, theirs.scores, 'the scores, each times its centre-ness')
        assert_close(ours_of_image.bboxes, theirs.bboxes, 'the boxes')
        assert ours_of_image.labels.equal(theirs.labels), 'the labels should be the reference\'s'


def test_published_checkpoints_fit():
    """The keys and shapes of MMDetection's published ATSS are those of its config with this head."""
    published = Config.fromfile(f'{get_installed_path("mmdet")}/.mim/configs/atss/atss_r50_fpn_1x_coco.py').model
    published.backbone.init_cfg = None
    ours = copy.deepcopy(published)
    head = ours.bbox_head
    head.type = 'gfl_plugin.GFLHead'
    head.quality = dict(type='gfl_plugin.CenternessBranch', loss_cls=head.pop('loss_cls'),
                        loss_centerness=head.pop('loss_centerness'))
    head.box = dict(type='gfl_plugin.DiracDelta', bbox_coder=head.pop('bbox_coder'))
    MODELS.build(ours).load_state_dict(MODELS.build(published).state_dict(), strict=True)


def test_initial_scores_are_those_of_the_reference():
    for head in atss_heads():
        head.init_weights()
        assert head.atss_cls.bias.sigmoid().allclose(torch.tensor(0.01)), 'every class should start at 0.01'
        assert head.atss_reg.weight.std().item() == pytest.approx(0.01, rel=0.2)
