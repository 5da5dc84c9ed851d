"""Where a dictionary is trained.

Threads that train side by side.

What training will need of memory, said before it starts.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from otoscope.errors import ConfigError

ALLOWED = "give cpu, cuda, or cuda:1 for the second GPU"
"""What a wrong device is answered with."""


def find_device(name: str) -> torch.device:
    """Return a device that is there; raise `ConfigError` for one that is not, or that lacks float64 sums.

    >>> find_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no device {name!r}; {ALLOWED}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"dictionaries are trained on cpu or cuda, not on {name!r}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name!r}: PyTorch finds {count} GPU(s) here; give cpu, or install its CUDA build")
    return device


@contextmanager
def one_thread() -> Generator[None]:
    """Hold PyTorch to one thread a worker; the sums of its products depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def workers(number: int) -> Generator[ThreadPoolExecutor]:
    """Give a pool; when its user stops early, what has not begun is dropped."""
    pool = ThreadPoolExecutor(number, "bank")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
