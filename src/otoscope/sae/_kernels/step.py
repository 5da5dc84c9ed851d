"""One optimisation step of a TopK dictionary, on plain arrays that are updated in place."""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.errors import DamagedArtifact, TrainingError
from otoscope.sae._kernels import adam, forward, tables, update
from otoscope.sae._kernels.buffers import (
    Array,
    Shape,
    StepSettings,
    Team,
    Weights,
    Workspace,
    available_threads,
    check_fit,
    empty_table,
)
from otoscope.sae._kernels.llvm import LANES

Products: TypeAlias = Literal["bfloat16", "exact"]

LATENT_COST = 20
"""What a latent costs without any active row, in active rows: its weights and moments are read and written anyhow."""


class StepStats(NamedTuple):
    """What one step saw, before it changed the weights."""

    loss: float
    aux: float
    l0: float
    fired: Int[np.ndarray, " latents"]


class TopKStep:
    """Mean squared error of `rebuilt' = TopK(ReLU(W x' + b)) D + d` and one Adam step, in place.

    `x' = (rows - centre) / scale`. The loss is the mean over rows and dimensions; AuxK adds
    `aux_coefficient * mean |aux codes . D - (x' - rebuilt')|^2 / mean |x' - rebuilt'|^2` over the `aux_k`
    largest pre-activations of dead latents (arXiv 2406.04093), the residual counting as a constant. With
    `unit_norm` the decoder's gradient loses its part along each atom, and atoms are put back to
    length 1. Gradients, weights and moments are float32 (or float64: that of the weights given).

    `products="bfloat16"` rounds the inputs, residuals, encoder and decoder to bfloat16 where they enter a
    product and sums in float32; "exact" rounds nothing and is slow: it is there to be checked against.
    Given the weights, the batches and their order, the resulting bytes are the same for any number of threads.

    >>> import numpy as np
    >>> atoms = np.eye(4, dtype=np.float32)
    >>> step = TopKStep(Weights(encoder=atoms.copy(), decoder=atoms), StepSettings(k=1), threads=1, products="exact")
    >>> stats = step(np.array([[3, 1, 0, 0]], np.float32), learning_rate=1e-3)
    >>> stats.loss, stats.l0, stats.fired.tolist()
    (0.25, 1.0, [1, 0, 0, 0])
    """

    def __init__(
        self,
        weights: Weights,
        settings: StepSettings,
        *,
        centre: Float[np.ndarray, " width"] | None = None,
        scale: Float[np.ndarray, "*width"] | float = 1.0,
        threads: int | None = None,
        products: Products = "bfloat16",
    ) -> None:
        self.weights, self.settings = weights, settings
        self.latents, self.width = weights.encoder.shape
        self.dtype = weights.encoder.dtype
        self.packed = products == "bfloat16"
        check_fit(weights, settings, packed=self.packed)
        self.team = Team(threads or available_threads())
        self.centre = np.zeros(self.width, self.dtype) if centre is None else centre.astype(self.dtype)
        self.inverse_scale = (1.0 / np.broadcast_to(np.asarray(scale), (self.width,))).astype(self.dtype)
        self.steps = 0
        self.first = {name: np.zeros_like(array) for name, array in weights.named().items()}
        self.second = {name: np.zeros_like(array) for name, array in weights.named().items()}
        if self.packed:
            groups = tables.padded(self.latents) // LANES
            self._filters: Array = np.zeros((groups, tables.words_for(self.width), LANES), np.uint32)
            self._atoms = empty_table(self.latents, self.width, self.dtype, packed=True)
        else:
            self._filters, self._atoms = weights.encoder, weights.decoder
        self._work: dict[tuple[int, bool], Workspace] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the master weights anew: call this after changing them from outside."""
        tables.write_weights(self.weights.encoder, self.weights.decoder, self._filters, self._atoms)

    def state(self) -> dict[str, Array]:
        """Return copies of what a resumed run needs beside the weights: Adam's moments and the count of steps."""
        found: dict[str, Array] = {"step": np.array(self.steps, np.int64)}
        for name in self.first:
            found[f"{name}.exp_avg"] = self.first[name].copy()
            found[f"{name}.exp_avg_sq"] = self.second[name].copy()
        return found

    def restore(self, state: dict[str, Array]) -> None:
        """Continue from what `state` returned and from the weights as they are now."""
        own = self.state()
        for name, array in own.items():
            if name not in state or state[name].shape != array.shape:
                got = "nothing" if name not in state else f"shape {list(state[name].shape)}"
                raise DamagedArtifact(f"optimiser state {name!r} must have shape {list(array.shape)}, got {got}")
        self.steps = int(state["step"])
        for name in self.first:
            self.first[name][...] = state[f"{name}.exp_avg"]
            self.second[name][...] = state[f"{name}.exp_avg_sq"]
        self.refresh()

    def __call__(
        self,
        rows: Float[np.ndarray, "rows width"],
        *,
        learning_rate: float,
        dead: Bool[np.ndarray, " latents"] | None = None,
    ) -> StepStats:
        """Update the weights from one batch; `dead` marks the latents that AuxK is to revive.

        Raises `TrainingError` for rows of another width or type.
        """
        rows = self._checked(rows)
        with_aux = bool(self.settings.aux_coefficient and self.settings.aux_k and dead is not None and dead.any())
        work = self._workspace(len(rows), with_aux=with_aux)
        wanted = np.zeros(0, np.int16) if dead is None else -dead.astype(np.int16)
        self.team.run(lambda share, a, b: self._forward(rows, work, wanted, share, a, b), self._row_bounds(len(rows)))

        error = float(work.main.squares.sum(dtype=np.float64)) / rows.size
        floor = max(error, float(np.finfo(self.dtype).tiny))
        aux_error = float(work.aux.squares.sum(dtype=np.float64)) / rows.size / floor if with_aux else 0.0
        slopes = 2.0 / rows.size, 2.0 / rows.size * self.settings.aux_coefficient / floor
        offsets, fired = work.main.offsets()
        aux_offsets = work.aux.offsets()[0] if with_aux else np.zeros(0, np.int64)
        self.steps += 1
        numbers = self._numbers(learning_rate)
        bias_slope = np.empty(self.latents, self.dtype)
        self.team.run(
            lambda _, a, b: self._update(work, offsets, aux_offsets, slopes, bias_slope, numbers, a, b),
            _balanced(offsets, self.team.threads),
        )
        self._update_bias("encoder_bias", bias_slope, numbers)
        self._update_bias("decoder_bias", work.sums.sum(axis=0)[: self.width] * self.dtype.type(slopes[0]), numbers)
        return StepStats(error, aux_error, float(offsets[-1]) / len(rows), fired)

    def _forward(self, rows: Array, work: Workspace, wanted: Array, share: int, start: int, stop: int) -> None:
        """Choose and decode rows `start` to `stop`, and take the slope of every active code."""
        main, aux = work.main, work.aux
        encoder_bias, decoder_bias = self._bias("encoder_bias"), self._bias("decoder_bias")
        forward.normalise_rows(
            rows, self.centre, self.inverse_scale, decoder_bias, work.inputs, work.residuals, start, stop
        )
        forward.encode_rows(
            work.inputs,
            self._filters,
            encoder_bias,
            main.index,
            main.code,
            main.active,
            wanted,
            aux.index,
            aux.code,
            aux.active,
            start,
            stop,
        )
        for entries in (main, aux) if aux.most else (main,):
            forward.rebuild_rows(
                entries.index,
                entries.code,
                entries.slope,
                entries.active,
                entries.counts[share],
                entries.table,
                entries.squares,
                self._atoms,
                work.residuals,
                work.sums if entries is main else work.sums[:0],
                forward.sum_block(len(rows)),
                start,
                stop,
            )

    def _update(
        self,
        work: Workspace,
        offsets: Array,
        aux_offsets: Array,
        slopes: tuple[float, float],
        bias_slope: Array,
        numbers: Array,
        start: int,
        stop: int,
    ) -> None:
        """Order the entries of latents `start` to `stop` by latent, and step their weights."""
        main, aux, weights = work.main, work.aux, self.weights
        ordered = [(main, offsets, slopes[0])] + ([(aux, aux_offsets, slopes[1])] if len(aux_offsets) else [])
        for entries, ends, slope in ordered:
            update.order_by_latent(
                entries.index,
                entries.code,
                entries.slope,
                entries.active,
                self.dtype.type(slope),
                ends,
                entries.rows_of,
                entries.code_of,
                entries.slope_of,
                start,
                stop,
            )
        update.update_latents(
            weights.encoder,
            self.first["encoder"],
            self.second["encoder"],
            weights.decoder,
            self.first["decoder"],
            self.second["decoder"],
            self._filters,
            self._atoms,
            work.inputs,
            main.table,
            offsets,
            main.rows_of,
            main.code_of,
            main.slope_of,
            aux.table,
            aux_offsets,
            aux.rows_of,
            aux.code_of,
            aux.slope_of,
            bias_slope,
            numbers,
            self.settings.unit_norm,
            start,
            stop,
        )

    def _update_bias(self, name: str, gradient: Array, numbers: Array) -> None:
        bias = self.weights.named().get(name)
        if bias is not None:
            nothing, one = self.dtype.type(0), self.dtype.type(1)
            adam.adam(bias, self.first[name], self.second[name], gradient, nothing, numbers, one)

    def _bias(self, name: str) -> Array:
        bias = self.weights.named().get(name)
        return np.zeros(self.latents if name == "encoder_bias" else self.width, self.dtype) if bias is None else bias

    def _numbers(self, learning_rate: float) -> Array:
        settings = self.settings
        unbias = 1.0 / np.sqrt(1.0 - settings.beta2**self.steps)
        rate = learning_rate / (1.0 - settings.beta1**self.steps)
        decay = 1.0 - learning_rate * settings.encoder_decay
        betas = settings.beta1, 1.0 - settings.beta1, settings.beta2, 1.0 - settings.beta2
        return np.array([rate, *betas, unbias, settings.epsilon, decay], self.dtype)

    def _workspace(self, rows: int, *, with_aux: bool) -> Workspace:
        key = rows, with_aux
        if key not in self._work:
            aux_k = min(self.settings.aux_k, self.latents) if with_aux else 0
            shape = Shape(rows, self.settings.k, aux_k, self.width, self.latents, self.team.threads)
            self._work = {key: Workspace.empty(shape, self.dtype, packed=self.packed)}
        return self._work[key]

    def _row_bounds(self, rows: int) -> list[int]:
        """Share out rows in whole sum blocks, so that column sums do not depend on the number of threads."""
        block, threads = forward.sum_block(rows), self.team.threads
        blocks = -(-rows // block)
        return [min(rows, blocks * i // threads * block) for i in range(threads + 1)]

    def _checked(self, rows: Array) -> Array:
        if rows.ndim != 2 or rows.shape[1] != self.width or not len(rows):
            raise TrainingError(f"a batch must be [rows, {self.width}] with at least one row, got {list(rows.shape)}")
        return np.ascontiguousarray(rows, self.dtype)


def _balanced(offsets: Array, threads: int) -> list[int]:
    """Share out latents by cost, in whole groups of lanes, so that no two threads write to one cache line."""
    cost = offsets + LATENT_COST * np.arange(len(offsets))
    cuts = np.searchsorted(cost, cost[-1] * np.arange(1, threads) / threads)
    latents = len(offsets) - 1
    return [0, *(min(latents, int(cut) // LANES * LANES) for cut in cuts), latents]
