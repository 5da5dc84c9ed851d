"""One optimisation step of a TopK dictionary, on plain arrays that are updated in place."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.errors import DamagedArtifact, TrainingError
from otoscope.sae._kernels import adam, forward, update
from otoscope.sae._kernels.buffers import (
    Parameter,
    StepSettings,
    Tables,
    Team,
    Weights,
    Workspace,
    available_threads,
    require_compatible_weights,
    sum_block,
)
from otoscope.sae._kernels.llvm import LANES, Array
from otoscope.sae._kernels.tables import write_weights

LATENT_COST = 20
"""Cost of a latent without active rows, in active rows: its weights and moments are read and written in any case."""


class StepStats(NamedTuple):
    """Losses of one step before the update, and the number of rows in which each latent fired."""

    loss: float
    aux: float
    l0: float
    fired: Int[np.ndarray, " latents"]


class TopKStep:
    """Mean squared error of `rebuilt' = TopK(ReLU(W x' + b)) D + d` and one Adam step, in place.

    `x' = (rows - centre) / scale`. The loss is the mean over rows and dimensions; AuxK adds
    `aux_coefficient * mean |aux codes . D - (x' - rebuilt')|^2 / mean |x' - rebuilt'|^2` over the `aux_k` largest
    pre-activations of dead latents (arXiv 2406.04093); the residual is a constant in it. With `unit_norm` the
    decoder's gradient loses its component along each atom, and atoms are scaled to length 1. Gradients, weights and
    moments are float32. Inputs, residuals, encoder and decoder are rounded to bfloat16 in products, which are summed
    in float32. The resulting bytes are the same for any number of threads.

    >>> import numpy as np
    >>> atoms = np.eye(4, dtype=np.float32)
    >>> step = TopKStep(Weights(encoder=atoms.copy(), decoder=atoms), StepSettings(k=1), threads=1)
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
    ) -> None:
        require_compatible_weights(weights, settings)
        self.weights, self.settings = weights, settings
        self.latents, self.width = weights.encoder.shape
        self.team = Team(threads or available_threads())
        self.centre = np.zeros(self.width, np.float32) if centre is None else centre.astype(np.float32)
        self.inverse_scale = (1.0 / np.broadcast_to(np.asarray(scale), (self.width,))).astype(np.float32)
        self.steps = 0
        self.parameters = {
            name: Parameter(array, np.zeros_like(array), np.zeros_like(array))
            for name, array in weights.named().items()
        }
        zeros = {"encoder_bias": np.zeros(self.latents, np.float32), "decoder_bias": np.zeros(self.width, np.float32)}
        self._biases: dict[str, Array] = {name: weights.named().get(name, zero) for name, zero in zeros.items()}
        self._tables = Tables.empty(self.latents, self.width)
        self._work: dict[tuple[int, bool], Workspace] = {}
        self.refresh()

    def refresh(self) -> None:
        """Rewrite the tables; call this after the weights were changed from outside."""
        write_weights(self.weights.encoder, self.weights.decoder, *self._tables)

    def state(self) -> dict[str, Array]:
        """Return copies of Adam's moments and the number of steps, which a resumed run needs beside the weights."""
        state: dict[str, Array] = {"step": np.array(self.steps, np.int64)}
        for name, parameter in self.parameters.items():
            state[f"{name}.exp_avg"] = parameter.first.copy()
            state[f"{name}.exp_avg_sq"] = parameter.second.copy()
        return state

    def restore(self, state: dict[str, Array]) -> None:
        """Resume from a result of `state` and from the present weights."""
        for name, array in self.state().items():
            if name not in state or state[name].shape != array.shape:
                got = "nothing" if name not in state else f"shape {list(state[name].shape)}"
                raise DamagedArtifact(f"optimiser state {name!r} must have shape {list(array.shape)}, got {got}")
        self.steps = int(state["step"])
        for name, parameter in self.parameters.items():
            parameter.first[...] = state[f"{name}.exp_avg"]
            parameter.second[...] = state[f"{name}.exp_avg_sq"]
        self.refresh()

    def __call__(
        self,
        rows: Float[np.ndarray, "rows width"],
        *,
        learning_rate: float,
        dead: Bool[np.ndarray, " latents"] | None = None,
    ) -> StepStats:
        """Update the weights from one batch; `dead` marks the latents that AuxK revives.

        Raises `TrainingError` for rows of another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width or not len(rows):
            raise TrainingError(f"a batch must be [rows, {self.width}] with at least one row, got {list(rows.shape)}")
        rows = np.ascontiguousarray(rows, np.float32)
        with_aux = bool(self.settings.aux_coefficient and self.settings.aux_k and dead is not None and dead.any())
        work = self._workspace(len(rows), with_aux=with_aux)
        mask = np.zeros(0, np.int16) if dead is None else -dead.astype(np.int16)
        self.team.run(lambda share, a, b: self._forward(rows, work, mask, share, a, b), self._row_bounds(len(rows)))

        error = float(work.main.squares.sum(dtype=np.float64)) / rows.size
        floor = max(error, float(np.finfo(np.float32).tiny))
        aux_error = float(work.aux.squares.sum(dtype=np.float64)) / rows.size / floor if with_aux else 0.0
        slopes = 2.0 / rows.size, 2.0 / rows.size * self.settings.aux_coefficient / floor
        offsets = work.main.offsets()
        aux_offsets = work.aux.offsets() if with_aux else np.zeros(0, np.int64)
        self.steps += 1
        numbers = self._adam_numbers(learning_rate)
        bias_gradient = np.empty(self.latents, np.float32)

        def update_share(_: int, start: int, stop: int) -> None:
            update.order_by_latent(work.main, np.float32(slopes[0]), offsets, start, stop)
            if with_aux:
                update.order_by_latent(work.aux, np.float32(slopes[1]), aux_offsets, start, stop)
            update.update_latents(
                self.parameters["encoder"],
                self.parameters["decoder"],
                self._tables,
                work,
                offsets,
                aux_offsets,
                bias_gradient,
                numbers,
                self.settings.unit_norm,
                start,
                stop,
            )

        self.team.run(update_share, _balanced(offsets, self.team.threads))
        decoder_bias_gradient = work.sums.sum(axis=0)[: self.width] * np.float32(slopes[0])
        for name, gradient in (("encoder_bias", bias_gradient), ("decoder_bias", decoder_bias_gradient)):
            if name in self.parameters:
                adam.adam(self.parameters[name], gradient, numbers)
        return StepStats(error, aux_error, float(offsets[-1]) / len(rows), np.diff(offsets))

    def _forward(self, rows: Array, work: Workspace, mask: Array, share: int, start: int, stop: int) -> None:
        """Choose and decode rows `start` to `stop`, and compute the slope of every active code."""
        atoms, residuals, block = self._tables.atoms, work.residuals, sum_block(len(rows))
        decoder_bias = self._biases["decoder_bias"]
        forward.normalise_rows(rows, self.centre, self.inverse_scale, decoder_bias, work, start, stop)
        forward.encode_rows(work, self._tables.filters, self._biases["encoder_bias"], mask, start, stop)
        forward.rebuild_rows(work.main, atoms, residuals, work.sums, block, share, start, stop)
        if work.aux.latent.shape[1]:
            forward.rebuild_rows(work.aux, atoms, residuals, work.sums[:0], block, share, start, stop)

    def _adam_numbers(self, learning_rate: float) -> Array:
        settings = self.settings
        unbias = 1.0 / np.sqrt(1.0 - settings.beta2**self.steps)
        rate = learning_rate / (1.0 - settings.beta1**self.steps)
        decay = 1.0 - learning_rate * settings.encoder_decay
        betas = settings.beta1, 1.0 - settings.beta1, settings.beta2, 1.0 - settings.beta2
        return np.array([rate, *betas, unbias, settings.epsilon, decay], np.float32)

    def _workspace(self, rows: int, *, with_aux: bool) -> Workspace:
        key = rows, with_aux
        if key not in self._work:
            aux_k = min(self.settings.aux_k, self.latents) if with_aux else 0
            shape = {"width": self.width, "latents": self.latents, "threads": self.team.threads}
            self._work = {key: Workspace.empty(rows, k=self.settings.k, aux_k=aux_k, **shape)}
        return self._work[key]

    def _row_bounds(self, rows: int) -> list[int]:
        """Divide rows into whole sum blocks, so that column sums do not depend on the number of threads."""
        block, threads = sum_block(rows), self.team.threads
        blocks = -(-rows // block)
        return [min(rows, blocks * i // threads * block) for i in range(threads + 1)]


def _balanced(offsets: Array, threads: int) -> list[int]:
    """Divide latents by cost into whole groups of lanes, so that no two threads write to one cache line."""
    cost = offsets + LATENT_COST * np.arange(len(offsets))
    cuts = np.searchsorted(cost, cost[-1] * np.arange(1, threads) / threads)
    latents = len(offsets) - 1
    return [0, *(min(latents, int(cut) // LANES * LANES) for cut in cuts), latents]
