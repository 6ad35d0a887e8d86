"""Thousands of broken annotation files and images, and spawned workers, which inherit no memory."""
import pytest
from data_sets import build, write_set
from fuzzing import fuzz_annotations, fuzz_images
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

pytestmark = pytest.mark.soak


def test_2000_mutated_annotation_files(tmp_path):
    """No mutant causes a traceback or a hang, and every error names the entry (``fuzz_annotations`` checks each)."""
    results = fuzz_annotations(tmp_path, range(1000, 3000))
    assert sum(results.values()) == 2000 and min(results.values()) > 200, 'many mutants of each kind should occur'


def test_500_mutated_images(tmp_path, log):
    """No mutant causes a crash. Each one that cannot be decoded is counted, named and skipped."""
    assert 200 < fuzz_images(tmp_path, range(1000, 1500), log) < 500, 'some mutants should be readable'


def test_spawned_workers_count_together(tmp_path):
    """Spawned workers get the data set by pickle; forked ones inherit it."""
    dataset = build(write_set(tmp_path, images=8, damaged={1: 'half', 6: 'empty'}), max_unreadable=0.5)
    loader = DataLoader(dataset, num_workers=2, collate_fn=pseudo_collate, multiprocessing_context='spawn')
    assert sum(len(batch['inputs']) for batch in loader) == 8, 'an epoch should keep its full length'
    assert (dataset._known == 2).nonzero().flatten().tolist() == [1, 6], \
        'the main process should know both broken images'
