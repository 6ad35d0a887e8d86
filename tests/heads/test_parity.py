"""The head is MMDetection's GFLHead, or its ATSSHead: losses, gradients and detections from equal weights."""
import pytest
import torch
from mmengine.structures import InstanceData
from reference import assert_close, atss_heads, losses_and_gradients, on, random_features, random_objects, twin_heads

CASES = {
    'ordinary': dict(),
    'image_without_objects': dict(counts=(5, 0)),
    'no_object_at_all': dict(counts=(0, 0)),
    'one_class': dict(head=dict(num_classes=1)),
    '150_objects': dict(counts=(150, 20)),
    'reg_max_7': dict(head=dict(reg_max=7)),
    # As in NanoDet-Plus and PicoDet: four levels up to stride 64, 8 bins, maps of ceil(size / stride).
    'four_levels_8_bins': dict(head=dict(reg_max=7, strides=(8, 16, 32, 64)), height=300, width=421),
    'odd_sizes': dict(height=243, width=331, unpadded=((243, 311), (199, 331))),
    'larger_maps': dict(excess=1),
    'smaller_maps': dict(excess=-1, height=384, width=512),
    'padded_images': dict(height=320, width=416, unpadded=((320, 300), (210, 416))),
    'border_0': dict(head=dict(allowed_border=0), height=640, width=640, unpadded=((640, 512), (600, 640))),
    'border_16': dict(head=dict(allowed_border=16), height=640, width=640, unpadded=((640, 512), (600, 640))),
    'pos_weight': dict(head=dict(pos_weight=2.5)),
    'three_levels': dict(head=dict(strides=(4, 8, 16))),
    'single_image': dict(counts=(7, )),
}
SCOPES = {'own': 'gfl_plugin.', 'mmdet': ''}
# MMDetection's head and ours, whose default is GFL; ATSS, (CenternessBranch, DiracDelta), has no bins.
TWINS = {'gfl': twin_heads, 'atss': atss_heads}
every_case = pytest.mark.parametrize('twins, case', [
    (twins, case) for twins in TWINS for case in CASES
    if twins != 'atss' or 'reg_max' not in CASES[case].get('head', {})])


TOLERANCE = dict(cpu=1e-5, cuda=1e-4)  # a GPU adds in an order of its own


def setup(twins, case, scope, device='cpu'):
    options = dict(CASES[case])
    head_options = options.pop('head', {})
    counts, height, width = options.pop('counts', (6, 3)), options.pop('height', 256), options.pop('width', 320)
    excess = options.pop('excess', 0)
    reference, ours = TWINS[twins](SCOPES[scope], **head_options)
    features = random_features(len(counts), height, width, head_options.get('strides', (8, 16, 32, 64, 128)), excess)
    objects, metas = random_objects(counts, height, width, head_options.get('num_classes', 8), **options)
    reference, _, _ = on(device, reference, [], [])
    return reference, *on(device, ours, features, objects), metas


@pytest.mark.parametrize('scope', SCOPES)
@every_case
def test_losses_and_gradients(twins, case, scope, device):
    reference, ours, features, objects, metas = setup(twins, case, scope, device)
    expected, expected_gradients = losses_and_gradients(reference, features, objects, metas)
    losses, gradients = losses_and_gradients(ours, features, objects, metas)
    assert losses.keys() == expected.keys(), 'the losses should have MMDetection\'s names'
    for name in expected:
        assert_close(losses[name], expected[name], name, TOLERANCE[device])
    for name, gradient in expected_gradients.items():
        assert_close(gradients[name], gradient, f'the gradient of {name}', TOLERANCE[device])


@every_case
def test_losses_and_gradients_with_slots(twins, case, monkeypatch):
    """As on a GPU, where nobody reads how many positives there are: each candidate has a slot, valid or not."""
    monkeypatch.setattr('gfl_plugin.matches.can_be_read_at_once', lambda x: False)
    test_losses_and_gradients(twins, case, 'own', 'cpu')


def by_score_and_label(detections):
    detections = detections[(detections.bboxes.sum(1) + detections.labels * 1e4).argsort(stable=True)]
    return detections[detections.scores.argsort(stable=True)]


