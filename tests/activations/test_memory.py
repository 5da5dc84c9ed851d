"""Blocks that are freed and asked for again cost no new pages while memory is kept."""

import resource
import sys

import pytest
import torch

from otoscope.activations.memory import kept


def faults_of_four_large_tensors() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_large_blocks_are_mapped_once_inside_and_again_outside():
    pages = 16_000_000 * 4 // resource.getpagesize()
    with kept():
        torch.ones(16_000_000)
        inside = faults_of_four_large_tensors()
    outside = faults_of_four_large_tensors()
    assert outside >= 4 * pages * 0.9
    assert inside < outside / 2


def test_what_is_raised_inside_comes_out():
    with pytest.raises(ValueError, match="inside"), kept():
        raise ValueError("inside")
