"""Optimiser step with compiled kernels: dense encoder product in PyTorch, everything else on active entries only.

`KernelStepper` supports TopK and BatchTopK on the CPU; `pick_stepper` chooses the faster stepper for a model.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from otoscope.errors import ConfigError, DamagedArtifact
from otoscope.hardware import available_cores, one_thread
from otoscope.sae import kernels
from otoscope.sae.config import TrainConfig
from otoscope.sae.kernels import AdamNumbers, Array, ByLatent, Entries, Parameter, Scratch
from otoscope.sae.losses import level_budgets, prefix_ends
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.optimiser import Losses, Stepper, TorchStepper, require_counters
from otoscope.sae.sparsifiers.topk import BatchTopK, TopK

BETA1, EPSILON = 0.9, 1e-8

CHUNK = 256
"""Most rows that are encoded together: their pre-activations stay in the second-level cache until the selection."""
SMALL_CHUNK = 16
"""Fewest rows per chunk: a product of fewer rows mostly waits for the weights."""
LATENT_COST = 20
"""Cost of a latent without active rows, in active rows: its weights and moments are read and written in any case."""
LATENT_GROUP = 16
"""Latents are divided between threads in groups, so that no two threads write to one cache line."""
GUESS_STEP = 0.2
"""Share by which the threshold of a row is lowered to become the guess for the next row."""
FASTER = 1.3
"""Speed of bfloat16 products, relative to float32, from which they are used."""


def pick_stepper(
    sae: SparseAutoencoder, config: TrainConfig, *, dead_window_rows: int, threads: int | None = None
) -> Stepper:
    """Return the fastest stepper for a model on this machine; `threads` is for kernels and does not change results.

    Kernels multiply in the fastest precision of the machine and sum in float32; after the same steps the held-out
    fraction of variance unexplained is within 1 % of `TorchStepper`'s (a test checks this). On a GPU it is
    `TorchStepper`, compiled.
    """
    if sae.device.type != "cpu":
        return TorchStepper(sae, config, dead_window_rows=dead_window_rows, backend="inductor")
    if is_supported(sae, config):
        return KernelStepper(sae, config, dead_window_rows=dead_window_rows, threads=threads)
    return TorchStepper(sae, config, dead_window_rows=dead_window_rows)


def is_supported(sae: SparseAutoencoder, config: TrainConfig) -> bool:
    """Return whether the kernels support a model and its configuration."""
    on_cpu = sae.device.type == "cpu" and sae.encoder.dtype in (torch.float32, torch.float64)
    plain = not config.temporal and config.min_atom_cosine is None and sae.archetypes is None
    return type(sae.sparsifier) in (TopK, BatchTopK) and plain and on_cpu


@cache
def fastest_precision() -> torch.dtype:
    """Return the precision in which this machine multiplies matrices fastest, measured once, in milliseconds."""
    x, weights = torch.ones(64, 512), torch.ones(1024, 512)
    with one_thread():
        seconds = {dtype: _seconds(x.to(dtype), weights.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    faster = seconds[torch.float32] > FASTER * seconds[torch.bfloat16]
    return torch.bfloat16 if faster else torch.float32


def _seconds(x: Tensor, weights: Tensor) -> float:
    times: list[float] = []
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(x, weights.T)
        times.append(time.perf_counter() - start)
    return min(times)


def available_threads() -> int:
    """Return the number of processors that this process may use, or `OMP_NUM_THREADS` if it is set."""
    requested = os.environ.get("OMP_NUM_THREADS", "")
    if requested.isdecimal() and int(requested) > 0:
        return int(requested)
    return available_cores()


def chunk_size(rows: int) -> int:
    """Return the rows per chunk of a batch; it depends on the batch and not on threads, which keeps sums the same.

    >>> [chunk_size(rows) for rows in (1, 16, 512, 2048)]
    [16, 16, 128, 256]
    """
    return min(CHUNK, max(SMALL_CHUNK, -(-rows // (4 * SMALL_CHUNK)) * SMALL_CHUNK))


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

    def run(self, job: Callable[[int, int, int], None], bounds: Iterable[int]) -> None:
        """Call `job(i, bounds[i], bounds[i + 1])` for every i in parallel; return when all are done."""
        shares = [(i, *ends) for i, ends in enumerate(pairwise(bounds))]
        waiting = [self._pool.submit(job, *share) for share in shares[:-1]] if self._pool else []
        for share in shares[len(waiting) :]:
            job(*share)
        for future in waiting:
            future.result()


class Shape(NamedTuple):
    """Sizes of a step's arrays, and their types."""

    rows: int
    width: int
    latents: int
    dtype: np.dtype[np.floating]
    table: torch.dtype

    @property
    def chunks(self) -> int:
        """Number of chunks of a batch."""
        return -(-self.rows // chunk_size(self.rows))

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Return the first row of a chunk and the row after its last."""
        size = chunk_size(self.rows)
        return chunk * size, min(self.rows, (chunk + 1) * size)

    def entries(self, k: int, levels: int) -> Entries:
        """Allocate `k` entries per row; 0 leaves everything empty."""
        rows, chunks = (self.rows, self.chunks) if k else (0, 0)
        return Entries(
            bounds=np.zeros((rows, levels + 1), np.int64),
            latent=np.zeros(rows * k, np.int32),
            code=np.zeros(rows * k, self.dtype),
            slope=np.zeros(rows * k, self.dtype),
            counts=np.zeros((chunks, self.latents), np.int64),
            residuals=as_table(new_table(rows * levels, self.width, self.table)),
            squares=np.zeros((rows, levels), self.dtype),
        )

    def scratch(self) -> Scratch:
        """Allocate the buffers of one thread."""
        line, integer = np.zeros(self.latents, self.dtype), np.int32 if self.dtype == np.float32 else np.int64
        return Scratch(
            line,
            keys=line.view(integer),
            tops=np.zeros(-(-self.latents // kernels.BLOCK), integer),
            places=np.zeros(self.latents + 1, np.int32),
            chosen=np.zeros(self.latents, integer),
        )


def new_table(rows: int, width: int, precision: torch.dtype) -> Tensor:
    """Allocate a table for products and kernels; rows of bfloat16 have an even number of columns."""
    return torch.zeros(rows, width + width % 2 if precision == torch.bfloat16 else width, dtype=precision)


def as_table(values: Tensor) -> Array:
    """Return a table as an array that shares its memory; bfloat16 as words of two columns."""
    values = values.detach()
    return values.view(torch.int32).numpy().view(np.uint32) if values.dtype == torch.bfloat16 else values.numpy()


def as_bits(values: Tensor) -> Array:
    """Return a tensor as an array that shares its memory; bfloat16 as its bits."""
    return (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()


@dataclass
class Workspace:
    """Arrays of batches of one size, reused in every step."""

    shape: Shape
    main: Entries
    aux: Entries
    inputs: Tensor
    """Table of the rows; empty if they are multiplied in their own precision."""
    pre: list[Tensor]
    """Pre-activations: of one chunk per thread, or of the whole batch."""
    scratch: list[Scratch]
    sums: Array


class KernelStepper:
    """Stepper for TopK and BatchTopK that updates the model's parameters in place.

    The errors of Matryoshka prefixes and of several budgets (`k_shares`), AuxK and a frozen decoder are supported.
    Gradients, weights and moments have the model's precision. `precision` is that of products: inputs, weights,
    pre-activations and residuals are rounded to it, and all sums are in the model's precision. A float64 model is
    multiplied in float64. The resulting bytes are the same for any number of threads.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        config: TrainConfig,
        *,
        dead_window_rows: int,
        threads: int | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        if not is_supported(sae, config):
            raise ConfigError(
                "KernelStepper supports only TopK and BatchTopK on the CPU, without temporal contrast, bounded "
                f"atoms and archetypes, got {sae!r}; use TorchStepper"
            )
        self.sae, self.config, self.dead_window_rows = sae, config, dead_window_rows
        self.silent_rows = torch.zeros(sae.latents, dtype=torch.int64)
        self.team = Team(threads or available_threads())
        self.steps, self.guess = 0, 1
        self.parameters = {
            name: Parameter(value, np.zeros_like(value), np.zeros_like(value))
            for name, value in ((name, p.detach().numpy()) for name, p in sae.named_parameters())
        }
        self.dtype = self.parameters["encoder"].value.dtype
        biases = {"encoder_bias": sae.latents, "decoder_bias": sae.width}
        self.biases = {
            name: self.parameters[name].value if name in self.parameters else np.zeros(size, self.dtype)
            for name, size in biases.items()
        }
        if config.frozen_decoder:
            sae.decoder.requires_grad_(False)
        self.ends = np.array(prefix_ends(config.prefixes, sae.latents), np.int64)
        self.use_budgets(level_budgets(sae, config.prefixes, config.k_shares))
        self._set_precision(precision or (fastest_precision() if self.dtype == np.float32 else torch.float64))

    def use_budgets(self, budgets: Sequence[int]) -> None:
        """Let these numbers of largest latents, ending in k, each reconstruct alone from the next step on."""
        self.budgets = np.array(budgets, np.int64)
        levels = max(len(self.ends), len(self.budgets))
        self.level_weights = np.full(levels, 1 / levels, self.dtype)
        self._work: dict[int, Workspace] = {}

    def _set_precision(self, precision: torch.dtype) -> None:
        self.precision = precision
        own = self.sae.encoder.dtype == precision
        self.filters, self.atoms = (
            weights.detach() if own else new_table(self.sae.latents, self.sae.width, precision)
            for weights in (self.sae.encoder, self.sae.decoder)
        )
        self._work.clear()
        self.refresh()

    def refresh(self) -> None:
        """Copy the weights into their tables; call this after the weights were changed from outside."""
        for table, weights in ((self.filters, self.sae.encoder), (self.atoms, self.sae.decoder)):
            if table.data_ptr() != weights.data_ptr():
                kernels.store_rows(weights.detach().numpy(), as_table(table))

    @torch.no_grad()
    def step(self, inner: Float[Tensor, "rows width"], *, learning_rate: float) -> Losses:
        """Update the weights from one batch of normalised rows."""
        with one_thread():
            return self._step(inner.contiguous(), learning_rate)

    def _step(self, inner: Float[Tensor, "rows width"], learning_rate: float) -> Losses:
        config, dead = self.config, self.silent_rows >= self.dead_window_rows
        with_aux = bool(config.aux_coefficient and dead.any())
        work = self._workspace(len(inner), with_aux=with_aux)
        inputs = inner if self.precision == inner.dtype else work.inputs
        self._encode(inner, inputs, work, dead)
        self._rebuild(inner.numpy(), work)
        values = inner.numel()
        squares = work.main.squares.sum(axis=0, dtype=np.float64)
        full = max(float(squares[-1]) / values, float(np.finfo(self.dtype).tiny))
        main = self._order(work, work.main, 2.0 / values)
        aux = self._order(work, work.aux, 2.0 / values * config.aux_coefficient / full)
        self._update(work, as_table(inputs), main, aux, learning_rate)
        fired = torch.from_numpy(np.diff(main.offsets))
        self.silent_rows = torch.where(fired > 0, 0, self.silent_rows + len(inner))
        return Losses(
            float(squares @ self.level_weights.astype(np.float64)) / values,
            float(work.aux.squares.sum(dtype=np.float64)) / values / full if with_aux else 0.0,
            float(main.offsets[-1]) / len(inner),
            dead.float().mean().item(),
        )

    def _encode(self, inner: Tensor, inputs: Tensor, work: Workspace, dead: Bool[Tensor, " latents"]) -> None:
        """Multiply chunks of rows with the filters, and choose the active latents of each row."""
        shape, bias, sparsifier = work.shape, self.biases["encoder_bias"], self.sae.sparsifier
        batch_topk = isinstance(sparsifier, BatchTopK)
        mask, aux_budget = dead.numpy(), np.array([self._aux_k()], np.int64)
        counts, key_step = np.zeros(shape.rows, np.int64), self._key_step(work)

        def encode(share: int, first_chunk: int, last_chunk: int) -> None:
            scratch = work.scratch[share]
            for first, last in map(shape.bounds, range(first_chunk, last_chunk)):
                x = inputs[first:last]
                if inputs is not inner:
                    kernels.store_rows(inner[first:last].numpy(), as_table(x))
                out = work.pre[0][first:last] if batch_topk else work.pre[share][: last - first]
                pre = as_bits(torch.mm(x, self.filters.T, out=out))
                if batch_topk:
                    kernels.count_rows(pre, bias, self.guess, counts, scratch, first)
                else:
                    kernels.select_rows(pre, bias, self.ends, self.budgets, work.main, scratch, key_step, first)
                if len(work.aux.bounds):
                    kernels.select_dead_rows(
                        pre, bias, mask, self.ends[-1:], aux_budget, work.aux, scratch, key_step, first
                    )

        self.team.run(encode, self._chunk_bounds(shape))
        if isinstance(sparsifier, BatchTopK):
            self._select_batch(sparsifier, work, counts)

    def _select_batch(self, sparsifier: BatchTopK, work: Workspace, counts: Array) -> None:
        """Keep the `k * rows` largest entries of the batch; of equal ones the first."""
        shape, bias = work.shape, self.biases["encoder_bias"]
        wanted, scratch, pre = sparsifier.k * shape.rows, work.scratch[0], as_bits(work.pre[0])
        fall = step = self._key_step(work)
        while counts.sum() < wanted and self.guess > 1:
            self.guess, fall = max(self.guess - fall, 1), 2 * fall
            kernels.count_rows(pre, bias, self.guess, counts, scratch, 0)
        starts = np.concatenate([[0], np.cumsum(counts)])
        latent, keys = np.zeros(starts[-1], np.int32), np.zeros(starts[-1], scratch.keys.dtype)
        kernels.list_rows(pre, bias, self.guess, starts, latent, keys, scratch, 0)
        kept, smallest = np.ones(len(keys), bool), np.zeros(1, keys.dtype)
        if len(keys) >= wanted:
            smallest[0] = np.partition(keys, len(keys) - wanted)[len(keys) - wanted]
            kept = keys > smallest
            kept[np.flatnonzero(keys == smallest)[: wanted - kept.sum()]] = True
        row = np.repeat(np.arange(shape.rows), counts)[kept]
        number = int(kept.sum())
        work.main.latent[:number], work.main.code[:number] = latent[kept], keys[kept].view(self.dtype)
        work.main.bounds[:, 0] = np.searchsorted(row, np.arange(shape.rows))
        active = np.bincount(row, minlength=shape.rows)
        for bounds, count in zip(work.main.bounds, active, strict=True):
            kernels.bound_levels(bounds, work.main.latent, self.ends, count)
        sparsifier.update_threshold(torch.from_numpy(smallest.view(self.dtype))[0])
        self.guess = int(max(smallest[0] - step, 1))

    def _rebuild(self, inner: Array, work: Workspace) -> None:
        """Decode all rows, and compute residuals and the slopes of active codes."""

        def rebuild(_: int, first_chunk: int, last_chunk: int) -> None:
            for chunk in range(first_chunk, last_chunk):
                kernels.rebuild_rows(
                    inner, self.biases["decoder_bias"], as_table(self.atoms), self.level_weights, work.main, work.aux,
                    work.sums, chunk, *work.shape.bounds(chunk),
                )  # fmt: skip

        self.team.run(rebuild, self._chunk_bounds(work.shape))

    def _order(self, work: Workspace, entries: Entries, scale: float) -> ByLatent:
        """Order entries by latent; without rows the result is empty."""
        number = int(entries.counts.sum())
        index, value = np.empty((2, number), np.int32), np.empty((2, number), self.dtype)
        if not len(entries.bounds):
            return ByLatent(np.zeros(0, np.int64), *index, *value)
        before = np.cumsum(entries.counts, axis=0)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(before[-1])])
        cursors = offsets[:-1] + before - entries.counts
        ordered = ByLatent(offsets, *index, *value)

        def order(_: int, first_chunk: int, last_chunk: int) -> None:
            for chunk in range(first_chunk, last_chunk):
                kernels.order_by_latent(entries, cursors[chunk], scale, ordered, *work.shape.bounds(chunk))

        self.team.run(order, self._chunk_bounds(work.shape))
        return ordered

    def _update(self, work: Workspace, inputs: Array, main: ByLatent, aux: ByLatent, learning_rate: float) -> None:
        """Sum the gradients of all latents and step every parameter."""
        self.steps += 1
        numbers = AdamNumbers(
            rate=learning_rate / (1.0 - BETA1**self.steps),
            beta1=BETA1,
            beta2=self.config.beta2,
            unbias=1.0 / (1.0 - self.config.beta2**self.steps) ** 0.5,
            epsilon=EPSILON,
            keep=1.0 - learning_rate * self.config.weight_decay,
        )
        bias_gradient = np.zeros(self.sae.latents, self.dtype)
        filters, atoms = as_table(self.filters), as_table(self.atoms)

        def update(_: int, first: int, last: int) -> None:
            kernels.update_latents(
                self.parameters["encoder"], self.parameters["decoder"], filters, atoms, inputs, work.main.residuals,
                work.aux.residuals, main, aux, bias_gradient, numbers, self.sae.unit_norm,
                not self.config.frozen_decoder, first, last,
            )  # fmt: skip

        self.team.run(update, _balanced(main.offsets, self.team.threads))
        decoder_bias_gradient = work.sums.sum(axis=0)[: work.shape.width] * self.dtype.type(
            2.0 / (work.shape.rows * work.shape.width)
        )
        for name, gradient in (("encoder_bias", bias_gradient), ("decoder_bias", decoder_bias_gradient)):
            if name in self.parameters:
                kernels.adam(*self.parameters[name], gradient, numbers, 1.0)

    def restart(self) -> None:
        """Forget Adam's moments, after the weights were changed from outside."""
        self.steps = 0
        for parameter in self.parameters.values():
            parameter.first[...] = parameter.second[...] = 0
        self.refresh()

    def state(self) -> dict[str, Tensor]:
        """Return copies of Adam's moments, the silent-row counters, the number of steps and the precision."""
        state = {
            "silent_rows": self.silent_rows.clone(),
            "step": torch.tensor(self.steps),
            "bfloat16": torch.tensor(self.precision == torch.bfloat16),
        }
        for name, parameter in self.parameters.items():
            state[f"{name}.exp_avg"] = torch.from_numpy(parameter.first.copy())
            state[f"{name}.exp_avg_sq"] = torch.from_numpy(parameter.second.copy())
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from a result of `state` and the present weights, in the precision of the interrupted run.

        Raises `DamagedArtifact` if the state belongs to another model.
        """
        require_counters(state, self.silent_rows)
        for name, value in self.state().items():
            if name not in state or state[name].shape != value.shape:
                got = "nothing" if name not in state else f"shape {list(state[name].shape)}"
                raise DamagedArtifact(f"optimiser state {name!r} must have shape {list(value.shape)}, got {got}")
        self.silent_rows, self.steps = state["silent_rows"].clone(), int(state["step"])
        for name, parameter in self.parameters.items():
            parameter.first[...] = state[f"{name}.exp_avg"].numpy()
            parameter.second[...] = state[f"{name}.exp_avg_sq"].numpy()
        self._set_precision(torch.bfloat16 if state["bfloat16"] else self.sae.encoder.dtype)

    def _aux_k(self) -> int:
        return max(self.sae.width // 2, 1)

    def _key_step(self, work: Workspace) -> int:
        """Return the distance of keys that lowers a threshold by about `GUESS_STEP`."""
        return int(GUESS_STEP * (1 << (23 if work.scratch[0].keys.itemsize == 4 else 52)))

    def _chunk_bounds(self, shape: Shape) -> list[int]:
        return [shape.chunks * i // self.team.threads for i in range(self.team.threads + 1)]

    def _workspace(self, rows: int, *, with_aux: bool) -> Workspace:
        work = self._work.get(rows)
        if work is None or bool(len(work.aux.bounds)) != with_aux:
            sae, threads = self.sae, self.team.threads
            shape = Shape(rows, sae.width, sae.latents, self.dtype, self.precision)
            whole = isinstance(sae.sparsifier, BatchTopK)
            pre_rows = rows if whole else chunk_size(rows)
            work = self._work[rows] = Workspace(
                shape,
                main=shape.entries(sae.sparsifier.k, len(self.level_weights)),
                aux=shape.entries(self._aux_k() if with_aux else 0, 1),
                inputs=new_table(0 if self.precision == sae.encoder.dtype else rows, sae.width, self.precision),
                pre=[torch.empty(pre_rows, sae.latents, dtype=self.precision) for _ in range(1 if whole else threads)],
                scratch=[shape.scratch() for _ in range(threads)],
                sums=np.zeros((shape.chunks, sae.width + 1), self.dtype),
            )
        return work


def _balanced(offsets: Array, threads: int) -> list[int]:
    """Divide latents by cost into whole groups."""
    cost = offsets + LATENT_COST * np.arange(len(offsets))
    cuts = np.searchsorted(cost, cost[-1] * np.arange(1, threads) / threads)
    latents = len(offsets) - 1
    return [0, *(min(latents, int(cut) // LATENT_GROUP * LATENT_GROUP) for cut in cuts), latents]
