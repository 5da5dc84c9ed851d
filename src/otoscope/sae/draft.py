"""What a run will be, worked out before anything is read or made: here all that cannot be trained is refused."""

from typing import NamedTuple

from otoscope.errors import ConfigError, TrainingError
from otoscope.sae.capabilities import neighbouring
from otoscope.sae.catalog import build_sparsifier
from otoscope.sae.presets import Plan, TrainConfig, find_preset
from otoscope.sae.rows import Rows
from otoscope.sae.sparsifiers import Sparsifier, k_from_sparsity


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
    if (k is None) == (sparsity is None):
        raise ConfigError(f"give k or sparsity, and not both: got k={k}, sparsity={sparsity}")
    budget = k_from_sparsity(latents, sparsity) if sparsity is not None else k
    sparsifier = build_sparsifier(config.sparsifier, k=budget, latents=latents)
    if valid_rows.height < 1:
        raise TrainingError("no validation rows: the best model cannot be chosen; give the valid split a group")
    if valid_rows.width != rows.width:
        raise TrainingError(f"training rows are {rows.width} wide, validation rows {valid_rows.width}")
    refuse_pairs(config, rows, latents=latents)
    return Draft(
        config, sparsifier, Plan.derive(config, height=rows.height, latents=latents, k=sparsifier.k, seed=seed)
    )


def refuse_pairs(config: TrainConfig, rows: Rows, *, latents: int) -> None:
    """Raise `ConfigError` for settings that cannot go together, or not with these rows."""
    archetypal = config.dictionary == "archetypal"
    blocks = [max(round(share * latents), 1) for share in config.prefixes]
    refusals = {
        'dictionary="archetypal" and unit_norm=True: an atom that mixes points has the length that they give it; '
        "set unit_norm=False": archetypal and config.unit_norm,
        f'dictionary="archetypal" and init="{config.init}": its atoms begin at points of the data; '
        'set init="points"': archetypal and config.init != "points",
        'init="points" and dictionary="free": only archetypal atoms are made of points; '
        'set dictionary="archetypal", or init="tied"': config.init == "points" and not archetypal,
        'dictionary="archetypal" and frozen_decoder=True: archetypal atoms exist only as they are trained; '
        "set frozen_decoder=False": archetypal and config.frozen_decoder,
        f"prefixes={config.prefixes} and latents={latents}: two prefixes come to the same number of latents; "
        "take fewer prefixes or more latents": len(set(blocks)) < len(blocks),
        f"temporal={config.temporal:g} and rows without neighbours in time (pooled clips have none): train on frames, "
        "or set temporal=0": bool(config.temporal) and neighbouring(rows) is None,
    }
    for message, impossible in refusals.items():
        if impossible:
            raise ConfigError(message)
