"""Plan of a training run before any data is read: resolved settings, schedule and memory."""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from otoscope.errors import ConfigError, TrainingError
from otoscope.sae.config import TrainConfig, find_preset, require_compatible
from otoscope.sae.data import RowSource, Shuffle, as_neighbour_source
from otoscope.sae.sparsifiers import build_sparsifier
from otoscope.sae.sparsifiers.base import Sparsifier, as_integer, check_k, k_from_sparsity, max_active
from otoscope.sae.validation import VALIDATION_BATCH

FREE_SHARE = 0.7
"""Share of the free memory that a bank may use when no budget is given."""
FLOAT_BYTES = 4
WEIGHT_COPIES = 7
GIB = 1 << 30
BUDGET_AT = (1 / 4, 3 / 8, 1 / 2, 5 / 8)
"""Shares of the steps after which the sufficient budget is measured."""
BEYOND_K = 2
"""Larger budget over k where k does not suffice: its latents learn features that k alone would merge."""


@dataclass(frozen=True)
class Plan:
    """Schedule of a run for a number of rows and latents: steps, shuffle, learning rates, windows."""

    shuffle: Shuffle
    steps: int
    peak_rate: float
    warmup_steps: int
    decay_steps: int
    dead_window_rows: int
    validate_steps: int
    patience_steps: int | None
    budget_steps: tuple[int, ...]
    """Steps after which the sufficient budget is measured."""

    @classmethod
    def derive(cls, config: TrainConfig, *, height: int, latents: int, k: int, seed: int) -> "Plan":
        """Derive the schedule of a run over `height` rows."""
        if height < 2:
            raise TrainingError(f"{height} training row(s): an SAE needs at least 2, better thousands")
        shuffle = Shuffle(height, batch_size(config, height), seed)
        epochs = config.epochs or min(max(config.target_rows / height, 1.0), config.max_epochs)
        steps = max(round(epochs * shuffle.steps_per_epoch), 1)
        patient = config.patient_from is not None and height >= config.patient_from * latents
        return cls(
            shuffle=shuffle,
            steps=steps,
            peak_rate=config.learning_rate or config.base_rate / math.sqrt(latents / 2**14),
            warmup_steps=round(config.warmup * steps),
            decay_steps=round(config.decay * steps),
            dead_window_rows=dead_window(config, round(epochs * height), shuffle, share=k / latents),
            validate_steps=min(shuffle.steps_per_epoch, max(config.validate_rows // shuffle.batch, 1)),
            patience_steps=None if config.patience is None or patient else math.ceil(config.patience * steps),
            budget_steps=tuple(math.ceil(at * steps) for at in BUDGET_AT) if config.sufficient_share else (),
        )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0: linear warm-up, plateau, linear decay to 0."""
        rise = (step + 1) / (self.warmup_steps + 1)
        fall = (self.steps - step) / (self.decay_steps + 1)
        return self.peak_rate * min(1.0, rise, fall)

    def validates_after(self, step: int) -> bool:
        """Return whether validation follows `step` finished steps: after every epoch and after the last step."""
        return step % self.validate_steps == 0 or step % self.shuffle.steps_per_epoch == 0 or step == self.steps


def dead_window(config: TrainConfig, rows: int, shuffle: Shuffle, *, share: float) -> int:
    """Return the number of silent rows after which a latent counts as dead, in a run over `rows` rows.

    `share` is the mean share of active latents per row.
    """
    if config.dead_window_rows:
        return config.dead_window_rows
    if config.dead_window_epochs:
        return max(round(config.dead_window_epochs * shuffle.height), shuffle.batch)
    window = min(shuffle.height, round(rows / 20))
    if config.dead_window_firings:
        window = min(window, round(config.dead_window_firings / share))
    return max(window, shuffle.batch)


def batch_size(config: TrainConfig, height: int) -> int:
    """Return the batch size for a number of rows.

    Few rows are split into `min_steps_per_epoch` batches, as long as each has at least `min_batch` rows.

    >>> batch_size(TrainConfig(batch=1024, min_steps_per_epoch=8, min_batch=64), 700)
    88
    >>> batch_size(TrainConfig(batch=16), 970)
    16
    """
    size = min(config.batch, max(config.min_batch, -(-height // config.min_steps_per_epoch)))
    return min(size, height)


class ResolvedConfig(NamedTuple):
    """Validated settings of a run, with its sparsifier and schedule."""

    config: TrainConfig
    sparsifier: Sparsifier
    plan: Plan
    latents: int
    seed: int

    @property
    def archetypes(self) -> int | None:
        """Number of archetypes; None for a free dictionary."""
        archetypal = self.config.dictionary == "archetypal"
        return min(self.config.archetypes, self.plan.shuffle.height) if archetypal else None

    def new_sparsifier(self) -> Sparsifier:
        """Return an untrained copy of the sparsifier."""
        return deepcopy(self.sparsifier)


def resolve(
    rows: RowSource,
    valid_rows: RowSource,
    config: TrainConfig | str,
    *,
    latents: int,
    k: int | None = None,
    sparsity: float | None = None,
    sparsifier: Sparsifier | None = None,
    seed: int = 0,
) -> ResolvedConfig:
    """Validate all settings of a run; raise `ConfigError` for settings, `TrainingError` for rows.

    A `sparsifier` instance brings its own k and replaces the sparsifier of `config`.
    """
    config = find_preset(config) if isinstance(config, str) else config
    seed, latents = as_integer(seed, name="seed"), as_integer(latents, name="latents")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
    if latents < 1:
        raise ConfigError(f"latents must be at least 1, got {latents}")
    if sparsifier is None:
        sparsifier = build_sparsifier(config.sparsifier, k=_active_latents(latents, k, sparsity), latents=latents)
    elif not isinstance(sparsifier, Sparsifier):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"sparsifier: got {sparsifier!r}; give an instance with `k` that maps rows to codes")
    elif sparsity is not None or k not in (None, sparsifier.k):
        raise ConfigError(f"{sparsifier!r} has k={sparsifier.k}; leave out k and sparsity")
    else:
        check_k(sparsifier.k, latents)
    if valid_rows.height < 1:
        raise TrainingError(
            "no validation rows, so the best model cannot be chosen; give rows of groups that are not in the training "
            "rows (in a run: give the valid split a group)"
        )
    if valid_rows.width != rows.width:
        raise TrainingError(f"training rows have width {rows.width}, validation rows {valid_rows.width}")
    require_compatible(config, latents=latents, neighbours=as_neighbour_source(rows) is not None)
    plan = Plan.derive(config, height=rows.height, latents=latents, k=sparsifier.k, seed=seed)
    return ResolvedConfig(config, sparsifier, plan, latents, seed)


def _active_latents(latents: int, k: int | None, sparsity: float | None) -> int:
    if k is not None and sparsity is not None:
        raise ConfigError(f"give k or sparsity, not both: got k={k}, sparsity={sparsity}")
    if sparsity is not None:
        return k_from_sparsity(latents, sparsity)
    if k is None:
        raise ConfigError("neither k nor sparsity was given; give one, such as k=32 active latents or sparsity=0.95")
    return k


def memory_budget(memory_bytes: int | None) -> int:
    """Return the bytes that may be used: the given number, or `FREE_SHARE` of the memory free now."""
    return int(FREE_SHARE * psutil.virtual_memory().available) if memory_bytes is None else memory_bytes


def rows_bytes(rows: RowSource) -> int:
    """Return the size of rows in memory."""
    return FLOAT_BYTES * rows.height * rows.width


def weights_bytes(width: int, latents: int) -> int:
    """Return the size of one copy of encoder, decoder and biases in float32."""
    return FLOAT_BYTES * (2 * width * latents + width + latents)


def member_bytes(width: int, latents: int, resolved: ResolvedConfig) -> int:
    """Return an upper bound of the memory that training one SAE takes.

    Weights, Adam's two moments, the best state, and gradients or packed tables (5 copies); the moments again while
    progress is saved (2); the same for mixtures of archetypes; the atoms at the start; codes of a training and a
    validation batch, with their intermediate values.
    """
    dense = 4 * VALIDATION_BATCH * latents
    active = (BEYOND_K if resolved.config.sufficient_share else 1) * max_active(resolved.sparsifier, latents)
    entries = 6 * min(active, latents) + latents  # also as matrices in half precision
    batch = resolved.plan.shuffle.batch * (2 if resolved.config.temporal else 1)
    mixtures = latents * (resolved.archetypes + width) if resolved.archetypes else 0
    weights = WEIGHT_COPIES * (weights_bytes(width, latents) + FLOAT_BYTES * mixtures)
    return weights + FLOAT_BYTES * (width * latents + dense + batch * (entries + 6 * width))


def require_free_memory(rows: RowSource, resolved: ResolvedConfig) -> None:
    """Raise `TrainingError` if one SAE needs more than all free memory."""
    latents = resolved.latents
    required, fixed = member_bytes(rows.width, latents, resolved), member_bytes(rows.width, 0, resolved)
    free = psutil.virtual_memory().available
    require_fits(required, free, fixed=fixed, width=rows.width, latents=latents, name="the SAE")


def require_fits(required: int, available: int, *, fixed: int, width: int, latents: int, name: str) -> None:
    """Raise `TrainingError` with the number of latents that would fit, unless `required` bytes are available.

    `fixed` of the required bytes do not grow with the latents.
    """
    if required > available:
        # a little less, because active latents need not become fewer in proportion
        fitting = int(0.99 * latents * max(available - fixed, 0) / (required - fixed))
        advice = f"reduce to about {fitting} latents" if fitting else "no number of latents fits"
        raise TrainingError(
            f"{name}: training {latents} latents x {width} dimensions needs {in_gib(required)}, {in_gib(available)} "
            f"available; {advice}, or use a machine with more memory"
        )


def in_gib(number: int) -> str:
    """Return bytes as text.

    >>> in_gib(3 << 29)
    '1.50 GiB'
    """
    return f"{number / GIB:.2f} GiB"
