"""Optimiser step with compiled kernels: dense encoder product in PyTorch, everything else on active entries only.

`KernelStepper` supports TopK, BatchTopK, JumpReLU and Gated on the CPU; `pick_stepper` chooses the stepper of a model.
"""

import time
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from otoscope.errors import ConfigError, DamagedArtifact
from otoscope.hardware import Team, available_threads, one_thread
from otoscope.sae import kernel_selection, kernels
from otoscope.sae.config import TrainConfig
from otoscope.sae.kernel_buffers import FEW_ROWS, Shape, Workspace, as_bits, as_table, as_tensor, chunk_size, new_table
from otoscope.sae.kernel_thresholds import (
    Limits,
    empty_sums,
    gate_cost,
    gated_slopes,
    jump_slopes,
    set_codes,
    step_limits,
    threshold_gradients,
)
from otoscope.sae.kernels import AdamNumbers, Array, ByLatent, Entries, GradientSums, Parameter
from otoscope.sae.losses import GATHER_RATIO, level_budgets, prefix_ends
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.optimiser import Losses, Stepper, TorchStepper, require_counters
from otoscope.sae.sparsifiers.penalised import Gated, JumpReLU
from otoscope.sae.sparsifiers.topk import BatchTopK, TopK

BETA1, EPSILON = 0.9, 1e-8

PARTS = 2
"""Parts of the latents per thread: a thread that is done early takes another one."""
GUESS_STEP = 0.2
"""Share by which the threshold of a row is lowered to become the guess for the next row."""
FASTER = 1.3
"""Speed of bfloat16 products, relative to float32, from which they are used."""
MATRIX_UNIT = 3.0
"""The same speed from which a processor is taken to have a unit for products of matrices, such as AMX."""
DENSE_RATIO, MATRIX_UNIT_DENSE_RATIO = 3, 12
"""With this number of latents per active one or fewer, products with all atoms are faster than sums over active ones.

Without and with a unit for products of matrices (docs/benchmarks.md)."""
BLOCKS = 8
"""Parts of the latents in the products of gradients; their number is fixed, which keeps sums the same."""


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
    sparsifier = sae.sparsifier
    few = isinstance(sparsifier, JumpReLU | Gated) and sparsifier.k * GATHER_RATIO <= sae.latents
    on_cpu = sae.device.type == "cpu" and sae.encoder.dtype in (torch.float32, torch.float64)
    plain = not config.temporal and config.min_atom_cosine is None and sae.archetypes is None
    return (type(sparsifier) in (TopK, BatchTopK) or few) and plain and on_cpu


@cache
def bfloat16_speed() -> float:
    """Return the speed of products in bfloat16 relative to float32, measured once, in milliseconds."""
    x, weights = torch.ones(256, 768), torch.ones(1024, 768)
    with one_thread():
        seconds = [_seconds(x.to(dtype), weights.to(dtype)) for dtype in (torch.float32, torch.bfloat16)]
    return seconds[0] / seconds[1]


def fastest_precision() -> torch.dtype:
    """Return the precision in which this machine multiplies matrices fastest."""
    return torch.bfloat16 if bfloat16_speed() > FASTER else torch.float32


def dense_ratio(precision: torch.dtype) -> int:
    """Return the latents per active one up to which this machine multiplies whole matrices faster than it gathers."""
    unit = precision == torch.bfloat16 and bfloat16_speed() > MATRIX_UNIT
    return MATRIX_UNIT_DENSE_RATIO if unit else DENSE_RATIO


def _seconds(x: Tensor, weights: Tensor) -> float:
    times: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(x, weights.T)
        times.append(time.perf_counter() - start)
    return min(times)


