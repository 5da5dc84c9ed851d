"""Optimiser step with compiled kernels: dense encoder product in PyTorch, everything else on active entries only.

`KernelStepper` supports TopK, BatchTopK, JumpReLU and Gated on the CPU; `pick_stepper` chooses the stepper of a model.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from otoscope.errors import ConfigError, DamagedArtifact
from otoscope.hardware import Team, available_threads, flop_per_s, limit_threads, one_thread
from otoscope.sae import kernel_selection, kernel_thresholds, kernels
from otoscope.sae.config import TrainConfig
from otoscope.sae.kernel_buffers import BLOCKS, FEW_ROWS, Workspace
from otoscope.sae.kernel_tables import Array, as_bits, as_table, new_table, store_rows
from otoscope.sae.losses import GATHER_RATIO, level_budgets, prefix_ends
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.optimiser import Losses, Stepper, fastest_torch_stepper, require_counters
from otoscope.sae.sparsifiers.penalised import Gated, JumpReLU
from otoscope.sae.sparsifiers.topk import BatchTopK, TopK

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


def pick_stepper(
    sae: SparseAutoencoder, config: TrainConfig, *, dead_window_rows: int, threads: int | None = None
) -> Stepper:
    """Return the fastest stepper for a model on this machine; `threads` is for kernels and does not change results.

    Kernels multiply in the fastest precision of the machine and sum in float32; after the same steps the held-out
    fraction of variance unexplained is within 1 % of `TorchStepper`'s (a test checks this).
    """
    if is_supported(sae, config):
        return KernelStepper(sae, config, dead_window_rows=dead_window_rows, threads=threads)
    return fastest_torch_stepper(sae, config, dead_window_rows=dead_window_rows)


def is_supported(sae: SparseAutoencoder, config: TrainConfig) -> bool:
    """Return whether the kernels support a model and its configuration."""
    sparsifier = sae.sparsifier
    few = isinstance(sparsifier, JumpReLU | Gated) and sparsifier.k * GATHER_RATIO <= sae.latents
    on_cpu = sae.device.type == "cpu" and sae.encoder.dtype in (torch.float32, torch.float64)
    plain = not config.temporal and config.min_atom_cosine is None and sae.archetypes is None
    return (type(sparsifier) in (TopK, BatchTopK) or few) and plain and on_cpu


@cache
def fastest_products() -> tuple[torch.dtype, int]:
    """Return the fastest precision of products on this machine and its dense ratio, measured once in milliseconds."""
    with one_thread():
        speed = flop_per_s(dtype=torch.bfloat16, rows=256) / flop_per_s(rows=256)
    if speed <= FASTER:
        return torch.float32, DENSE_RATIO
    return torch.bfloat16, MATRIX_UNIT_DENSE_RATIO if speed > MATRIX_UNIT else DENSE_RATIO


class KernelStepper:
    """Stepper for TopK and BatchTopK, and for JumpReLU and Gated with few active latents; updates parameters in place.

    The errors of Matryoshka prefixes and of several budgets (`k_shares`), AuxK and a frozen decoder are supported.
    Weights, moments and sums have the model's precision. `precision` is that of products, to which their operands and
    results are rounded; by default it is the fastest. A float32 model gathers rows, atoms and residuals in bfloat16,
    which halves the memory traffic; in a float64 model nothing is rounded. The resulting bytes are the same for any
    number of threads.
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
                "KernelStepper supports only TopK, BatchTopK, and JumpReLU and Gated with one active latent in "
                f"{GATHER_RATIO} or fewer, on the CPU, without temporal contrast, bounded atoms and archetypes, got "
                f"{sae!r}; use TorchStepper"
            )
        self.sae, self.config, self.dead_window_rows = sae, config, dead_window_rows
        self.thresholded = sae.sparsifier if isinstance(sae.sparsifier, JumpReLU | Gated) else None
        self.limits: kernel_thresholds.Limits | None = None
        self.silent_rows = torch.zeros(sae.latents, dtype=torch.int64)
        self.team = Team(threads or available_threads())
        self.steps, self.guess, self.aux_k = 0, 1, max(sae.width // 2, 1)
        self.parameters = {
            name: kernels.Parameter(*(x.numpy() for x in (p.detach(), torch.zeros_like(p), torch.zeros_like(p))))
            for name, p in sae.named_parameters()
        }
        self.dtype = self.parameters["encoder"].value.dtype
        self.encoder_bias, self.decoder_bias = (
            self.parameters[name].value if name in self.parameters else np.zeros(size, self.dtype)
            for name, size in (("encoder_bias", sae.latents), ("decoder_bias", sae.width))
        )
        if config.frozen_decoder:
            sae.decoder.requires_grad_(False)
        self.ends = np.array(prefix_ends(config.prefixes, sae.latents), np.int64)
        self.use_budgets(level_budgets(sae, config.prefixes, config.k_shares))
        single = self.dtype == np.float32
        self.table_precision = torch.bfloat16 if single else torch.float64
        self.key_step = int(GUESS_STEP * (1 << (23 if single else 52)))
        fastest, ratio = fastest_products() if single else (torch.float64, DENSE_RATIO)
        self._set_precision(precision or fastest, ratio if precision in (None, fastest) else DENSE_RATIO)

    def use_budgets(self, budgets: Sequence[int]) -> None:
        """Let these numbers of largest latents, rising, each reconstruct alone from the next step on."""
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
                store_rows(weights.detach().numpy(), as_table(table))

    @torch.no_grad()
    @limit_threads(1)
    def step(self, inner: Float[Tensor, "rows width"], *, learning_rate: float) -> Losses:
        """Update the weights from one batch of normalised rows."""
        inner, config, dead = inner.contiguous(), self.config, self.silent_rows >= self.dead_window_rows
        with_aux = bool(config.aux_coefficient and dead.any())
        work = self._workspace(len(inner), with_aux=with_aux)
        if self.thresholded:
            self.limits = kernel_thresholds.step_limits(self.thresholded, self.sae.decoder.detach())
        self._select(inner, work, dead)
        self._decode(inner.numpy(), work)
        values, scale = inner.numel(), 2.0 / inner.numel()
        squares = work.main.squares.sum(axis=0, dtype=np.float64)
        full = max(float(squares[-1]) / values, float(np.finfo(self.dtype).tiny))
        self._order(work, 0, scale)
        self._order(work, 1, scale * config.aux_coefficient / full)
        self._update(work, learning_rate, scale)
        counts = (work.thresholds.active,) if self.limits else (work.main.counts, work.dense_counts)
        fired = torch.from_numpy(sum(count.sum(axis=0) for count in counts))
        self.silent_rows = torch.where(fired > 0, 0, self.silent_rows + len(inner))
        return Losses(
            float(squares @ self.level_weights.astype(np.float64)) / values,
            float(work.aux.squares.sum(dtype=np.float64)) / values / full if with_aux else 0.0,
            fired.sum().item() / len(inner),
            dead.float().mean().item(),
        )

    def _select(self, inner: Tensor, work: Workspace, dead: Bool[Tensor, " latents"]) -> None:
        """Choose the active latents of each row, and with AuxK the largest dead ones."""
        bias, sparsifier = self.encoder_bias, self.sae.sparsifier
        lower = np.zeros_like(bias) if self.limits is None else self.limits.lower
        selections = [(lower, self.ends, self.budgets, work.main)] if isinstance(sparsifier, TopK) else []
        if len(work.aux.bounds):
            lower_if_dead = np.where(dead, 0, np.inf).astype(self.dtype)
            selections.append((lower_if_dead, self.ends[-1:], np.array([self.aux_k]), work.aux))
        counts = np.zeros(work.rows, np.int64)

        def select(thread: int, chunk: int) -> None:
            scratch, (first, last) = work.scratch[thread], work.bounds(chunk)
            pre = as_bits(work.pre[first:last])
            for selection in selections:
                kernel_selection.select_rows(pre, bias, *selection, scratch, self.key_step, first)
            if not isinstance(sparsifier, TopK):
                kernel_selection.count_rows(pre, bias, lower, self.guess, counts, scratch, first)

        store_rows(inner.numpy(), as_table(work.inputs))
        self._multiply(inner if self.precision == inner.dtype else work.inputs, self.filters.T, work.pre)
        self.team.run(select, work.chunks)
        if not isinstance(sparsifier, TopK):
            self._list_entries(work, lower, counts)

    def _multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Multiply two matrices in parts of columns; with parts of rows, each would rearrange all of `right` again."""
        part = min(1024, max(64, -(-right.shape[1] // 4)))

        def multiply(_: int, start: int) -> None:
            some = slice(start, start + part)
            torch.mm(left, right[:, some], out=out[:, some])

        self.team.run(multiply, range(0, right.shape[1], part))

    def _list_entries(self, work: Workspace, lower: Array, counts: Array) -> None:
        """List the pre-activations above `lower`: with BatchTopK the largest, else with their codes."""
        sparsifier, limits, bias, fall = self.sae.sparsifier, self.limits, self.encoder_bias, self.key_step
        wanted = sparsifier.k * work.rows if isinstance(sparsifier, BatchTopK) else 0
        while counts.sum() < wanted and self.guess > 1:
            self.guess, fall = max(self.guess - fall, 1), 2 * fall
            kernel_selection.count_rows(as_bits(work.pre), bias, lower, self.guess, counts, work.scratch[0], 0)
        starts = np.concatenate([[0], np.cumsum(counts)])
        if starts[-1] > len(work.main.latent):
            work.resize(int(1.25 * starts[-1]))

        def write(thread: int, chunk: int) -> None:
            scratch, (first, last) = work.scratch[thread], work.bounds(chunk)
            pre = as_bits(work.pre[first:last])
            kernel_selection.list_rows(pre, bias, lower, self.guess, starts, self.ends, work.main, scratch, first)
            if limits:
                kernel_thresholds.set_codes(work.main, work.thresholds, limits, chunk, starts[first], starts[last])

        self.team.run(write, work.chunks)
        if isinstance(sparsifier, BatchTopK):
            smallest = kernel_selection.keep_in_batch(work.main, starts[-1], wanted)
            sparsifier.update_threshold(torch.from_numpy(smallest)[0])
            self.guess = max(int(smallest.view(work.scratch[0].keys.dtype)[0]) - self.key_step, 1)
        if isinstance(sparsifier, JumpReLU | Gated):
            sparsifier.strength.adjust(torch.tensor(work.thresholds.active.sum() / work.rows))
        if isinstance(sparsifier, Gated) and limits:
            limits.cost[:] = kernel_thresholds.gate_cost(sparsifier, self.sae.decoder.detach())
            work.gates.bounds[...] = work.main.bounds[:, [0, -1]]

    def _decode(self, x: Array, work: Workspace) -> None:
        """Decode the rows, and compute residuals and the slopes of active codes."""
        limits, bias, atoms, rebuilt = self.limits, self.decoder_bias, as_table(self.atoms), as_table(work.rebuilt)
        codes, slopes = as_bits(work.codes), as_bits(work.slopes)
        weights, one, gate_sums = self.level_weights, np.ones(1, self.dtype), np.zeros_like(work.sums)

        def fill(_: int, chunk: int) -> None:
            kernels.fill_codes(work.main, codes, work.dense_counts[chunk], *work.bounds(chunk))

        def rebuild(thread: int, chunk: int) -> None:
            lines, rows = work.scratch[thread].lines, (chunk, *work.bounds(chunk))
            kernels.rebuild_rows(x, bias, atoms, weights, work.main, rebuilt, work.aux, work.sums, lines, *rows)
            if limits and len(work.gates.bounds):
                kernels.rebuild_rows(x, bias, atoms, one, work.gates, rebuilt, work.none, gate_sums, lines, *rows)
                kernel_thresholds.gated_slopes(work.main, work.gates, work.thresholds, limits, *rows)
            elif limits:
                kernel_thresholds.jump_slopes(work.main, work.thresholds, limits, *rows)

        if work.dense:
            self.team.run(fill, work.chunks)
            self._multiply(work.codes, self.atoms, work.rebuilt)
        self.team.run(rebuild, work.chunks)
        if work.dense:
            self._multiply(work.last_residuals, self.atoms.T, work.slopes)
            kernels.mask_slopes(codes, slopes)

    def _order(self, work: Workspace, part: int, scale: float) -> None:
        """Order the gathered entries of `main`, part 0, or `aux` by latent, with codes and slopes times `scale`."""
        entries, filters, atoms = (work.main, work.aux)[part], work.filter_sums[part], work.atom_sums[part]
        if not len(filters.offsets):
            return
        before = np.cumsum(entries.counts, axis=0)
        np.cumsum(before[-1], out=filters.offsets[1:])
        cursors = filters.offsets[:-1] + before - entries.counts

        def order(_: int, chunk: int) -> None:
            kernels.order_by_latent(entries, cursors[chunk], scale, filters, atoms, *work.bounds(chunk))

        self.team.run(order, work.chunks)

    def _update(self, work: Workspace, learning_rate: float, scale: float) -> None:
        """Sum the gradients of all latents and step every parameter; `scale` is that of dense slopes."""
        self.steps += 1
        numbers = kernels.AdamNumbers(
            rate=learning_rate / (1.0 - kernels.BETA1**self.steps),
            beta2=self.config.beta2,
            unbias=1.0 / (1.0 - self.config.beta2**self.steps) ** 0.5,
        )
        keep, unit_norm = 1.0 - learning_rate * self.config.weight_decay, self.sae.unit_norm
        jobs = [("encoder", as_table(self.filters), work.filter_sums, work.slopes, work.inputs, keep, False)]
        if not self.config.frozen_decoder:
            atoms = as_table(self.atoms)
            jobs.append(("decoder", atoms, work.atom_sums, work.codes, work.last_residuals, 1.0, unit_norm))
        parts = range(BLOCKS if work.dense else PARTS * self.team.threads)

        def update(thread: int, part: int) -> None:
            first, last = (work.latents * i // len(parts) for i in (part, part + 1))
            products, line = work.products[thread][: last - first], work.scratch[thread].lines[0]
            gradients = as_table(products)
            for name, table, sums, weights, rows, keep, normalise in jobs:
                if work.dense:
                    torch.mm(weights[:, first:last].T, rows, out=products)
                kernels.update_rows(
                    self.parameters[name], table, sums[0], sums[1], gradients, scale, numbers, keep, normalise, line,
                    first, last,
                )  # fmt: skip

        # in turn from either end: the last weights of a step are still in the cache at the start of the next
        self.team.run(update, parts if self.steps % 2 else reversed(parts))
        mean = self.dtype.type(scale)
        bias_gradient = work.slopes.sum(dim=0, dtype=self.sae.encoder.dtype).numpy() * mean
        for sums in work.filter_sums:
            if len(sums.offsets):
                totals = np.add.reduceat(np.append(sums.weight[: sums.offsets[-1]], 0), sums.offsets[:-1])
                bias_gradient += np.where(np.diff(sums.offsets) > 0, totals, 0)
        gradients = {"encoder_bias": bias_gradient, "decoder_bias": work.sums.sum(axis=0) * mean}
        if self.thresholded:
            gradients |= kernel_thresholds.threshold_gradients(self.thresholded, work.thresholds, work.rows, scale)
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

    def _workspace(self, rows: int, *, with_aux: bool) -> Workspace:
        work = self._work.get(rows)
        if work is None or bool(len(work.aux.bounds)) != with_aux:
            k = int(self.budgets[-1])
            last = k - int(self.budgets[-2] if len(self.budgets) > 1 else 0)
            dense = self.sae.latents <= self.dense_ratio * last and rows > FEW_ROWS and not self.thresholded
            dense &= self.precision == self.table_precision
            levels, aux_k = len(self.level_weights), self.aux_k if with_aux else 0
            work = Workspace(self.sae, rows, k, levels, aux_k, self.team.threads, self.filters, self.atoms, dense)
            self._work[rows] = work
        return work
