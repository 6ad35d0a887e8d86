"""How the benchmark measures time and memory."""
import pytest
import torch

from gfl_plugin.benchmark.inputs import normal_class_maps
from gfl_plugin.benchmark.timing import Pairs, compare_times, in_turn, peak_memory


def test_calls_alternate_and_ratios_are_of_pairs():
    calls = []
    pairs = in_turn(lambda: calls.append('a'), lambda: calls.append('b'), 3, 'cpu')
    assert ''.join(calls) == 'ab' * 5 and len(pairs.ours) == len(pairs.theirs) == 3, 'two rounds warm up'
    row = compare_times('', Pairs([1., 2., 4.], [3., 8., 4.]))
    assert (row.ours, row.theirs, row.ratio) == (2000, 4000, 3), 'medians in ms, and the median of 3, 4 and 1'


def test_peak_memory_counts_what_is_held_at_once():
    def hold():
        first = torch.empty(1 << 20)
        del first
        second, third = torch.empty(1 << 19), torch.empty(1 << 19)
        return second, third

    assert peak_memory(hold, 'cpu') == pytest.approx(4 << 20, rel=0.01)


def test_early_in_training_nearly_half_of_the_scores_pass():
    maps = normal_class_maps(-3.1, 1.0, 1, (64, 64), 'cpu')
    passing = torch.cat([m.sigmoid().flatten() > 0.05 for m in maps]).float().mean()
    assert passing == pytest.approx(0.44, abs=0.03)
