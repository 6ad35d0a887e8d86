"""A few hundred broken annotation files and images; thousands are in tests/soak."""
from fuzzing import fuzz_annotations, fuzz_images


def test_mutated_annotations(tmp_path):
    results = fuzz_annotations(tmp_path, range(200))
    assert min(results['loaded'], results['refused']) > 20, 'the mutants should be of both kinds, or this tests little'


def test_mutated_images(tmp_path, log):
    assert 20 < fuzz_images(tmp_path, range(60), log) < 60, 'the mutants should be of both kinds'
