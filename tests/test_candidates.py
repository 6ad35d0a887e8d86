"""The choice of candidates: above the threshold, the best of each level and image, equal scores in a fixed order."""
import pytest
import torch

from gfl_plugin import candidates
from gfl_plugin.candidates import select_candidates
from gfl_plugin.functional.priors import stack_grids
from gfl_plugin.predictions import Predictions

STRIDES, SIZES = (8, 16, 32), ((12, 16), (6, 8), (3, 4))


def predictions(maps):
    grids = stack_grids([m.shape[2:] for m in maps], [(s, s) for s in STRIDES[:len(maps)]],
                        [(-4 * s, -4 * s, 4 * s, 4 * s) for s in STRIDES[:len(maps)]])
    return Predictions(maps, None, None, grids)


def by_the_book(pred, score_thr, nms_pre):
    """As MMDetection does: every score above the threshold, sorted; for each level and image, one row a candidate."""
    rows = []
    for logits, grid in zip(pred.cls, pred.grids):
        for image, scores in enumerate(logits.permute(0, 2, 3, 1).flatten(1, 2).float().sigmoid()):
            index, label = (scores > score_thr).nonzero(as_tuple=True)
            score = scores[index, label]
            order = score.argsort(descending=True, stable=True)[:nms_pre if nms_pre > 0 else None]
            rows.append(torch.stack([0 * order + image, grid.start + index[order], label[order], score[order]], 1))
    return torch.cat(rows)


def normal(height, width):  # 16 classes: PyTorch's sigmoid rounds differently in what is left over from vectors of 16
    return torch.randn(2, 16, height, width) - 1


LOGITS = {
    'ordinary': normal,
    'equal': lambda height, width: torch.zeros(2, 16, height, width),
    'ties': lambda height, width: (2 * normal(height, width)).round() / 2,
    'saturated': lambda height, width: 20 + 3 * normal(height, width),  # many scores are exactly 1
    'few_priors': lambda height, width: 6 * torch.randn(2, 1, height, width) + normal(height, width) / 10,
    'one_class': lambda height, width: normal(height, width) + 4 * (torch.arange(16) == 3).view(1, 16, 1, 1),
    'not_a_number': lambda height, width: normal(height, width).masked_fill(torch.rand(2, 16, height, width) < 0.1,
                                                                            float('nan')),
}


@pytest.mark.parametrize('nms_pre', [-1, 1, 100])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])
@pytest.mark.parametrize('case', LOGITS)
def test_the_best_of_each_level_and_image(case, layout, nms_pre, device):
    maps = [LOGITS[case](*size).to(device).contiguous(memory_format=layout) for size in SIZES]
    for dtype in (torch.float32, torch.bfloat16):
        for score_thr in (0.0, 0.3):
            pred = predictions([m.to(dtype) for m in maps])
            image, prior, label, score, sizes = select_candidates(pred, score_thr, nms_pre)
            level = torch.arange(3, device=device).repeat_interleave(torch.tensor(sizes, device=device))
            order = (2 * level + image).argsort(stable=True)
            found = torch.stack([image, prior, label, score], 1)[order]
            assert found.equal(by_the_book(pred, score_thr, nms_pre)), f'{dtype}, {score_thr}'


def test_what_cannot_be_among_the_best_is_not_sorted(monkeypatch):
    """Early in training nearly half of the scores pass the threshold."""
    sorted_sizes, sort = [], candidates._best_of_each_image
    monkeypatch.setattr(candidates, '_best_of_each_image',
                        lambda level, score, *rest: sorted_sizes.append(score.numel()) or sort(level, score, *rest))
    logits = torch.randn(2, 80, 50, 60) - 3.1
    found = select_candidates(predictions([logits]), 0.05, 500)
    assert (logits.sigmoid() > 0.05).sum() > 200_000 and len(found.score) == 1000
    assert sorted_sizes[0] < 1500, 'little more than the best 500 of each image should be sorted'


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('score_thr', [1e-4, 0.01, 0.05, 0.3, 0.9])
def test_no_score_just_above_the_threshold_is_lost(score_thr, dtype):
    """In half precision the threshold itself is no number of the logits' dtype."""
    logit = torch.tensor(score_thr).logit()
    logits = (logit + torch.linspace(-0.2, 0.2, 4001)).to(dtype).view(1, 1, 1, -1)
    found = select_candidates(predictions([logits]), score_thr, -1)
    above = logits.float().sigmoid().flatten() > score_thr
    assert 0 < above.sum() < 4001 and len(found.score) == above.sum(), 'every score above the threshold should be found'
