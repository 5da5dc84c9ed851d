"""What a recipe becomes for a given amount of data."""

import math
from dataclasses import dataclass

from otoscope.errors import TrainingError
from otoscope.sae.presets import TrainConfig
from otoscope.sae.rows import Order


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
