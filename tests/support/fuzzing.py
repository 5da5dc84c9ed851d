"""Numbers of mutations, and limits of time and memory: a few in the suite, 200 as slow tests, any by `make fuzz`."""

import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

VARIABLE = "OTOSCOPE_FUZZ"
"""Number of mutations of every fuzz test; without it, those after the first few are slow tests."""

LONGEST_S, MOST_BYTES = 20.0, 1e9
"""Limits of what one damaged input may take."""

STATUS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def mutations(fast: int, *, slow: int = 200) -> list[ParameterSet]:
    """Return seeds for `parametrize`: `fast` of the suite, then slow ones up to `slow`; or those of `make fuzz`."""
    if wanted := os.environ.get(VARIABLE):
        return [pytest.param(seed) for seed in range(int(wanted))]
    return [pytest.param(seed, marks=() if seed < fast else (pytest.mark.slow,)) for seed in range(slow)]


def wanted_mutations(usual: int) -> int:
    """Return the number of mutations of a test that draws them itself: `usual`, or that of `make fuzz`."""
    return int(os.environ.get(VARIABLE, usual))


@contextmanager
def limits(seconds: float = LONGEST_S, most_bytes: float = MOST_BYTES) -> Generator[None]:
    """Fail if the body takes more processor time, hangs, or takes more memory with its processes (memory on Linux).

    On a busy machine a body waits without a hang, so six times as long may pass.
    """
    with suppress(OSError):
        RESET_PEAK.write_text("5")
    start_s, start_cpu_s, start_bytes = time.monotonic(), time.process_time(), _status_bytes("VmRSS")
    before = _children_bytes()
    try:
        yield
    finally:
        spent_s = max(time.process_time() - start_cpu_s, (time.monotonic() - start_s) / 6)
        # The most of all children so far. Before it loads its program, a child shares the memory of this process and
        # is charged with its peak, so only what exceeds both is memory of a child of the body.
        own_peak, children = _status_bytes("VmHWM"), _children_bytes()
        taken = max(own_peak - start_bytes, children if children > max(before, own_peak) else 0.0)
        assert spent_s < seconds, f"{spent_s:.1f} s"
        assert taken < most_bytes, f"{taken / 1e9:.2f} GB of memory"


def _status_bytes(name: str) -> float:
    """Return a size of this process: its memory (VmRSS), or the most since the last reset (VmHWM); 0 if unknown."""
    with suppress(OSError):
        lines = STATUS.read_text().splitlines()
        return next((1024.0 * float(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0.0)
    return 0.0


def _children_bytes() -> float:
    """Return the most memory that any finished process of this one took; 0 if unknown."""
    if sys.platform != "linux":
        return 0.0
    import resource

    return 1024.0 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
