"""A few hundred broken annotation files and images; tests/soak runs thousands."""
from fuzzing import fuzz_annotations, fuzz_images


def test_mutated_annotations(tmp_path):
    results = fuzz_annotations(tmp_path, range(200))
    assert min(results['loaded'], results['refused']) > 20, \
        'this tests little unless some mutants load and some are refused'


def test_mutated_images(tmp_path, log):
    assert 20 < fuzz_images(tmp_path, range(60), log) < 60, 'some mutants should be skipped and some should be read'
