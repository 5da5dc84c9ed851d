"""Where a dictionary is trained.

Threads that train side by side.

What training will need of memory, said before it starts.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import torch

from otoscope.errors import ConfigError, TrainingError
from otoscope.sae.data import Rows
from otoscope.sae.plan import Draft
from otoscope.sae.sparsifiers.base import TopK
from otoscope.sae.validation import AT_ONCE

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


FREE_SHARE = 0.7
"""Share of the free memory that a bank may take when no budget is given."""

FLOAT = 4
COPIES = 7

GIB = 1 << 30


def budget(memory_bytes: int | None) -> int:
    """Return the bytes that may be taken: those given, or `FREE_SHARE` of what is free now."""
    return int(FREE_SHARE * psutil.virtual_memory().available) if memory_bytes is None else memory_bytes


def rows_bytes(rows: Rows) -> int:
    """Return what rows take up once they are in memory."""
    return FLOAT * rows.height * rows.width


def weights_bytes(width: int, latents: int) -> int:
    """Return the size of one copy of encoder, decoder and biases in float32."""
    return FLOAT * (2 * width * latents + width + latents)


def member_bytes(width: int, latents: int, made: Draft) -> int:
    """Return what one dictionary needs while it is trained, from above.

    Weights, Adam's two moments, the best state, and gradients or packed tables (5 copies); the moments once more
    while progress is saved (2); mixtures alike; codes of a batch and of the rows validated together, with what makes
    them.
    """
    dense = 4 * AT_ONCE * latents
    entries = 6 * made.sparsifier.k if isinstance(made.sparsifier, TopK) else 6 * latents
    batch = made.plan.order.batch * (2 if made.config.temporal else 1)
    mixtures = latents * (made.archetypes + width) if made.archetypes else 0
    return COPIES * (weights_bytes(width, latents) + FLOAT * mixtures) + FLOAT * (dense + batch * (entries + 6 * width))


def require_memory(rows: Rows, made: Draft, latents: int) -> None:
    """Raise `TrainingError` where a dictionary by itself needs more than all the memory that is free."""
    needed, fixed = member_bytes(rows.width, latents, made), member_bytes(rows.width, 0, made)
    free = psutil.virtual_memory().available
    require_fit(needed, free, fixed=fixed, width=rows.width, latents=latents, name="a dictionary")


def require_fit(needed: int, allowed: int, *, fixed: int, width: int, latents: int, name: str) -> None:
    """Raise `TrainingError` with the number of latents that would fit, unless `needed` bytes are allowed.

    `fixed` of the needed bytes do not grow with the latents.
    """
    if needed > allowed:
        fitting = int(latents * max(allowed - fixed, 0) / (needed - fixed))
        raise TrainingError(
            f"{name}: {latents} latents of {width} dimensions need {in_gib(needed)} to train, {in_gib(allowed)} are "
            f"free for it; {f'about {fitting} latents' if fitting else 'nothing'} would fit: take fewer latents or "
            "another machine"
        )


def in_gib(number: int) -> str:
    """Return bytes as a text.

    >>> in_gib(3 << 29)
    '1.50 GiB'
    """
    return f"{number / GIB:.2f} GiB"
