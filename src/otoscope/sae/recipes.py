"""What can be said of a recipe before there are rows: whether its settings exist, and whether they go together."""

from collections.abc import Mapping
from typing import Any

from otoscope.errors import ConfigError, suggest
from otoscope.sae.presets import TrainConfig, recipe

BASE = "based_on"
"""The key of a described recipe that names the catalogued one; every other key is a field of `TrainConfig`."""


def described_recipe(given: Mapping[str, Any]) -> TrainConfig:
    """Return the recipe that a mapping describes: a catalogued one, `default` when left out, and what differs.

    Raises `ConfigError` with the nearest name for an unknown one, and for values out of range.

    >>> described_recipe({"based_on": "mariotte2025", "epochs": 5}).epochs
    5.0
    """
    changes = dict(given)
    base = str(changes.pop(BASE, "default"))
    for key in changes:
        if key not in TrainConfig.model_fields:
            raise ConfigError(f"no setting {key!r} of a recipe; {suggest(key, [BASE, *TrainConfig.model_fields])}")
    return recipe(base, **changes)


def refuse_pairs(config: TrainConfig, *, latents: int, neighbours: bool) -> None:
    """Raise `ConfigError` for settings that cannot go together, or not with so many latents or such rows."""
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
        f"dead_window_rows={config.dead_window_rows} and dead_window_epochs={config.dead_window_epochs}: there is one "
        "window; give it in rows or in epochs": bool(config.dead_window_rows and config.dead_window_epochs),
        f"temporal={config.temporal:g} and rows without neighbours in time (pooled clips have none): train on frames, "
        "or set temporal=0": bool(config.temporal) and not neighbours,
    }
    for message, impossible in refusals.items():
        if impossible:
            raise ConfigError(message)
