"""Devices and threads for training."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from otoscope.errors import ConfigError

DEVICE_HELP = "give cpu, cuda, or cuda:1 for the second GPU"
"""Advice in errors about devices."""


def find_device(name: str) -> torch.device:
    """Return an available device; raise `ConfigError` for a missing one, or one without float64 sums.

    >>> find_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no device {name!r}; {DEVICE_HELP}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"SAEs are trained on cpu or cuda, not on {name!r}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name!r}: PyTorch finds {count} GPU(s) here; give cpu, or install its CUDA build")
    return device


@contextmanager
def one_thread() -> Generator[None]:
    """Limit PyTorch to one thread: the rounding of matrix products depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def thread_pool(number: int) -> Generator[ThreadPoolExecutor]:
    """Open a thread pool that cancels pending tasks on exit."""
    pool = ThreadPoolExecutor(number, "bank")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
