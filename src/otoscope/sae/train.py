"""The one training loop: a generator of steps; callers log and save.

What a run ends in.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from otoscope.errors import TrainingError
from otoscope.sae import validation
from otoscope.sae.config import TrainConfig
from otoscope.sae.data import Order, Rows, RowsLike, as_rows, describe, pairs, remedy
from otoscope.sae.initialise import start
from otoscope.sae.kernel_optimiser import pick_engine
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.optimiser import Engine, EngineFactory, Losses
from otoscope.sae.plan import Plan, draft
from otoscope.sae.resources import find_device
from otoscope.sae.sparsifiers.base import whole
from otoscope.sae.statistics import Moments, measure
from otoscope.sae.validation import Validation, calibrate, validate


class Trained(NamedTuple):
    """The best model, the validation points, and the numbers for its card.

    `sae` is the state with the least error on validation rows of those within the budget of active latents, on the CPU
    and as `load_sae` returns it: frozen (no parameter requires a gradient) and in eval mode. `history` holds a
    mapping for each validation: `step`, `epoch`, the losses of that step's batch, and the measures `valid_*`.
    `summary` tells of the whole training:

    - `steps` taken of `planned_steps`, and the `best_step` that `sae` is from; `epochs`, `batch` (rows of a step);
    - `engine` and `device` that trained, `learning_rate` at its peak;
    - `train_rows`, `valid_rows`; `constant_dimensions` (that do not vary), `largest_variance_share` (of one dimension,
      0 to 1), `scaling` (what the rows were divided by);
    - `warnings`, what a reader of results should know, a line each: outlier and constant dimensions, fewer training
      rows than latents, a single validation row, a start that no step improved on where one should (`best_step` 0);
    - `dead_window_rows`: a latent that fires for none of so many training rows in a row counts as dead in training;
    - of `sae` on the validation rows: `valid_mse` (mean square error of a value, in the rows' own units squared),
      `valid_inner_mse` (after scaling), `valid_explained_variance` (1 is all, 0 the training mean; below 0 is worse),
      `valid_standardised_explained_variance` (the same, every dimension counting alike), `valid_l0` (active latents a
      row), `valid_dead_fraction` (share of latents that no validation row activates).
    """

    sae: SparseAutoencoder
    history: list[dict[str, float]]
    summary: dict[str, Any]


UNSEEN = math.inf, math.inf
"""The rank of no state at all."""


class Step(NamedTuple):
    """One step done: what it saw before updating, and validation where one was due.

    `steps` is how many are planned, or the number of this one where it was the last.
    """

    step: int
    steps: int
    epoch: float
    rows: int
    learning_rate: float
    losses: Losses
    valid: Validation | None


class Batch(NamedTuple):
    """The rows of one step, and which rows of all they are."""

    indices: Int64[np.ndarray, " rows"]
    rows: Float[np.ndarray, "rows width"]


@dataclass
class Training:
    """A run that can be stepped, saved and continued: model, data, plan, and everything that changes."""

    sae: SparseAutoencoder
    rows: Rows
    valid_rows: Rows
    moments: Moments
    config: TrainConfig
    plan: Plan
    engine: Engine
    seed: int
    step: int = 0
    best_rank: tuple[float, float] = UNSEEN
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or validation has brought nothing better for too long."""
        plan = self.plan
        waited = self.step - self.best_step if plan.validates_after(self.step) else 0
        return self.step >= plan.steps or (plan.patience_steps is not None and waited >= plan.patience_steps)


def begin(
    rows: RowsLike,
    valid_rows: RowsLike,
    preset: TrainConfig | str = "default",
    *,
    latents: int,
    k: int | None = None,
    sparsity: float | None = None,
    seed: int = 0,
    moments: Moments | None = None,
    engine: EngineFactory = pick_engine,
    device: str = "cpu",
) -> Training:
    """Check everything and make a run at step 0.

    Give k or sparsity. `moments` saves reading the training rows once more when many models are
    trained on them. The start is made on the CPU, whatever the device that trains. Raises `ConfigError` for settings
    and a device that is not there, `TrainingError` for rows.
    """
    rows, valid_rows = as_rows(rows), as_rows(valid_rows)
    latents, seed = whole(latents, name="latents"), whole(seed, name="seed")
    found = find_device(device)
    made = draft(rows, valid_rows, preset, latents=latents, k=k, sparsity=sparsity, seed=seed)
    config, sparsifier, plan = made
    moments = moments or measure(rows)
    sae = SparseAutoencoder(
        rows.width,
        latents,
        sparsifier,
        encoder_bias=config.encoder_bias,
        decoder_bias=config.decoder_bias,
        unit_norm=config.unit_norm,
        init=config.init,
        archetypes=made.archetypes,
        seed=seed,
    )
    sae.set_scaling(*moments.scaling(config.scaling, centred=config.centred))
    start(sae, config, rows, plan.order, moments)
    sae.to(found)
    best_rank, best = UNSEEN, dict[str, Tensor]()
    if config.init == "principal":  # from very few rows nothing may be learned that serves unseen groups better
        calibrate(sae, valid_rows)
        best_rank, best = _rank(validate(sae, valid_rows, moments), sparsifier.k), _state(sae)
    stepper = engine(sae, config, dead_window_rows=plan.dead_window_rows)
    return Training(sae, rows, valid_rows, moments, config, plan, stepper, seed, best_rank=best_rank, best=best)


def train(run: Training) -> Iterator[Step]:
    """Take every step that is left, yielding a record after each; the run may be saved between any two."""
    while not run.done:
        yield advance(run, next_batch(run))


def next_batch(run: Training) -> Batch:
    """Read the rows of the run's next step."""
    return read_batch(run.rows, run.plan.order, run.step, paired=bool(run.config.temporal))


def read_batch(rows: Rows, order: Order, step: int, *, paired: bool) -> Batch:
    """Read the rows of a step; `paired`: with the neighbour of each behind them."""
    indices = order.indices(step)
    if paired:
        indices = pairs(rows, indices)
    return Batch(indices, rows.take(indices))


def advance(run: Training, batch: Batch) -> Step:
    """Take one step on the batch that is due, and validate where that is due."""
    plan, k = run.plan, run.sae.sparsifier.k
    learning_rate = plan.learning_rate(run.step)
    inner = run.sae.normalise(torch.from_numpy(batch.rows).to(run.sae.device))
    losses = run.engine.step(inner, learning_rate=learning_rate)
    if not np.isfinite(losses.reconstruction):
        raise _diverged(run, batch)
    run.step += 1
    epoch = run.step / plan.order.steps_per_epoch
    valid = None
    if plan.validates_after(run.step):
        calibrate(run.sae, run.valid_rows)
        valid = validate(run.sae, run.valid_rows, run.moments)
        run.history.append({"step": run.step, "epoch": epoch, **losses._asdict(), **_prefixed(valid)})
        if (rank := _rank(valid, k)) < run.best_rank:
            run.best_rank, run.best_step = rank, run.step
            run.best = _state(run.sae)
    rows_seen = min(run.step * plan.order.batch, round(epoch * run.rows.height))
    return Step(run.step, run.step if run.done else plan.steps, epoch, rows_seen, learning_rate, losses, valid)


def finish(run: Training) -> Trained:
    """Return the best model of a run whose steps are done, on the CPU and as `load_sae` would return it."""
    if not run.done:
        raise TrainingError(f"only {run.step} of {run.plan.steps} steps are done; run `train` to its end")
    if not run.best:
        raise TrainingError("no validation gave a finite error; lower the learning rate")
    run.sae.load_state_dict(run.best)
    run.sae.eval()
    valid = validate(run.sae, run.valid_rows, run.moments)
    summary: dict[str, Any] = {
        "steps": run.step,
        "planned_steps": run.plan.steps,
        "best_step": run.best_step,
        "engine": type(run.engine).__name__,
        "device": str(run.sae.device),
        "epochs": run.step / run.plan.order.steps_per_epoch,
        "batch": run.plan.order.batch,
        "train_rows": run.rows.height,
        "valid_rows": run.valid_rows.height,
        "constant_dimensions": run.moments.constant,
        "largest_variance_share": run.moments.largest_share,
        "scaling": run.moments.settle(run.config.scaling),
        "warnings": _warnings(run),
        "learning_rate": run.plan.peak_rate,
        "dead_window_rows": run.plan.dead_window_rows,
        **_prefixed(valid),
    }
    return Trained(run.sae.cpu().requires_grad_(False), run.history, summary)


def _warnings(run: Training) -> list[str]:
    latents, height = run.sae.latents, run.rows.height
    found = run.moments.warnings(run.config.scaling) + validation.of_rows(
        height, run.valid_rows.height, latents=latents
    )
    if run.best_step:
        return found
    l0 = run.history[-1]["valid_l0"]
    return found + validation.of_start(run.sae.sparsifier, height=height, latents=latents, steps=run.step, l0=l0)


def _rank(valid: Validation, k: int) -> tuple[float, float]:
    """Order states by how far they overspend the budget, then by error: a denser code rebuilds better for nothing."""
    return max(valid.l0 / (validation.OVERSPEND * k), 1.0), valid.inner_mse


def _state(sae: SparseAutoencoder) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in sae.state_dict().items()}


def _prefixed(valid: Validation) -> dict[str, float]:
    return {f"valid_{name}": value for name, value in valid._asdict().items()}


def _diverged(run: Training, batch: Batch) -> TrainingError:
    bad = ~np.isfinite(batch.rows).all(axis=1)
    if bad.any():
        row = int(batch.indices[int(bad.argmax())])
        row_name = describe(run.rows, row, name="training")
        return TrainingError(f"{row_name} holds NaN or Inf; {remedy(run.rows, row)}")
    return TrainingError(
        f"the loss is not finite at step {run.step} with learning rate {run.plan.learning_rate(run.step):g}; lower it"
    )
