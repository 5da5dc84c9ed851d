"""Arrays of a training step: weights with Adam's moments, packed tables, and a workspace that is reused.

The named tuples are passed to compiled code as they are.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from otoscope.errors import ConfigError
from otoscope.hardware import available_cores
from otoscope.sae._kernels.llvm import LANES, Array
from otoscope.sae._kernels.tables import padded, words_for


def sum_block(rows: int) -> int:
    """Return the number of rows whose residuals one thread sums in order; it depends on the batch, not on threads.

    >>> [sum_block(rows) for rows in (16, 1024)]
    [8, 64]
    """
    return 64 if rows >= 512 else 8


class Parameter(NamedTuple):
    """An array of weights with Adam's first and second moments."""

    value: Array
    first: Array
    second: Array


class Tables(NamedTuple):
    """Packed weights: encoder filters `[groups of 16, words, 16]`, and atoms `[latents, words]`."""

    filters: Array
    atoms: Array

    @staticmethod
    def empty(latents: int, width: int) -> "Tables":
        """Allocate the tables of a dictionary."""
        words = words_for(width)
        groups = padded(latents) // LANES
        return Tables(np.zeros((groups, words, LANES), np.uint32), np.zeros((latents, words), np.uint32))


class Entries(NamedTuple):
    """Active entries of a batch, by row and ordered by latent: of the dictionary, or of AuxK."""

    latent: NDArray[np.int32]
    """Active latents of each row, ascending, `[rows, k]`; the first `active[row]` are valid."""
    code: Array
    slope: Array
    active: NDArray[np.int32]
    counts: NDArray[np.int64]
    """Number of rows in which each latent is active, per thread, `[threads, latents]`."""
    residuals: Array
    """Residuals after these entries are decoded, as a packed table."""
    squares: Array
    """Sum of squares of each row's residual."""
    rows_of: NDArray[np.int32]
    code_of: Array
    slope_of: Array

    @staticmethod
    def empty(rows: int, k: int, *, width: int, latents: int, threads: int) -> "Entries":
        """Allocate room for `k` entries per row."""
        return Entries(
            latent=np.empty((rows, k), np.int32),
            code=np.empty((rows, k), np.float32),
            slope=np.empty((rows, k), np.float32),
            active=np.zeros(rows, np.int32),
            counts=np.zeros((threads, latents), np.int64),
            residuals=np.zeros((rows if k else 0, words_for(width)), np.uint32),
            squares=np.zeros(rows, np.float32),
            rows_of=np.empty(rows * k, np.int32),
            code_of=np.empty(rows * k, np.float32),
            slope_of=np.empty(rows * k, np.float32),
        )

    def offsets(self) -> NDArray[np.int64]:
        """Return the position of each latent's first entry in `rows_of`, and the number of entries, `[latents + 1]`."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts.sum(axis=0))])


class Workspace(NamedTuple):
    """Packed inputs, residuals and their sums over blocks of rows, and the entries of the dictionary and of AuxK."""

    inputs: Array
    residuals: Array
    sums: Array
    main: Entries
    aux: Entries

    @staticmethod
    def empty(rows: int, *, k: int, aux_k: int, width: int, latents: int, threads: int) -> "Workspace":
        """Allocate a workspace for batches of one size."""
        words = words_for(width)
        return Workspace(
            inputs=np.zeros((rows, words), np.uint32),
            residuals=np.empty((rows, 2 * words), np.float32),
            sums=np.zeros((-(-rows // sum_block(rows)), 2 * words), np.float32),
            main=Entries.empty(rows, k, width=width, latents=latents, threads=threads),
            aux=Entries.empty(rows, aux_k, width=width, latents=latents, threads=threads),
        )


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Settings that are the same in every step; AuxK is off if its coefficient is 0."""

    k: int
    unit_norm: bool = True
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    encoder_decay: float = 0.0
    aux_coefficient: float = 0.0
    aux_k: int = 0


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights in float32, contiguous; a bias that is None stays zero.

    Row i of encoder and decoder belongs to latent i. The arrays may share memory with tensors.
    """

    encoder: Float[np.ndarray, "latents width"]
    decoder: Float[np.ndarray, "latents width"]
    encoder_bias: Float[np.ndarray, " latents"] | None = None
    decoder_bias: Float[np.ndarray, " width"] | None = None

    def named(self) -> dict[str, Array]:
        """Return the trained arrays by name."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: array for name, array in arrays.items() if array is not None}


def require_compatible_weights(weights: Weights, settings: StepSettings) -> None:
    """Raise `ConfigError` unless shapes and types of the weights agree, and k is possible."""
    latents, width = weights.encoder.shape
    shapes = {
        "encoder": (latents, width),
        "decoder": (latents, width),
        "encoder_bias": (latents,),
        "decoder_bias": (width,),
    }
    for name, array in weights.named().items():
        if array.shape != shapes[name] or array.dtype != np.float32 or not array.flags.c_contiguous:
            raise ConfigError(
                f"{name} must be contiguous, float32, of shape {list(shapes[name])}; "
                f"got {array.dtype} of shape {list(array.shape)}"
            )
    if not 1 <= settings.k <= latents:
        raise ConfigError(f"k must be between 1 and latents={latents}, got {settings.k}")


def available_threads() -> int:
    """Return the number of processors that this process may use, or `OMP_NUM_THREADS` if it is set."""
    requested = os.environ.get("OMP_NUM_THREADS", "")
    if requested.isdecimal() and int(requested) > 0:
        return int(requested)
    return available_cores()


class Team:
    """Threads that each run one share of a job; the last share runs in the calling thread.

    A second OpenMP runtime beside PyTorch's would spin between jobs; these threads wait, and each step may come from
    any thread.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "otoscope") if threads > 1 else None

    def run(self, job: Callable[[int, int, int], None], bounds: Sequence[int]) -> None:
        """Call `job(i, bounds[i], bounds[i + 1])` for every i in parallel; return when all are done."""
        shares = [(i, *ends) for i, ends in enumerate(pairwise(bounds))]
        waiting = [self._pool.submit(job, *share) for share in shares[:-1]] if self._pool else []
        for share in shares[len(waiting) :]:
            job(*share)
        for future in waiting:
            future.result()
