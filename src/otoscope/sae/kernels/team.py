"""A few threads that each do one share of a job while the interpreter's lock is released."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from otoscope.errors import ConfigError


def available_threads() -> int:
    """Return how many processors this process may use, or `OMP_NUM_THREADS` where that is set."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Team:
    """Runs a function once a share: the last share in the calling thread, the others beside it.

    Threads of our own, rather than a second OpenMP runtime beside PyTorch's: nothing spins between
    jobs, and each step may come from any thread.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "otoscope") if threads > 1 else None

    def run(self, job: Callable[[int, int, int], None], bounds: Sequence[int]) -> None:
        """Call `job(i, bounds[i], bounds[i + 1])` for every i at once; return when all are done."""
        shares = [(i, *ends) for i, ends in enumerate(pairwise(bounds))]
        waiting = [self._pool.submit(job, *share) for share in shares[:-1]] if self._pool else []
        for share in shares[len(waiting) :]:
            job(*share)
        for future in waiting:
            future.result()
