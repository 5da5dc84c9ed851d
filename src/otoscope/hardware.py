"""Devices, processor cores and memory that this process may use, on any operating system."""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from otoscope.errors import ConfigError

if TYPE_CHECKING:  # PyTorch is imported where a device is needed: importing it takes a second
    import torch
    from torch import Tensor

DEVICE_HELP = "give auto, cpu, cuda, cuda:1 for the second GPU, or mps"
"""Advice in errors about devices."""

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Device types that cannot compute in float64."""

SLOW_PRODUCT_S = 0.3
"""Estimated duration of a product from which fewer rows are multiplied, so that a measurement takes seconds."""

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/cpu.max"),  # version 2: quota and period in one file
    Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),  # version 1: the period is next to it
)


def find_device(name: str) -> "torch.device":
    """Return a device of this machine by name; `auto` is the first GPU, else Apple's Metal, else the processor.

    Raises `ConfigError` for an unknown or a missing device.

    >>> find_device("cpu")
    device(type='cpu')
    """
    import torch

    metal = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if metal else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no device {name!r}; {DEVICE_HELP}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device {name!r} is not supported; {DEVICE_HELP}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name!r}: PyTorch finds {count} GPU(s) here; give cpu, or install its CUDA build")
    if device.type == "mps" and not metal:
        raise ConfigError(f"device {name!r}: PyTorch finds no Metal device here; give cpu")
    return device


def column_sums(rows: "Tensor") -> "Tensor":
    """Return the sums over rows in float64, on the CPU; devices without float64 sum in float32."""
    import torch

    dtype = torch.float32 if rows.device.type in WITHOUT_FLOAT64 else torch.float64
    return rows.sum(dim=0, dtype=dtype).cpu().double()


def flop_per_s(device: "torch.device | None" = None, dtype: "torch.dtype | None" = None, *, rows: int = 1024) -> float:
    """Measure the rate of products of matrices [rows, 768] and [768, 2048], float32 by default, in operations/s."""
    import torch

    few, width, units = 16, 768, 2048
    left = torch.ones(rows, width, dtype=dtype, device=device)
    right = torch.ones(width, units, dtype=dtype, device=device)

    def duration_s(count: int) -> float:
        start_s = time.perf_counter()
        torch.mm(left[:count], right)[0, 0].item()  # waits for a GPU
        return time.perf_counter() - start_s

    few_s = min(duration_s(few) for _ in range(2))
    if few_s * rows / few > SLOW_PRODUCT_S:  # without instructions for bfloat16 a product of all rows takes seconds
        return 2 * few * width * units / few_s
    return 2 * rows * width * units / min(duration_s(rows) for _ in range(8))


def available_cores() -> int:
    """Return the number of cores that this process may use: its affinity mask, capped by a container's CPU quota.

    >>> 1 <= available_cores() <= os.cpu_count()
    True
    """
    process = psutil.Process()
    # macOS has no affinity masks
    cores = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1
    return max(1, min([cores, *_cgroup_quotas()]))


def peak_memory_bytes() -> int:
    """Return the largest resident set that this process or one of its finished children has had, in bytes.

    Windows counts this process alone.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return largest if sys.platform == "darwin" else largest * 1024


def return_freed_memory() -> None:
    """Give freed memory back to the system, as far as the C library keeps it: glibc keeps hundreds of megabytes."""
    with suppress(OSError, AttributeError, TypeError):  # other C libraries, and Windows
        ctypes.CDLL(None).malloc_trim(0)


def _cgroup_quotas() -> list[int]:
    """Return the CPU quotas of the container, rounded up to whole cores."""
    quotas: list[int] = []
    for limit in CGROUP_LIMITS:
        try:
            fields = limit.read_text(encoding="ascii").split()
            if len(fields) == 1:
                fields.append((limit.parent / "cpu.cfs_period_us").read_text(encoding="ascii").strip())
            quota, period = int(fields[0]), int(fields[1])
        except (OSError, ValueError, IndexError):  # no container, or "max": no quota
            continue
        if quota > 0 and period > 0:
            quotas.append(-(-quota // period))
    return quotas


@contextmanager
def limit_threads(threads: int) -> Generator[None]:
    """Let PyTorch use this number of threads; the rounding of matrix products depends on it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Limit PyTorch to one thread."""
    return limit_threads(1)


def available_threads() -> int:
    """Return the number of processors that this process may use, or `OMP_NUM_THREADS` if it is set."""
    requested = os.environ.get("OMP_NUM_THREADS", "")
    if requested.isdecimal() and int(requested) > 0:
        return int(requested)
    return available_cores()


class Team:
    """Threads that share the parts of a job; the calling thread is one of them.

    A second OpenMP runtime beside PyTorch's would spin between jobs; these threads wait, and each step may come from
    any thread.
    """

    def __init__(self, threads: int) -> None:
        import torch

        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        self.threads = threads
        # threads start in the first job and keep its limit of one PyTorch thread each; products alone do not adopt it
        initialise = torch.get_num_threads
        self._pool = ThreadPoolExecutor(threads - 1, "otoscope", initialise) if threads > 1 else None

    def run(self, job: Callable[[int, int], None], parts: Iterable[int]) -> None:
        """Call `job(thread, part)` for every part, in any order and from several threads; return when all are done."""
        listed = list(parts)
        waiting = iter(listed)  # the interpreter's lock guards the iterator

        def work(thread: int) -> None:
            for part in waiting:
                job(thread, part)

        busy = min(self.threads, len(listed))
        others = [self._pool.submit(work, i) for i in range(1, busy)] if self._pool else []
        work(0)
        for other in others:
            other.result()
