"""Numbers of mutations: a few in the suite, 200 as slow tests, and any number by `make fuzz`."""

import os

import pytest
from _pytest.mark import ParameterSet

VARIABLE = "OTOSCOPE_FUZZ"
"""Number of mutations of every fuzz test; without it, those after the first few are slow tests."""


def mutations(fast: int, *, slow: int = 200) -> list[ParameterSet]:
    """Return seeds for `parametrize`: `fast` of the suite, then slow ones up to `slow`; or those of `make fuzz`."""
    if wanted := os.environ.get(VARIABLE):
        return [pytest.param(seed) for seed in range(int(wanted))]
    return [pytest.param(seed, marks=() if seed < fast else (pytest.mark.slow,)) for seed in range(slow)]
