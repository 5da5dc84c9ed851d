"""Blocks that are freed and asked for again cost no new pages while memory is kept, and are given back after."""

import json
import subprocess
import sys

import pytest

from otoscope.activations.memory import kept

MEASURE = """
import json, resource
import torch
from otoscope.activations.memory import kept

ELEMENTS = 16_000_000

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    with open("/proc/self/statm") as counts:
        return int(counts.read().split()[1])

def reused():
    before = faults()
    for _ in range(4):
        torch.ones(ELEMENTS)
    return faults() - before

pages = ELEMENTS * 4 // resource.getpagesize()
plain = reused()
with kept():
    torch.ones(ELEMENTS)
    inside = reused()
    held = resident()
print(json.dumps({"plain": plain / pages, "inside": inside / pages, "given_back": (held - resident()) / pages}))
"""
"""In tensors of 64 MB, in a process of its own: what was allocated before decides what malloc does."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_large_blocks_are_mapped_once_and_given_back_at_the_end():
    ended = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    tensors = json.loads(ended.stdout.splitlines()[-1])
    assert tensors["plain"] > 3
    assert tensors["inside"] < 0.1
    assert tensors["given_back"] > 0.9


def test_what_is_raised_inside_comes_out():
    with pytest.raises(ValueError, match="inside"), kept():
        raise ValueError("inside")
