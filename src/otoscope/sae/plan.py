"""What a recipe becomes for a given amount of data.

What a run will be, worked out before anything is read or made: here all that cannot be trained is refused.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from otoscope.errors import ConfigError, TrainingError
from otoscope.sae.config import TrainConfig, find_preset, refuse_pairs
from otoscope.sae.data import Order, Rows, neighbouring
from otoscope.sae.sparsifiers.base import Sparsifier, TopK, k_from_sparsity, whole
from otoscope.sae.sparsifiers.catalog import build_sparsifier
from otoscope.sae.validation import AT_ONCE

FREE_SHARE = 0.7
"""Share of the free memory that a bank may take when no budget is given."""
FLOAT = 4
COPIES = 7
GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """What a recipe comes to for so many rows and latents: steps, order, rates."""

    order: Order
    steps: int
    peak_rate: float
    warmup_steps: int
    decay_steps: int
    dead_window_rows: int
    validate_steps: int
    patience_steps: int | None

    @classmethod
    def derive(cls, config: TrainConfig, *, height: int, latents: int, k: int, seed: int) -> "Plan":
        """Work out a run over `height` rows."""
        if height < 2:
            raise TrainingError(f"{height} training row(s): a dictionary needs at least 2, better thousands")
        order = Order(height, batch_size(config, height), seed)
        epochs = config.epochs or min(max(config.target_rows / height, 1.0), config.max_epochs)
        steps = max(round(epochs * order.steps_per_epoch), 1)
        patient = config.patient_from is not None and height >= config.patient_from * latents
        return cls(
            order=order,
            steps=steps,
            peak_rate=config.learning_rate or config.base_rate / math.sqrt(latents / 2**14),
            warmup_steps=round(config.warmup * steps),
            decay_steps=round(config.decay * steps),
            dead_window_rows=dead_window(config, round(epochs * height), order, share=k / latents),
            validate_steps=min(order.steps_per_epoch, max(config.validate_rows // order.batch, 1)),
            patience_steps=None if config.patience is None or patient else math.ceil(config.patience * steps),
        )

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0: a ramp up, a plateau, a ramp down to 0."""
        rise = (step + 1) / (self.warmup_steps + 1)
        fall = (self.steps - step) / (self.decay_steps + 1)
        return self.peak_rate * min(1.0, rise, fall)

    def validates_after(self, step: int) -> bool:
        """Say whether validation follows once `step` steps are done: after every epoch, and after the last."""
        return step % self.validate_steps == 0 or step % self.order.steps_per_epoch == 0 or step == self.steps


def dead_window(config: TrainConfig, rows: int, order: Order, *, share: float) -> int:
    """Return how many rows a latent may be silent before it is dead, in a run over `rows` rows.

    `share` of the latents are active in a row.
    """
    if config.dead_window_rows:
        return config.dead_window_rows
    if config.dead_window_epochs:
        return max(round(config.dead_window_epochs * order.height), order.batch)
    window = min(order.height, round(rows / 20))
    if config.dead_window_firings:
        window = min(window, round(config.dead_window_firings / share))
    return max(window, order.batch)


