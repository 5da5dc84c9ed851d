"""The arrays that a step fills anew for every batch, kept between steps so that none is allocated twice.

What a step of a TopK dictionary works on: master weights, and what stays the same from step to step.

A few threads that each do one share of a job while the interpreter's lock is released.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from otoscope.errors import ConfigError
from otoscope.hardware import available_cores
from otoscope.sae._kernels.forward import sum_block
from otoscope.sae._kernels.gather import Array
from otoscope.sae._kernels.tables import words_for


class Shape(NamedTuple):
    """How much a workspace must hold."""

    rows: int
    k: int
    aux_k: int
    width: int
    latents: int
    threads: int


@dataclass(frozen=True)
class Entries:
    """The active entries of a batch, by row and by latent: of the dictionary proper, or of AuxK."""

    most: int
    """Entries a row at most; 0 when there are none."""
    index: NDArray[np.int32]
    code: Array
    slope: Array
    active: NDArray[np.int32]
    counts: NDArray[np.int64]
    """How often each latent is active, for each thread's share of rows."""
    table: Array
    """What is left to explain after these entries are decoded, `[rows, columns]`, as the kernels read it."""
    squares: Array
    rows_of: NDArray[np.int32]
    code_of: Array
    slope_of: Array

    @staticmethod
    def empty(shape: Shape, most: int, dtype: np.dtype[Any], *, packed: bool) -> "Entries":
        """Make room for `most` entries a row."""
        rows, number = shape.rows, shape.rows * most
        return Entries(
            most=most,
            index=np.empty((rows, most), np.int32),
            code=np.empty((rows, most), dtype),
            slope=np.empty((rows, most), dtype),
            active=np.zeros(rows, np.int32),
            counts=np.zeros((shape.threads, shape.latents), np.int64),
            table=empty_table(rows if most else 0, shape.width, dtype, packed=packed),
            squares=np.zeros(rows, dtype),
            rows_of=np.empty(number, np.int32),
            code_of=np.empty(number, dtype),
            slope_of=np.empty(number, dtype),
        )

    def offsets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where each latent's entries begin, `[latents + 1]`, and how many it has."""
        fired = self.counts.sum(axis=0)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(fired)]), fired


@dataclass(frozen=True)
class Workspace:
    """Inputs and residuals of one batch size, and the entries of the dictionary and of AuxK."""

    inputs: Array
    residuals: Array
    sums: Array
    main: Entries
    aux: Entries

    @staticmethod
    def empty(shape: Shape, dtype: np.dtype[Any], *, packed: bool) -> "Workspace":
        """Make room for batches of one size."""
        rows, width = shape.rows, shape.width
        columns = 2 * words_for(width) if packed else width
        return Workspace(
            inputs=empty_table(rows, width, dtype, packed=packed),
            residuals=np.empty((rows, columns), dtype),
            sums=np.zeros((-(-rows // sum_block(rows)), columns), dtype),
            main=Entries.empty(shape, shape.k, dtype, packed=packed),
            aux=Entries.empty(shape, shape.aux_k, dtype, packed=packed),
        )


def empty_table(rows: int, width: int, dtype: np.dtype[Any], *, packed: bool) -> Array:
    """Make a table of rows: packed words, or plain numbers of the master type."""
    return np.zeros((rows, words_for(width)), np.uint32) if packed else np.zeros((rows, width), dtype)


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What stays the same from step to step; AuxK is off while its coefficient is 0."""

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
    """Master weights, C-contiguous, all float32 or all float64; a bias that is None stays zero.

    Row i of encoder and decoder belongs to latent i. The arrays may share memory with tensors.
    """

    encoder: Float[np.ndarray, "latents width"]
    decoder: Float[np.ndarray, "latents width"]
    encoder_bias: Float[np.ndarray, " latents"] | None = None
    decoder_bias: Float[np.ndarray, " width"] | None = None

    def named(self) -> dict[str, Array]:
        """Return the arrays that are trained, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: array for name, array in found.items() if array is not None}


def check_fit(weights: Weights, settings: StepSettings, *, packed: bool) -> None:
    """Raise `ConfigError` unless weights and settings fit each other and, if packed, the kernels' number type."""
    latents, width = weights.encoder.shape
    shapes = {
        "encoder": (latents, width),
        "decoder": (latents, width),
        "encoder_bias": (latents,),
        "decoder_bias": (width,),
    }
    for name, array in weights.named().items():
        if array.shape != shapes[name] or array.dtype != weights.encoder.dtype or not array.flags.c_contiguous:
            raise ConfigError(
                f"{name} must be contiguous, {weights.encoder.dtype}, of shape {list(shapes[name])}; "
                f"got {array.dtype} of shape {list(array.shape)}"
            )
    if weights.encoder.dtype not in ((np.float32,) if packed else (np.float32, np.float64)):
        allowed = "float32" if packed else "float32 or float64"
        raise ConfigError(f"weights must be {allowed}, got {weights.encoder.dtype}")
    if not 1 <= settings.k <= latents:
        raise ConfigError(f"k must lie between 1 and latents={latents}, got {settings.k}")


def available_threads() -> int:
    """Return how many processors this process may use, or `OMP_NUM_THREADS` where that is set."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return available_cores()


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
