"""Training of one SAE: `fit` in one call, or a run that callers step, save and resume."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from otoscope.errors import TrainingError
from otoscope.hardware import find_device, one_thread
from otoscope.sae import validation
from otoscope.sae.config import PRESETS, TrainConfig
from otoscope.sae.data import RowsLike, RowSource, Shuffle, as_rows, describe_row, pair_with_neighbours, row_remedy
from otoscope.sae.initialise import initialise, starts_at_axes
from otoscope.sae.kernel_step import pick_stepper
from otoscope.sae.losses import level_budgets
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.optimiser import Losses, Stepper, StepperFactory
from otoscope.sae.plan import BEYOND_K, Plan, ResolvedConfig, require_free_memory, resolve
from otoscope.sae.sparsifiers.base import Sparsifier
from otoscope.sae.statistics import RowStatistics, compute_statistics, require_all_finite
from otoscope.sae.validation import Validation, calibrate, validate


class TrainResult(NamedTuple):
    """Result of a training run: the best model, the validation points, and the numbers for its card.

    `sae` is the state with the lowest error on validation rows among those within the budget of active latents, on
    the CPU and as `load_sae` returns it: frozen (no parameter requires a gradient) and in eval mode. `history` has one
    mapping per validation: `step`, `epoch`, the losses of that step's batch, and the measures `valid_*`. `config` is
    the training configuration. `summary` describes the whole training:

    - `steps` taken of `planned_steps`, the `best_step` of `sae`, `epochs`, `batch` (rows per step);
    - `stepper` and `device`, the peak `learning_rate`;
    - `train_rows`, `valid_rows`, `constant_dimensions` (number), `largest_variance_share` (of one dimension, 0 to 1),
      `scaling` (divisor of the rows);
    - `warnings` for readers of results, one line each: outlier and constant dimensions, fewer training rows than
      latents, a single validation row, many dead or too many active latents, divergence, a start that no step improved
      on (`best_step` 0) or that training hardly changed;
    - `start` ("principal axes" or "initial atoms"), and `unchanged_share`, the share of latents active on validation
      rows whose atom has a cosine of at least 0.9 with its start; None for presets that hold atoms there;
    - `restart_steps`, after which training diverged and continued from the best state at half the learning rate;
    - `budgets`: numbers of largest latents per row that each reconstructed alone in the last steps;
    - `dead_window_rows`: a latent that is silent for this many training rows counts as dead in training;
    - `mean_atom_cosine`, the mean absolute cosine of two different atoms (see `validation.mean_atom_cosine`);
    - measures of `sae` on the validation rows: `valid_mse` (per value, in the rows' units squared), `valid_inner_mse`
      (after scaling), `valid_explained_variance` (1 is perfect, 0 the training mean; negative is worse),
      `valid_standardised_explained_variance` (the same with equal weight for every dimension), `valid_l0` (active
      latents per row), `valid_dead_fraction` (share of latents that no validation row activates).
    """

    sae: SparseAutoencoder
    history: list[dict[str, float]]
    summary: dict[str, Any]
    config: TrainConfig

    def __repr__(self) -> str:
        return "\n".join([f"TrainResult({self.sae!r})", *(f"  {name}: {value}" for name, value in self._lines())])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self._lines())
        return f"<table><caption>{escape(repr(self.sae))}</caption>{rows}</table>"

    def _lines(self) -> list[tuple[str, str]]:
        names = [name for name, preset in PRESETS.items() if preset == self.config]
        summary = self.summary
        return [
            ("preset", names[0] if names else "custom"),
            ("rows", f"{summary['train_rows']:,} training, {summary['valid_rows']:,} validation"),
            ("steps", f"{summary['steps']:,} of {summary['planned_steps']:,}, best at {summary['best_step']:,}"),
            ("explained variance", f"{summary['valid_explained_variance']:.3f} on validation rows"),
            ("active latents", f"{summary['valid_l0']:.1f} per validation row"),
            ("dead latents", f"{100 * summary['valid_dead_fraction']:.1f} %"),
            *(("warning", line) for line in summary["warnings"]),
        ]


UNRANKED = math.inf, math.inf
"""Rank of a run without a validated state."""

DIVERGED = 2.0
"""Training has diverged if the errors on both training and validation rows are this many times the lowest so far.

Memorising raises the validation error alone."""
MAX_RESTARTS = 3
"""Restarts per run; at an eighth of the learning rate another cause is likely."""


class TrainStep(NamedTuple):
    """Record of one step: losses before the update, and validation where one was due.

    `steps` is the planned number, or the number of this step if it was the last.
    """

    step: int
    steps: int
    epoch: float
    rows: int
    learning_rate: float
    losses: Losses
    valid: Validation | None


class TrainBatch(NamedTuple):
    """Rows of one step and their indices."""

    indices: Int64[np.ndarray, " rows"]
    rows: Float[np.ndarray, "rows width"]


@dataclass
class TrainingRun:
    """A run that can be stepped, saved and resumed: model, data, plan and mutable state."""

    sae: SparseAutoencoder
    rows: RowSource
    valid_rows: RowSource
    statistics: RowStatistics
    config: TrainConfig
    plan: Plan
    stepper: Stepper
    seed: int
    start_atoms: Float[Tensor, "latents width"]
    """Atoms after the initialisation, on the CPU."""
    step: int = 0
    best_rank: tuple[float, float] = UNRANKED
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    budgets: list[int] | None = None
    """Numbers of largest latents that must each reconstruct alone; None: those of `k_shares`."""
    restart_steps: list[int] = field(default_factory=list[int])
    """Steps after which training diverged and continued from the best state; each halves the learning rate."""
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])

    @property
    def done(self) -> bool:
        """Whether all steps are taken or training has stopped early."""
        plan = self.plan
        waited = self.step - self.best_step if plan.validates_after(self.step) else 0
        return self.step >= plan.steps or (plan.patience_steps is not None and waited >= plan.patience_steps)


def fit(
    rows: RowsLike,
    valid_rows: RowsLike,
    config: TrainConfig | str = "default",
    *,
    latents: int,
    k: int | None = None,
    sparsity: float | None = None,
    sparsifier: Sparsifier | None = None,
    seed: int = 0,
    statistics: RowStatistics | None = None,
    stepper: StepperFactory = pick_stepper,
    device: str = "cpu",
) -> TrainResult:
    """Train one SAE and return its best state on the validation rows, frozen and in eval mode.

    Args:
        rows: training rows: an array or tensor `[rows, width]` in any unit (any leading axes count as
            rows), or a `RowSource` that need not fit in memory.
        valid_rows: rows to choose the best state by, of groups (speakers, singers) that are not in `rows`.
        config: name of a preset, or a `TrainConfig`.
        latents: number of latents.
        k: number of active latents per row; or instead
        sparsity: share of inactive latents, which gives `k = int((1 - sparsity) * latents)`.
        sparsifier: instance to use instead of the sparsifier of `config`, with its own k; a copy of it is trained.
        seed: seed of initialisation and shuffling; equal seeds give equal SAEs on the same machine.
        statistics: `compute_statistics(rows)`, to read the rows once for many SAEs.
        stepper: implementation of the training step; the fastest one that supports the settings by default.
        device: device to train on, such as "cuda"; the result is on the CPU.

    Raises `ConfigError` for settings and for a missing device, `TrainingError` for rows.

    >>> import numpy as np
    >>> draw = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    >>> result = fit(draw[:500], draw[500:], latents=16, k=2)
    >>> result.sae.encode(draw[500:]).shape
    (100, 16)
    >>> result.summary["train_rows"], result.summary["valid_l0"] <= 2, len(result.history) > 0
    (500, True, True)
    """
    rows, valid_rows = as_rows(rows), as_rows(valid_rows)
    resolved = resolve(
        rows, valid_rows, config, latents=latents, k=k, sparsity=sparsity, sparsifier=sparsifier, seed=seed
    )
    if find_device(device).type == "cpu":
        require_free_memory(rows, resolved)
    require_all_finite(valid_rows, name="validation")
    run = start_run(rows, valid_rows, resolved, statistics=statistics, stepper=stepper, device=device)
    for _ in train_steps(run):
        pass
    return finish(run)


def begin(
    rows: RowsLike,
    valid_rows: RowsLike,
    config: TrainConfig | str = "default",
    *,
    latents: int,
    k: int | None = None,
    sparsity: float | None = None,
    sparsifier: Sparsifier | None = None,
    seed: int = 0,
    statistics: RowStatistics | None = None,
    stepper: StepperFactory = pick_stepper,
    device: str = "cpu",
) -> TrainingRun:
    """Validate settings and rows, and return a run at step 0; see `fit` for the arguments."""
    rows, valid_rows = as_rows(rows), as_rows(valid_rows)
    resolved = resolve(
        rows, valid_rows, config, latents=latents, k=k, sparsity=sparsity, sparsifier=sparsifier, seed=seed
    )
    return start_run(rows, valid_rows, resolved, statistics=statistics, stepper=stepper, device=device)


def start_run(
    rows: RowSource,
    valid_rows: RowSource,
    resolved: ResolvedConfig,
    *,
    statistics: RowStatistics | None = None,
    stepper: StepperFactory = pick_stepper,
    device: str = "cpu",
) -> TrainingRun:
    """Return a run of resolved settings at step 0. Initialisation always runs on the CPU."""
    target = find_device(device)
    config, plan = resolved.config, resolved.plan
    statistics = statistics or compute_statistics(rows)
    sae = SparseAutoencoder(
        rows.width,
        resolved.latents,
        resolved.new_sparsifier(),
        encoder_bias=config.encoder_bias,
        decoder_bias=config.decoder_bias,
        unit_norm=config.unit_norm,
        init=config.init,
        archetypes=resolved.archetypes,
        seed=resolved.seed,
    )
    sae.set_scaling(*statistics.scaling(config.scaling, centred=config.centred))
    initialise(sae, config, rows, plan.shuffle, statistics)
    start_atoms = sae.decoder.detach().clone()
    sae.to(target)
    best_rank, best = UNRANKED, dict[str, Tensor]()
    if starts_at_axes(
        sae, config, rows.height
    ):  # with very few rows no step may improve on the start for unseen groups
        calibrate(sae, valid_rows)
        best_rank, best = _rank(validate(sae, valid_rows, statistics), sae.sparsifier.k), _snapshot(sae)
    steps = stepper(sae, config, dead_window_rows=plan.dead_window_rows)
    return TrainingRun(
        sae, rows, valid_rows, statistics, config, plan, steps, resolved.seed, start_atoms, best_rank=best_rank,
        best=best,
    )  # fmt: skip


def train_steps(run: TrainingRun) -> Iterator[TrainStep]:
    """Take all remaining steps, yielding a record after each; the run may be saved between any two."""
    while not run.done:
        yield advance(run, next_batch(run))


def next_batch(run: TrainingRun) -> TrainBatch:
    """Read the rows of the run's next step."""
    return read_batch(run.rows, run.plan.shuffle, run.step, paired=bool(run.config.temporal))


def read_batch(rows: RowSource, shuffle: Shuffle, step: int, *, paired: bool) -> TrainBatch:
    """Read the rows of a step; with `paired`, followed by the neighbour of each."""
    indices = shuffle.indices(step)
    if paired:
        indices = pair_with_neighbours(rows, indices)
    return TrainBatch(indices, rows.take(indices))


def advance(run: TrainingRun, batch: TrainBatch) -> TrainStep:
    """Take one step on its batch, and validate if validation is due."""
    plan, k = run.plan, run.sae.sparsifier.k
    learning_rate = plan.learning_rate(run.step) * 0.5 ** len(run.restart_steps)
    with one_thread():  # further threads would wait for more work in a loop, on the cores that the stepper needs
        inner = run.sae.normalise(torch.from_numpy(batch.rows).to(run.sae.device))
    losses = run.stepper.step(inner, learning_rate=learning_rate)
    if not np.isfinite(losses.reconstruction):
        raise _divergence_error(run, batch)
    run.step += 1
    if run.step in plan.budget_steps:
        choose_budgets(run)
    epoch = run.step / plan.shuffle.steps_per_epoch
    valid = None
    if plan.validates_after(run.step):
        calibrate(run.sae, run.valid_rows)
        valid = validate(run.sae, run.valid_rows, run.statistics)
        run.history.append({"step": run.step, "epoch": epoch, **losses._asdict(), **_prefixed(valid)})
        if (rank := _rank(valid, k)) < run.best_rank:
            run.best_rank, run.best_step = rank, run.step
            run.best = _snapshot(run.sae)
        elif _has_diverged(run, rank):
            run.restart_steps.append(run.step)
            run.sae.load_state_dict(run.best)
            run.stepper.restart()
    rows_seen = min(run.step * plan.shuffle.batch, round(epoch * run.rows.height))
    return TrainStep(run.step, run.step if run.done else plan.steps, epoch, rows_seen, learning_rate, losses, valid)


BUDGET_GROWTH = 3.0
"""Smaller budget over the sufficient one, per share of the steps taken: 0.75 after a quarter, 1.9 after five eighths.

At first, a tight budget favours features over other bases; later it leaves room for rows with more active features.
"""


def choose_budgets(run: TrainingRun) -> None:
    """Let k and another number of latents each reconstruct alone: fewer if they suffice on validation rows, else 2k."""
    config, share = run.config, run.config.sufficient_share
    if share is None or len(level_budgets(run.sae, config.prefixes, config.k_shares)) < 2:
        return
    k, sufficient = run.sae.sparsifier.k, validation.sufficient_budget(run.sae, run.valid_rows, share)
    fewer = math.ceil(BUDGET_GROWTH * run.step / run.plan.steps * sufficient)
    run.budgets = [fewer, k] if fewer < k else sorted({k, min(BEYOND_K * k, run.sae.latents)})
    run.stepper.use_budgets(run.budgets)


def finish(run: TrainingRun) -> TrainResult:
    """Return the best model of a completed run, on the CPU and as `load_sae` would return it."""
    if not run.done:
        raise TrainingError(f"only {run.step} of {run.plan.steps} steps are done; run `train_steps` to its end")
    if not run.best:
        raise TrainingError("validation loss was never finite; lower the learning rate")
    run.sae.load_state_dict(run.best)
    run.sae.eval()
    valid, start, unchanged = validate(run.sae, run.valid_rows, run.statistics), _start(run), _unchanged(run)
    summary: dict[str, Any] = {
        "steps": run.step,
        "planned_steps": run.plan.steps,
        "best_step": run.best_step,
        "stepper": type(run.stepper).__name__,
        "device": str(run.sae.device),
        "epochs": run.step / run.plan.shuffle.steps_per_epoch,
        "batch": run.plan.shuffle.batch,
        "train_rows": run.rows.height,
        "valid_rows": run.valid_rows.height,
        "constant_dimensions": run.statistics.n_constant,
        "largest_variance_share": run.statistics.largest_variance_share,
        "scaling": run.statistics.resolve_scaling(run.config.scaling),
        "warnings": _warnings(run, valid, start, unchanged),
        "start": start,
        "unchanged_share": unchanged,
        "restart_steps": run.restart_steps,
        "budgets": run.budgets or level_budgets(run.sae, run.config.prefixes, run.config.k_shares),
        "learning_rate": run.plan.peak_rate,
        "dead_window_rows": run.plan.dead_window_rows,
        "mean_atom_cosine": validation.mean_atom_cosine(run.sae.decoder),
        **_prefixed(valid),
    }
    return TrainResult(run.sae.cpu().requires_grad_(False), run.history, summary, run.config)


def _start(run: TrainingRun) -> str:
    at_axes = starts_at_axes(run.sae, run.config, run.rows.height)
    return validation.AXES_START if at_axes else validation.OTHER_START


def _unchanged(run: TrainingRun) -> float | None:
    """Return the share of active latents whose atom is still its start; None if the settings hold atoms there."""
    if run.config.frozen_decoder or run.config.min_atom_cosine is not None:
        return None
    return validation.unchanged_share(run.sae, run.start_atoms, run.valid_rows)


def _warnings(run: TrainingRun, valid: Validation, start: str, unchanged: float | None) -> list[str]:
    latents, height = run.sae.latents, run.rows.height
    warnings = run.statistics.warnings(run.config.scaling)
    warnings += validation.data_warnings(height, run.valid_rows.height, latents=latents)
    valid_height, k = run.valid_rows.height, run.sae.sparsifier.k
    warnings += validation.sparsity_warnings(valid, height=valid_height, latents=latents, k=k)
    if run.restart_steps:
        warnings.append(
            f"training diverged at step {run.restart_steps[0]} of {run.plan.steps} and continued from the best state, "
            f"finally at {0.5 ** len(run.restart_steps):g} times the learning rate; a lower base_rate avoids this"
        )
    return warnings + validation.start_warnings(
        run.sae.sparsifier, start=start, best_step=run.best_step, steps=run.step, l0=run.history[-1]["valid_l0"],
        unchanged=unchanged,
    )  # fmt: skip


def _rank(valid: Validation, k: int) -> tuple[float, float]:
    """Rank states by the excess over the L0 budget, then by error: denser codes reconstruct better at no merit."""
    return max(valid.l0 / (validation.L0_TOLERANCE * k), 1.0), valid.inner_mse


def _has_diverged(run: TrainingRun, rank: tuple[float, float]) -> bool:
    """Return whether the newest validation shows errors far above those of states with equally dense codes."""
    training = [row["reconstruction"] for row in run.history]
    return (
        len(run.restart_steps) < MAX_RESTARTS
        and not run.done
        and rank[0] == run.best_rank[0]
        and rank[1] > DIVERGED * run.best_rank[1]
        and training[-1] > DIVERGED * min(training)
    )


def _snapshot(sae: SparseAutoencoder) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in sae.state_dict().items()}


def _prefixed(valid: Validation) -> dict[str, float]:
    return {f"valid_{name}": value for name, value in valid._asdict().items()}


def _divergence_error(run: TrainingRun, batch: TrainBatch) -> TrainingError:
    bad = ~np.isfinite(batch.rows).all(axis=1)
    if bad.any():
        row = int(batch.indices[int(bad.argmax())])
        row_name = describe_row(run.rows, row, name="training")
        return TrainingError(f"{row_name} holds NaN or Inf; {row_remedy(run.rows, row)}")
    return TrainingError(
        f"the loss is not finite at step {run.step} with learning rate {run.plan.learning_rate(run.step):g}; lower it"
    )
