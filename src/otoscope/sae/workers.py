"""Threads that train side by side."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


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