def batch_size(config: TrainConfig, height: int) -> int:
    """Return the batch for so many rows.

    Few rows are shared out over `min_steps_per_epoch` batches, as long as each holds `min_batch` rows.

    >>> batch_size(TrainConfig(batch=1024, min_steps_per_epoch=8, min_batch=64), 700)
    88
    >>> batch_size(TrainConfig(batch=16), 970)
    16
    """
    wanted = min(config.batch, max(config.min_batch, -(-height // config.min_steps_per_epoch)))
    return min(wanted, height)


class Draft(NamedTuple):
    """A recipe, its sparsifier, and what both come to for the rows at hand."""

    config: TrainConfig
    sparsifier: Sparsifier
    plan: Plan

    @property
    def archetypes(self) -> int | None:
        """Points that atoms mix; None for a free dictionary."""
        known = self.config.dictionary == "archetypal"
        return min(self.config.archetypes, self.plan.order.height) if known else None


def draft(
    rows: Rows,
    valid_rows: Rows,
    preset: TrainConfig | str,
    *,
    latents: int,
    k: int | None = None,
    sparsity: float | None = None,
    seed: int = 0,
) -> Draft:
    """Return what would be trained; raise `ConfigError` for settings, `TrainingError` for rows."""
    config = find_preset(preset) if isinstance(preset, str) else preset
    if whole(seed, name="seed") < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
    if whole(latents, name="latents") < 1:
        raise ConfigError(f"latents must be at least 1, got {latents}")
    if k is None and sparsity is None:
        raise ConfigError("neither k nor sparsity was given; give one, such as k=32 active latents or sparsity=0.95")
    if k is not None and sparsity is not None:
        raise ConfigError(f"give k or sparsity, and not both: got k={k}, sparsity={sparsity}")
    budget = k_from_sparsity(latents, sparsity) if sparsity is not None else k
    sparsifier = build_sparsifier(config.sparsifier, k=budget, latents=latents)
    if valid_rows.height < 1:
        raise TrainingError(
            "no validation rows: the best model cannot be chosen; give some of groups that training rows are not of "
            "(in a run: give the valid split a group)"
        )
    if valid_rows.width != rows.width:
        raise TrainingError(f"training rows are {rows.width} wide, validation rows {valid_rows.width}")
    refuse_pairs(config, latents=latents, neighbours=neighbouring(rows) is not None)
    return Draft(
        config, sparsifier, Plan.derive(config, height=rows.height, latents=latents, k=sparsifier.k, seed=seed)
    )


def budget(memory_bytes: int | None) -> int:
    """Return the bytes that may be taken: those given, or `FREE_SHARE` of what is free now."""
    return int(FREE_SHARE * psutil.virtual_memory().available) if memory_bytes is None else memory_bytes


def rows_bytes(rows: Rows) -> int:
    """Return what rows take up once they are in memory."""
    return FLOAT * rows.height * rows.width


def weights_bytes(width: int, latents: int) -> int:
    """Return the size of one copy of encoder, decoder and biases in float32."""
    return FLOAT * (2 * width * latents + width + latents)


def member_bytes(width: int, latents: int, made: Draft) -> int:
    """Return what one dictionary needs while it is trained, from above.

    Weights, Adam's two moments, the best state, and gradients or packed tables (5 copies); the moments once more
    while progress is saved (2); mixtures alike; codes of a batch and of the rows validated together, with what makes
    them.
    """
    dense = 4 * AT_ONCE * latents
    entries = 6 * made.sparsifier.k if isinstance(made.sparsifier, TopK) else 6 * latents
    batch = made.plan.order.batch * (2 if made.config.temporal else 1)
    mixtures = latents * (made.archetypes + width) if made.archetypes else 0
    return COPIES * (weights_bytes(width, latents) + FLOAT * mixtures) + FLOAT * (dense + batch * (entries + 6 * width))


def require_memory(rows: Rows, made: Draft, latents: int) -> None:
    """Raise `TrainingError` where a dictionary by itself needs more than all the memory that is free."""
    needed, fixed = member_bytes(rows.width, latents, made), member_bytes(rows.width, 0, made)
    free = psutil.virtual_memory().available
    require_fit(needed, free, fixed=fixed, width=rows.width, latents=latents, name="a dictionary")


def require_fit(needed: int, allowed: int, *, fixed: int, width: int, latents: int, name: str) -> None:
    """Raise `TrainingError` with the number of latents that would fit, unless `needed` bytes are allowed.

    `fixed` of the needed bytes do not grow with the latents.
    """
    if needed > allowed:
        fitting = int(latents * max(allowed - fixed, 0) / (needed - fixed))
        raise TrainingError(
            f"{name}: {latents} latents of {width} dimensions need {in_gib(needed)} to train, {in_gib(allowed)} are "
            f"free for it; {f'about {fitting} latents' if fitting else 'nothing'} would fit: take fewer latents or "
            "another machine"
        )


def in_gib(number: int) -> str:
    """Return bytes as a text.

    >>> in_gib(3 << 29)
    '1.50 GiB'
    """
    return f"{number / GIB:.2f} GiB"
