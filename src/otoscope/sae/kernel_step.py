"""Optimiser step with compiled kernels: dense encoder product in PyTorch, everything else on active entries only.

`KernelStepper` supports TopK and BatchTopK on the CPU; `pick_stepper` chooses the faster stepper for a model.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
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
"""Most rows that are encoded together: their pre-activations stay in the cache until the selection."""
FEW_ROWS = 64
"""Up to this number of rows, products are divided by latents: every product of fewer rows would read all filters."""
PARTS = 2
"""Parts of the latents per thread: a thread that is done early takes another one."""
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
    `TorchStepper`, compiled, on NVIDIA's with products in bfloat16.
    """
    if sae.device.type != "cpu":
        fast = sae.device.type == "cuda" and sae.encoder.dtype == torch.float32 and torch.cuda.is_bf16_supported()
        precision = torch.bfloat16 if fast else None
        return TorchStepper(sae, config, dead_window_rows=dead_window_rows, backend="inductor", precision=precision)
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
    [1, 4, 128, 256]
    """
    return min(CHUNK, -(-rows // 4))


class Team:
    """Threads that share the parts of a job; the calling thread is one of them.

    A second OpenMP runtime beside PyTorch's would spin between jobs; these threads wait, and each step may come from
    any thread.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        self.threads = threads
        # threads start in the first job and keep its limit of one PyTorch thread each; products alone do not adopt it
        initialise = torch.get_num_threads
        self._pool = ThreadPoolExecutor(threads - 1, "otoscope", initialise) if threads > 1 else None

    def run(self, job: Callable[[int, int], None], parts: Iterable[int]) -> None:
        """Call `job(thread, part)` for every part, in any order and from several threads; return when all are done."""
        waiting = iter(list(parts))  # the interpreter's lock guards the iterator

        def work(thread: int) -> None:
            for part in waiting:
                job(thread, part)

        others = [self._pool.submit(work, i) for i in range(1, self.threads)] if self._pool else []
        work(0)
        for other in others:
            other.result()


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

    @property
    def products(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Parts of the product of a whole batch: ranges of rows and of latents."""
        if self.rows > FEW_ROWS:
            return [(self.bounds(chunk), (0, self.latents)) for chunk in range(self.chunks)]
        part = max(FEW_ROWS, -(-self.latents // 4))
        return [((0, self.rows), (i, min(i + part, self.latents))) for i in range(0, self.latents, part)]

    def bounds(self, chunk: int) -> tuple[int, int]:
        """Return the first row of a chunk and the row after its last."""
        size = chunk_size(self.rows)
        return chunk * size, min(self.rows, (chunk + 1) * size)

    def entries(self, k: int, levels: int) -> Entries:
        """Allocate `k` entries per row; 0 leaves everything empty."""
        rows, chunks = (self.rows, self.chunks) if k else (0, 0)
        return Entries(
            bounds=np.zeros((rows, levels + 1), np.int64),
            latent=np.zeros(rows * k, np.uint32),
            code=np.zeros(rows * k, self.dtype),
            slope=np.zeros(rows * k, self.dtype),
            counts=np.zeros((chunks, self.latents), np.int64),
            residuals=as_table(new_table(rows * levels, self.width, self.table)),
            squares=np.zeros((rows, levels), self.dtype),
        )

    def ordered(self, k: int, levels: int) -> ByLatent:
        """Allocate `k` entries per row in the order of latents; 0 leaves everything empty."""
        offsets, value = np.zeros(self.latents + 1 if k else 0, np.int64), np.zeros((2, self.rows * k), self.dtype)
        row = np.zeros(self.rows * k, np.uint32)
        return ByLatent(offsets, row, row if levels == 1 else np.zeros_like(row), *value)

    def scratch(self, levels: int) -> Scratch:
        """Allocate the buffers of one thread."""
        number, integer = (torch.float32, torch.int32) if self.dtype == np.float32 else (torch.float64, torch.int64)
        keys = torch.zeros(-(-self.latents // kernels.BLOCK) * kernels.BLOCK, dtype=integer).numpy()
        columns = kernels.columns_of(as_table(new_table(1, self.width, self.table)))
        return Scratch(
            codes=keys.view(self.dtype)[: self.latents],
            keys=keys,
            places=np.zeros(self.latents, np.int32),
            chosen=np.zeros(self.latents, keys.dtype),
            lines=torch.zeros(levels + 1, columns, dtype=number).numpy(),  # starts on a cache line, unlike NumPy's
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
    ordered: ByLatent
    aux_ordered: ByLatent
    inputs: Tensor
    """Table of the rows; empty if they are multiplied in their own precision."""
    pre: list[Tensor]
    """Pre-activations: of one chunk per thread, or of the whole batch."""
    whole: bool
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
            name: Parameter(*(x.numpy() for x in (p.detach(), torch.zeros_like(p), torch.zeros_like(p))))
            for name, p in sae.named_parameters()
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
        self._forward(inner, work, dead)
        values = inner.numel()
        squares = work.main.squares.sum(axis=0, dtype=np.float64)
        full = max(float(squares[-1]) / values, float(np.finfo(self.dtype).tiny))
        self._order(work, work.main, work.ordered, 2.0 / values)
        self._order(work, work.aux, work.aux_ordered, 2.0 / values * config.aux_coefficient / full)
        self._update(inner, work, learning_rate)
        offsets = work.ordered.offsets
        fired = torch.from_numpy(np.diff(offsets))
        self.silent_rows = torch.where(fired > 0, 0, self.silent_rows + len(inner))
        return Losses(
            float(squares @ self.level_weights.astype(np.float64)) / values,
            float(work.aux.squares.sum(dtype=np.float64)) / values / full if with_aux else 0.0,
            float(offsets[-1]) / len(inner),
            dead.float().mean().item(),
        )

    def _forward(self, inner: Tensor, work: Workspace, dead: Bool[Tensor, " latents"]) -> None:
        """Choose the active latents of each row, decode them, and compute residuals and the slopes of active codes."""
        shape, bias, sparsifier = work.shape, self.biases["encoder_bias"], self.sae.sparsifier
        rows, mask, aux_budget = inner.numpy(), dead.numpy(), np.array([self._aux_k()], np.int64)
        counts, key_step = np.zeros(shape.rows, np.int64), self._key_step(work)
        products = shape.products if work.whole else []

        def multiply(_: int, part: int) -> None:
            chunk_rows, latents = products[part]
            self._multiply(inner, work, work.pre[0][slice(*chunk_rows)], chunk_rows, latents)

        def select(thread: int, chunk: int) -> None:
            scratch, (first, last) = work.scratch[thread], shape.bounds(chunk)
            if work.whole:
                pre = work.pre[0][first:last]
            else:
                self._round(inner, work, first, last)
                pre = self._multiply(inner, work, work.pre[thread], (first, last), (0, shape.latents))
            if isinstance(sparsifier, BatchTopK):
                kernels.count_rows(as_bits(pre), bias, self.guess, counts, scratch, first)
            else:
                kernels.select_rows(as_bits(pre), bias, self.ends, self.budgets, work.main, scratch, key_step, first)
            if len(work.aux.bounds):
                kernels.select_dead_rows(
                    as_bits(pre), bias, mask, self.ends[-1:], aux_budget, work.aux, scratch, key_step, first
                )

        def rebuild(thread: int, chunk: int) -> None:
            kernels.rebuild_rows(
                rows, self.biases["decoder_bias"], as_table(self.atoms), self.level_weights, work.main, work.aux,
                work.sums, work.scratch[thread], chunk, *shape.bounds(chunk),
            )  # fmt: skip

        if work.whole:
            self._round(inner, work, 0, shape.rows)
            self.team.run(multiply, range(len(products)))
        self.team.run(select, range(shape.chunks))
        if isinstance(sparsifier, BatchTopK):
            self._select_batch(sparsifier, work, counts)
        self.team.run(rebuild, range(shape.chunks))

    def _round(self, inner: Tensor, work: Workspace, first: int, last: int) -> None:
        """Copy rows into their table, if products round them."""
        if self.precision != inner.dtype:
            kernels.store_rows(inner[first:last].numpy(), as_table(work.inputs[first:last]))

    def _inputs(self, inner: Tensor, work: Workspace) -> Tensor:
        """Return the rows in the precision of products."""
        return inner if self.precision == inner.dtype else work.inputs

    def _multiply(
        self, inner: Tensor, work: Workspace, pre: Tensor, rows: tuple[int, int], latents: tuple[int, int]
    ) -> Tensor:
        """Multiply rows with filters; write their pre-activations to `pre`, which starts at the first row."""
        x, some = self._inputs(inner, work)[slice(*rows)], slice(*latents)
        return torch.mm(x, self.filters[some].T, out=pre[: len(x), some])

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

    def _order(self, work: Workspace, entries: Entries, ordered: ByLatent, scale: float) -> None:
        """Order entries by latent, with codes and slopes times `scale`; without rows nothing changes."""
        if not len(entries.bounds):
            return
        before = np.cumsum(entries.counts, axis=0)
        np.cumsum(before[-1], out=ordered.offsets[1:])
        cursors = ordered.offsets[:-1] + before - entries.counts

        def order(_: int, chunk: int) -> None:
            kernels.order_by_latent(entries, cursors[chunk], scale, ordered, *work.shape.bounds(chunk))

        self.team.run(order, range(work.shape.chunks))

    def _update(self, inner: Tensor, work: Workspace, learning_rate: float) -> None:
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
        filters, atoms, inputs = (as_table(table) for table in (self.filters, self.atoms, self._inputs(inner, work)))

        parts = range(PARTS * self.team.threads)

        def update(thread: int, part: int) -> None:
            first, last = (work.shape.latents * i // len(parts) for i in (part, part + 1))
            kernels.update_latents(
                self.parameters["encoder"], self.parameters["decoder"], filters, atoms, inputs, work.main.residuals,
                work.aux.residuals, work.ordered, work.aux_ordered, bias_gradient, numbers, self.sae.unit_norm,
                not self.config.frozen_decoder, work.scratch[thread].lines[0], first, last,
            )  # fmt: skip

        # in turn from either end: the last weights of a step are still in the cache at the start of the next
        self.team.run(update, parts if self.steps % 2 else reversed(parts))
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

    def _workspace(self, rows: int, *, with_aux: bool) -> Workspace:
        work = self._work.get(rows)
        if work is None or bool(len(work.aux.bounds)) != with_aux:
            sae, threads = self.sae, self.team.threads
            shape = Shape(rows, sae.width, sae.latents, self.dtype, self.precision)
            whole = isinstance(sae.sparsifier, BatchTopK) or rows <= FEW_ROWS
            pre = torch.empty(
                1 if whole else threads, rows if whole else chunk_size(rows), sae.latents, dtype=self.precision
            )
            work = self._work[rows] = Workspace(
                shape,
                main=shape.entries(sae.sparsifier.k, len(self.level_weights)),
                aux=shape.entries(self._aux_k() if with_aux else 0, 1),
                ordered=shape.ordered(sae.sparsifier.k, len(self.level_weights)),
                aux_ordered=shape.ordered(self._aux_k() if with_aux else 0, 1),
                inputs=new_table(0 if self.precision == sae.encoder.dtype else rows, sae.width, self.precision),
                pre=list(pre),
                whole=whole,
                scratch=[shape.scratch(len(self.level_weights)) for _ in range(threads)],
                sums=np.zeros((shape.chunks, sae.width + 1), self.dtype),
            )
        return work
