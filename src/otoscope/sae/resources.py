"""Threads for training."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


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