class KernelStepper:
    """Stepper for TopK and BatchTopK, and for JumpReLU and Gated with few active latents; updates parameters in place.

    The errors of Matryoshka prefixes and of several budgets (`k_shares`), AuxK and a frozen decoder are supported.
    Weights, moments and sums have the model's precision. `precision` is that of products, to which their operands and
    results are rounded; `table_precision` is that of rows, atoms and residuals that are gathered. By default, a float32
    model is multiplied in the fastest precision and gathers bfloat16, which halves the memory traffic; in a float64
    model nothing is rounded. The resulting bytes are the same for any number of threads.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        config: TrainConfig,
        *,
        dead_window_rows: int,
        threads: int | None = None,
        precision: torch.dtype | None = None,
        table_precision: torch.dtype | None = None,
    ) -> None:
        if not is_supported(sae, config):
            raise ConfigError(
                "KernelStepper supports only TopK, BatchTopK, and JumpReLU and Gated with one active latent in "
                f"{GATHER_RATIO} or fewer, on the CPU, without temporal contrast, bounded atoms and archetypes, got "
                f"{sae!r}; use TorchStepper"
            )
        self.sae, self.config, self.dead_window_rows = sae, config, dead_window_rows
        self.thresholded = sae.sparsifier if isinstance(sae.sparsifier, JumpReLU | Gated) else None
        self.limits: Limits | None = None
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
        single = self.dtype == np.float32
        self.table_precision = table_precision or (torch.bfloat16 if single else torch.float64)
        precision = precision or (fastest_precision() if single else torch.float64)
        self._set_precision(precision, dense_ratio(precision))

    def use_budgets(self, budgets: Sequence[int]) -> None:
        """Let these numbers of largest latents, ending in k, each reconstruct alone from the next step on."""
        self.budgets = np.array(budgets, np.int64)
        levels = max(len(self.ends), len(self.budgets))
        self.level_weights = np.full(levels, 1 / levels, self.dtype)
        self._work: dict[int, Workspace] = {}

    def _set_precision(self, precision: torch.dtype, ratio: int) -> None:
        self.precision, self.dense_ratio = precision, ratio
        self.filters, self.atoms = (
            weights.detach() if weights.dtype == dtype else new_table(self.sae.latents, self.sae.width, dtype)
            for weights, dtype in ((self.sae.encoder, precision), (self.sae.decoder, self.table_precision))
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
        scale = 2.0 / values
        self._order(work, work.main, work.ordered, scale)
        self._order(work, work.aux, work.aux_ordered, scale * config.aux_coefficient / full)
        self._update(inner, work, learning_rate, scale)
        counts = (work.thresholds.active,) if self.thresholded else (work.main.counts, work.dense.counts)
        fired = torch.from_numpy(sum(count.sum(axis=0) for count in counts))
        self.silent_rows = torch.where(fired > 0, 0, self.silent_rows + len(inner))
        return Losses(
            float(squares @ self.level_weights.astype(np.float64)) / values,
            float(work.aux.squares.sum(dtype=np.float64)) / values / full if with_aux else 0.0,
            fired.sum().item() / len(inner),
            dead.float().mean().item(),
        )

    def _forward(self, inner: Tensor, work: Workspace, dead: Bool[Tensor, " latents"]) -> None:
        """Choose the active latents of each row, decode them, and compute residuals and the slopes of active codes."""
        shape, bias, sparsifier = work.shape, self.biases["encoder_bias"], self.sae.sparsifier
        zeros = np.zeros_like(bias)
        self.limits = step_limits(self.thresholded, self.sae.decoder.detach()) if self.thresholded else None
        mask, aux_budget = dead.numpy(), np.array([self._aux_k()], np.int64)
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
                kernel_selection.count_rows(as_bits(pre), bias, zeros, self.guess, counts, scratch, first)
            elif self.limits:
                kernel_selection.count_rows(as_bits(pre), bias, self.limits.lower, 1, counts, scratch, first)
            else:
                kernel_selection.select_rows(
                    as_bits(pre), bias, zeros, mask[:0], self.ends, self.budgets, work.main, scratch, key_step, first
                )
            if len(work.aux.bounds):
                kernel_selection.select_rows(
                    as_bits(pre), bias, zeros, mask, self.ends[-1:], aux_budget, work.aux, scratch, key_step, first
                )

        if work.whole:
            self._round(inner, work, 0, shape.rows)
            self.team.run(multiply, range(len(products)))
        self.team.run(select, range(shape.chunks))
        if isinstance(sparsifier, BatchTopK):
            self._select_batch(sparsifier, work, counts)
        elif self.thresholded and self.limits:
            self._list_entries(self.thresholded, work, counts, self.limits)
        self.team.run(lambda thread, chunk: self._rebuild(inner, work, thread, chunk), range(shape.chunks))

    def _rebuild(self, inner: Tensor, work: Workspace, thread: int, chunk: int) -> None:
        """Decode the rows of one chunk, and compute residuals and the slopes of active codes."""
        dense, (first, last) = work.dense, work.shape.bounds(chunk)
        if len(dense.codes):
            kernels.fill_codes(work.main, dense, chunk, first, last)
            torch.mm(as_tensor(dense.codes)[first:last], self.atoms, out=as_tensor(dense.rebuilt)[first:last])
        kernels.rebuild_rows(
            inner.numpy(), self.biases["decoder_bias"], as_table(self.atoms), self.level_weights, work.main, dense,
            work.aux, work.sums, work.scratch[thread], chunk, first, last,
        )  # fmt: skip
        if len(dense.codes):
            residuals = self._last_residuals(work)[first:last]
            torch.mm(residuals, self.atoms.T, out=as_tensor(dense.slopes)[first:last])
            kernels.mask_slopes(dense, chunk, first, last)
        if self.limits and len(work.gates.bounds):
            kernels.rebuild_rows(
                inner.numpy(), self.biases["decoder_bias"], as_table(self.atoms), np.ones(1, self.dtype), work.gates,
                dense, work.shape.entries(0, 1), np.zeros_like(work.sums), work.scratch[thread], chunk, first, last,
            )  # fmt: skip
            gated_slopes(work.main, work.gates, work.thresholds, self.limits, chunk, first, last)
        elif self.limits:
            jump_slopes(work.main, work.thresholds, self.limits, chunk, first, last)

    def _list_entries(self, sparsifier: JumpReLU | Gated, work: Workspace, counts: Array, limits: Limits) -> None:
        """List the pre-activations above their lower limits, set their codes, and adjust the penalty."""
        starts = np.concatenate([[0], np.cumsum(counts)])
        if starts[-1] > len(work.main.latent):
            self._resize(work, int(1.25 * starts[-1]))
        scratch, bias = work.scratch, self.biases["encoder_bias"]
        main, keys = work.main, work.main.code.view(scratch[0].keys.dtype)

        def write(thread: int, chunk: int) -> None:
            first, last = work.shape.bounds(chunk)
            pre = as_bits(work.pre[0][first:last])
            kernel_selection.list_rows(pre, bias, limits.lower, 1, starts, main.latent, keys, scratch[thread], first)
            kernel_selection.bound_rows(main.bounds, main.latent, self.ends, starts, first, last)
            set_codes(main, work.thresholds, limits, chunk, first, last)

        self.team.run(write, range(work.shape.chunks))
        sparsifier.strength.adjust(torch.tensor(work.thresholds.active.sum() / work.shape.rows))
        if isinstance(sparsifier, Gated):
            limits.cost[:] = gate_cost(sparsifier, self.sae.decoder.detach())
            work.gates.bounds[:, 0], work.gates.bounds[:, 1] = starts[:-1], starts[1:]

    def _resize(self, work: Workspace, entries: int) -> None:
        """Allocate this number of entries."""
        code, slope, gate_slope, value, ordered_slope = np.zeros((5, entries), self.dtype)
        latent, row = np.zeros((2, entries), np.uint32)
        work.main = work.main._replace(latent=latent, code=code, slope=slope)
        residual = row if len(self.level_weights) == 1 else np.zeros_like(row)
        work.ordered = work.ordered._replace(row=row, residual=residual, code=value, slope=ordered_slope)
        work.thresholds = work.thresholds._replace(pre=np.zeros(entries, self.dtype))
        work.gates = work.gates._replace(latent=latent, code=work.thresholds.pre, slope=gate_slope)

    def _last_residuals(self, work: Workspace) -> Tensor:
        """Return the residuals of the last level, in the precision of products."""
        levels = len(self.level_weights)
        return as_tensor(work.main.residuals)[levels - 1 :: levels]

    def _round(self, inner: Tensor, work: Workspace, first: int, last: int) -> None:
        """Copy rows into their table, if it rounds them."""
        if self.table_precision != inner.dtype:
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
            kernel_selection.count_rows(pre, bias, np.zeros_like(bias), self.guess, counts, scratch, 0)
        starts = np.concatenate([[0], np.cumsum(counts)])
        latent, keys = np.zeros(starts[-1], np.int32), np.zeros(starts[-1], scratch.keys.dtype)
        kernel_selection.list_rows(pre, bias, np.zeros_like(bias), self.guess, starts, latent, keys, scratch, 0)
        kept, smallest = np.ones(len(keys), bool), np.zeros(1, keys.dtype)
        if len(keys) >= wanted:
            smallest[0] = np.partition(keys, len(keys) - wanted)[len(keys) - wanted]
            kept = keys > smallest
            kept[np.flatnonzero(keys == smallest)[: wanted - kept.sum()]] = True
        row = np.repeat(np.arange(shape.rows), counts)[kept]
        number = int(kept.sum())
        work.main.latent[:number], work.main.code[:number] = latent[kept], keys[kept].view(self.dtype)
        starts = np.searchsorted(row, np.arange(shape.rows + 1))
        kernel_selection.bound_rows(work.main.bounds, work.main.latent, self.ends, starts, 0, shape.rows)
        sparsifier.update_threshold(torch.from_numpy(smallest.view(self.dtype))[0])
        self.guess = int(max(smallest[0] - step, 1))

    def _order(self, work: Workspace, entries: Entries, ordered: ByLatent, scale: float) -> None:
        """Order gathered entries by latent, with codes and slopes times `scale`; without any nothing changes."""
        if not len(entries.bounds) or not entries.gathered:
            return
        before = np.cumsum(entries.counts, axis=0)
        np.cumsum(before[-1], out=ordered.offsets[1:])
        cursors = ordered.offsets[:-1] + before - entries.counts

        def order(_: int, chunk: int) -> None:
            kernels.order_by_latent(entries, cursors[chunk], scale, ordered, *work.shape.bounds(chunk))

        self.team.run(order, range(work.shape.chunks))

    def _update(self, inner: Tensor, work: Workspace, learning_rate: float, scale: float) -> None:
        """Sum the gradients of all latents and step every parameter; `scale` is that of dense slopes."""
        self.steps += 1
        numbers = AdamNumbers(
            rate=learning_rate / (1.0 - BETA1**self.steps),
            beta1=BETA1,
            beta2=self.config.beta2,
            unbias=1.0 / (1.0 - self.config.beta2**self.steps) ** 0.5,
            epsilon=EPSILON,
            keep=1.0 - learning_rate * self.config.weight_decay,
        )
        bias_gradient = work.dense.sums.sum(axis=0) * self.dtype.type(scale)
        dense, unit_norm = work.dense, self.sae.unit_norm
        rows = inner if self.table_precision == inner.dtype else work.inputs
        filters, atoms = as_table(self.filters), as_table(self.atoms)
        main, aux, x = work.ordered, work.aux_ordered, as_table(rows)
        filter_sums, aux_filter_sums = (GradientSums(x, e.offsets, e.row, e.slope) for e in (main, aux))
        atom_sums = GradientSums(work.main.residuals, main.offsets, main.residual, main.code)
        aux_atom_sums = GradientSums(work.aux.residuals, aux.offsets, aux.residual, aux.code)
        for some in (main, aux):
            if len(some.offsets):
                kernels.sum_entries(some.slope, some.offsets, bias_gradient)
        parts = range(BLOCKS if len(dense.codes) else PARTS * self.team.threads)

        def update(thread: int, part: int) -> None:
            first, last = (work.shape.latents * i // len(parts) for i in (part, part + 1))
            products, line = work.gradients[thread][: last - first], work.scratch[thread].lines[0]
            if len(dense.codes):
                torch.mm(as_tensor(dense.slopes)[:, first:last].T, rows, out=products)
            kernels.update_rows(
                self.parameters["encoder"], filters, filter_sums, aux_filter_sums, as_table(products), scale, numbers,
                numbers.keep, False, line, first, last,
            )  # fmt: skip
            if self.config.frozen_decoder:
                return
            if len(dense.codes):
                torch.mm(as_tensor(dense.codes)[:, first:last].T, self._last_residuals(work), out=products)
            kernels.update_rows(
                self.parameters["decoder"], atoms, atom_sums, aux_atom_sums, as_table(products), scale, numbers, 1.0,
                unit_norm, line, first, last,
            )  # fmt: skip

        # in turn from either end: the last weights of a step are still in the cache at the start of the next
        self.team.run(update, parts if self.steps % 2 else reversed(parts))
        decoder_bias_gradient = work.sums.sum(axis=0)[: work.shape.width] * self.dtype.type(
            2.0 / (work.shape.rows * work.shape.width)
        )
        gradients = {"encoder_bias": bias_gradient, "decoder_bias": decoder_bias_gradient}
        if self.thresholded:
            gradients |= threshold_gradients(self.thresholded, work.thresholds, rows=work.shape.rows, scale=scale)
        for name, gradient in gradients.items():
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
            "dense_ratio": torch.tensor(self.dense_ratio),
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
        precision = torch.bfloat16 if state["bfloat16"] else self.sae.encoder.dtype
        self._set_precision(precision, int(state["dense_ratio"]))

    def _aux_k(self) -> int:
        return max(self.sae.width // 2, 1)

    def _key_step(self, work: Workspace) -> int:
        """Return the distance of keys that lowers a threshold by about `GUESS_STEP`."""
        return int(GUESS_STEP * (1 << (23 if work.scratch[0].keys.itemsize == 4 else 52)))

    def _workspace(self, rows: int, *, with_aux: bool) -> Workspace:
        work = self._work.get(rows)
        if work is None or bool(len(work.aux.bounds)) != with_aux:
            sae, threads = self.sae, self.team.threads
            shape = Shape(rows, sae.width, sae.latents, self.dtype, self.table_precision)
            whole = isinstance(sae.sparsifier, BatchTopK) or bool(self.thresholded) or rows <= FEW_ROWS
            pre = torch.empty(
                1 if whole else threads, rows if whole else chunk_size(rows), sae.latents, dtype=self.precision
            )
            k, levels, aux_k = sae.sparsifier.k, len(self.level_weights), self._aux_k() if with_aux else 0
            last = k - int(self.budgets[-2]) if len(self.budgets) > 1 else k
            same = self.precision == self.table_precision
            same &= not self.thresholded
            dense = same and rows > FEW_ROWS and sae.latents <= self.dense_ratio * last
            part = -(-sae.latents // BLOCKS) if dense else 0
            work = self._work[rows] = Workspace(
                shape,
                main=shape.entries(k, levels, dense=dense),
                dense=shape.dense(rows if dense else 0),
                gradients=[new_table(part, sae.width, self.precision) for _ in range(threads)],
                aux=shape.entries(aux_k, 1),
                ordered=shape.ordered(k if levels > dense else 0, levels),
                aux_ordered=shape.ordered(aux_k, 1, used=with_aux),
                inputs=new_table(
                    0 if self.table_precision == sae.encoder.dtype else rows, sae.width, self.table_precision
                ),
                pre=list(pre),
                whole=whole,
                thresholds=empty_sums(rows * k, shape.chunks, sae.latents, self.dtype),
                gates=shape.entries(k if isinstance(sae.sparsifier, Gated) else 0, 1),
                scratch=[shape.scratch(levels) for _ in range(threads)],
                sums=np.zeros((shape.chunks, sae.width + 1), self.dtype),
            )
            if self.thresholded:
                self._resize(work, rows * k)
        return work
