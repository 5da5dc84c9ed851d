"""Recipes: every setting of a training run.

What can be said of a recipe before there are rows: whether its settings exist, and whether they go together.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_serializer

from otoscope.errors import ConfigError, suggest
from otoscope.sae.model import Dictionary, Init
from otoscope.sae.sparsifiers.catalog import check_sparsifier
from otoscope.sae.statistics import Wanted

LATER = {"dead_window_epochs"}
"""Settings that recipes of earlier dictionaries did not have; None in these."""


class TrainConfig(BaseModel):
    """A recipe; unknown keys and values out of range are refused, a sparsifier that is not there by `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsifier: str = "topk"
    centred: bool = True
    """Subtract the mean of the training rows."""
    scaling: Wanted = "rows"
    """Divide by the root mean square deviation of all entries ("rows"), of each dimension, or not at all.

    "auto": by dimension where a single one carries more than `moments.OUTLIER_SHARE` of the variance, else "rows"."""
    encoder_bias: bool = True
    decoder_bias: bool = True
    init: Init = "tied"
    """"tied": random atoms, and the encoder alike; "principal": the rows' principal axes, both ways, come first."""
    axes_share: float = Field(default=0.8, gt=0, le=1)
    """With `init="principal"`: the axes that hold this share of the variance, k/2 at least, are atoms; others learn.

    Smaller axes carry what is small in every row: they rebuild well, tell a probe little and leave less to learn with
    (docs/benchmarks.md)."""
    rest_gain: float = Field(default=0.15, gt=0)
    """How strongly, with `init="principal"`, the encoder of each further latent starts: it wins a place by learning."""
    unit_norm: bool = True
    """Keep every atom at length 1; the gradient along it is projected out."""

    dictionary: Dictionary = "free"
    """"archetypal": atoms are mixtures of points of the data, but for a bounded step (arXiv 2502.12892)."""
    archetypes: int = Field(default=512, ge=2)
    """Points to mix, at most: k-means centroids of the training rows."""
    relaxation: float = Field(default=0.1, ge=0)
    """Longest step away from the mixture, over the root mean square length of the points."""
    mixing_rate: float = Field(default=20.0, gt=0)
    """Learning rate of the logits of mixtures, over that of the weights."""

    temporal: float = Field(default=0.0, ge=0)
    """Weight of the contrast between neighbouring frames (see `temporal.contrast`); 0: none."""
    temporal_share: float = Field(default=0.2, gt=0, le=1)
    """Share of the dictionary, its first latents, that neighbours are to have in common."""

    frozen_decoder: bool = False
    """Leave the atoms as they were drawn and train the encoder alone: a baseline (arXiv 2602.14111)."""

    prefixes: tuple[float, ...] = (1.0,)
    """Shares of the dictionary that must each rebuild alone (Matryoshka), rising and ending in 1."""

    learning_rate: float | None = Field(default=None, gt=0)
    """None: `base_rate / sqrt(latents / 2**14)`, the rule of dictionary_learning and sparsify."""
    base_rate: float = Field(default=1e-3, gt=0)
    """Those trainers take 2e-4 for 100,000 steps and more; a few hundred steps want a multiple of it."""
    beta2: float = Field(default=0.999, gt=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of the encoder weights a step, times the learning rate (AdamW)."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the learning rate rises from 0."""
    decay: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps, the last ones, over which the learning rate falls linearly to 0."""

    batch: int = Field(default=512, ge=1)
    """Largest batch; few rows are shared out over at least `min_steps_per_epoch` batches of `min_batch` or more."""
    min_steps_per_epoch: int = Field(default=1, ge=1)
    min_batch: int = Field(default=1, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    """None: as many as come nearest to `target_rows`, between 1 and `max_epochs`."""
    target_rows: int = Field(default=250_000, ge=1)
    max_epochs: float = Field(default=30.0, gt=0)
    patience: float | None = Field(default=None, gt=0, le=1)
    """Stop once so large a share of the steps brought nothing better on the validation rows; None: never."""
    patient_from: float | None = Field(default=None, gt=0)
    """Rows a latent from which training never stops early; None: it always may."""

    aux_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the loss that lets dead latents fit what is left over (AuxK, arXiv 2406.04093); 0: none."""
    dead_window_rows: int | None = Field(default=None, ge=1)
    """A latent silent for so many rows is dead. None: an epoch, or a twentieth of the run where that is less."""
    dead_window_epochs: float | None = Field(default=None, gt=0)
    """The same window in epochs; give one of the two."""
    dead_window_firings: float | None = Field(default=None, gt=0)
    """A latent silent for the rows in which an average one fires so often is dead, or sooner; with no window given."""
    validate_rows: int = Field(default=1_000_000, ge=1)
    """Validate after every epoch, and within an epoch after so many rows."""

    @field_validator("sparsifier")
    @classmethod
    def _known(cls, value: str) -> str:
        return check_sparsifier(value)

    @field_validator("prefixes")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or value[-1] != 1.0 or value[0] <= 0 or any(b <= a for a, b in pairwise(value)):
            raise ValueError(f"prefixes must rise from above 0 to 1, got {value}")
        return value

    @model_serializer(mode="wrap")
    def _settled(self, dump: Callable[["TrainConfig"], dict[str, Any]]) -> dict[str, Any]:
        """Leave out settings that came later and are not given, so that earlier dictionaries keep their fingerprint."""
        return {key: value for key, value in dump(self).items() if key not in LATER or value is not None}


MARIOTTE2025 = TrainConfig(
    centred=False,
    scaling="none",
    decoder_bias=False,
    init="linear",
    unit_norm=False,
    learning_rate=1e-3,
    warmup=0.0,
    decay=0.0,
    batch=16,
    epochs=100,
    aux_coefficient=0.0,
)
"""The recipe of arXiv 2509.24793 as its code runs it (PAPER section 1.1), with one deviation: the best checkpoint is
chosen by the loss on the whole validation set, not on its last batch."""

DEFAULT = TrainConfig(
    scaling="auto",
    init="principal",
    base_rate=2e-3,
    min_steps_per_epoch=8,
    min_batch=64,
    patience=1 / 3,
    patient_from=1.0,
    aux_coefficient=1 / 8,
    dead_window_firings=50.0,
)
"""Begin at the axes that most of the variance lies along, learn the rest, keep what serves unseen groups best.

The leading principal axes of the rows, both ways, are the first atoms; all others begin at random, too quiet to be
chosen until they learn. The state that serves the validation groups best is kept. With fewer rows than latents, where
one atom a row is a legal optimum and learning on means memorising, training stops once a third of the steps brought
nothing better; with more it takes its way to the end.
"""

FROZEN_DECODER = DEFAULT.model_copy(update={"frozen_decoder": True, "init": "tied", "patience": None})
"""The default recipe on random atoms that stay as they are: what an encoder alone can make of them."""

PRESETS: dict[str, TrainConfig] = {
    "default": DEFAULT,
    "mariotte2025": MARIOTTE2025,
    "frozen_decoder": FROZEN_DECODER,
}


def find_preset(name: str) -> TrainConfig:
    """Return a recipe by name; raise `ConfigError` with the nearest name if there is none."""
    if name not in PRESETS:
        raise ConfigError(f"no training preset {name!r}; {suggest(name, PRESETS)}")
    return PRESETS[name]


def recipe(name: str = "default", /, **changes: Any) -> TrainConfig:
    """Return a preset with some of its settings changed.

    Raises `ConfigError` for unknown ones and values out of range; for names, with the nearest that there is.

    >>> recipe("default", sparsifier="batch_topk").sparsifier
    'batch_topk'
    """
    settings = find_preset(name).model_dump()
    for key in changes:
        if key not in TrainConfig.model_fields:
            raise ConfigError(f"no setting {key!r} of a recipe; {suggest(key, TrainConfig.model_fields)}")
    try:
        return TrainConfig.model_validate({**settings, **changes})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        words = get_args(TrainConfig.model_fields[place].annotation) if first["type"] == "literal_error" else ()
        told = suggest(first["input"], words) if words else first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"recipe: {place}: got {first['input']!r}; {told}") from error


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