@pytest.mark.parametrize('rescale', [False, True])
@pytest.mark.parametrize('with_nms', [False, True])
@every_case
def test_detections(twins, case, with_nms, rescale, device):
    reference, ours, features, _, metas = setup(twins, case, 'own', device)
    with torch.no_grad():
        expected, found = (head.predict_by_feat(*head(features), batch_img_metas=metas, rescale=rescale,
                                                with_nms=with_nms) for head in (reference, ours))
    assert sum(map(len, expected)) > 0, 'the case should have detections to compare'
    for ours_of_image, theirs in zip(found, expected):
        assert len(ours_of_image) == len(theirs), 'there should be as many detections as the reference has'
        if not with_nms:  # thousands of candidates, some of equal scores, whose order the reference leaves open
            ours_of_image, theirs = by_score_and_label(ours_of_image), by_score_and_label(theirs)
        assert_close(ours_of_image.scores, theirs.scores, 'the scores, in order', TOLERANCE[device])
        assert_close(ours_of_image.bboxes, theirs.bboxes, 'the boxes', TOLERANCE[device])
        assert ours_of_image.labels.equal(theirs.labels), 'the labels should be the reference\'s'


def test_ignored_boxes():
    """With a positive ignore_iof_thr priors under an ignored box are neither positive nor negative, as there."""
    reference, ours = twin_heads()
    for head in (reference, ours):
        head.assigner.ignore_iof_thr = 0.5
    features = random_features(2, 256, 320)
    objects, metas = random_objects((4, 2), 256, 320)
    ignored = [InstanceData(bboxes=torch.tensor([[10., 10., 200., 220.]])), InstanceData(bboxes=torch.zeros(0, 4))]
    without, _ = losses_and_gradients(ours, features, objects, metas)
    expected, expected_gradients = losses_and_gradients(reference, features, objects, metas, ignored)
    losses, gradients = losses_and_gradients(ours, features, objects, metas, ignored)
    for name in expected:
        assert_close(losses[name], expected[name], name)
        assert abs(losses[name] / without[name] - 1) > 1e-3, f'the ignored box should change {name}'
    for name, gradient in expected_gradients.items():
        assert_close(gradients[name], gradient, f'the gradient of {name}')


@pytest.mark.parametrize('scope, slots', [('own', False), ('own', True), ('mmdet', False)])
@pytest.mark.parametrize('twins', TWINS)
def test_objects_of_no_class_are_background(twins, scope, slots, monkeypatch):
    """Their priors learn background, get no box loss and count in no normaliser. (MMDetection counts them.)"""
    if slots:
        monkeypatch.setattr('gfl_plugin.matches.can_be_read_at_once', lambda x: False)
    _, ours = TWINS[twins](SCOPES[scope])
    features = random_features(2, 256, 320)
    objects, metas = random_objects((6, 3), 256, 320)
    expected, expected_gradients = losses_and_gradients(ours, features, [objects[0][:0], objects[1]], metas)
    objects[0].labels = torch.tensor([-1, 8, 9, 1000, -1000, 8])
    losses, gradients = losses_and_gradients(ours, features, objects, metas)
    for name in expected:
        assert_close(losses[name], expected[name], name)
    for name, gradient in expected_gradients.items():
        assert_close(gradients[name], gradient, f'the gradient of {name}')


def test_no_prior_inside_names_the_image():
    _, ours = twin_heads(allowed_border=0)
    objects, metas = random_objects((1, ), 48, 48)
    with pytest.raises(ValueError, match=r'\(48, 48\).*allowed_border=-1'):
        ours.loss_by_feat(*ours(random_features(1, 48, 48)), objects, metas)


def detections(head, features, metas, cfg):
    with torch.no_grad():
        return head.predict_by_feat(*head(features), batch_img_metas=metas, cfg=cfg)


@pytest.mark.parametrize('change', [
    dict(nms=dict(type='soft_nms', iou_threshold=0.5)), dict(nms=dict(type='nms', iou_threshold=0.2)),
    dict(nms_pre=20), dict(min_bbox_size=80), dict(score_thr=0.7), dict(max_per_img=5)], ids=str)
def test_soft_nms_and_other_test_settings(change):
    reference, ours = twin_heads()
    features, (_, metas) = random_features(2, 256, 320), random_objects((1, 1), 256, 320)
    cfg = ours.test_cfg.copy()
    usual = detections(ours, features, metas, cfg)
    cfg.update(change)
    expected, found = (detections(head, features, metas, cfg) for head in (reference, ours))
    for ours_of_image, theirs, before in zip(found, expected, usual):
        assert len(theirs) > 0, 'there should be detections to compare'
        assert_close(ours_of_image.scores, theirs.scores, f'the scores with {change}')
        assert_close(ours_of_image.bboxes, theirs.bboxes, f'the boxes with {change}')
        assert ours_of_image.labels.equal(theirs.labels), f'the labels with {change}'
        changed = len(before) != len(theirs) or not torch.allclose(before.scores, theirs.scores, atol=1e-3)
        assert changed, f'{change} should change the detections'
