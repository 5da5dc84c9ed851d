"""What a run will be, worked out before anything is read or made: here all that cannot be trained is refused."""

from typing import NamedTuple

from otoscope.errors import ConfigError, TrainingError
from otoscope.sae.capabilities import neighbouring
from otoscope.sae.catalog import build_sparsifier
from otoscope.sae.plan import Plan
from otoscope.sae.presets import TrainConfig, find_preset
from otoscope.sae.recipes import refuse_pairs
from otoscope.sae.rows import Rows
from otoscope.sae.sparsifiers import Sparsifier, k_from_sparsity, whole


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
