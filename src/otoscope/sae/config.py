"""Training configuration: every setting of a run, the presets, and validation without data."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from otoscope.errors import ConfigError, quote, suggest
from otoscope.sae.model import Dictionary, Init
from otoscope.sae.sparsifiers import SparsifierSpec, check_sparsifier
from otoscope.sae.statistics import ScalingName

BASE_KEY = "based_on"
"""Key of a described configuration that names its preset; every other key is a field of `TrainConfig`."""


class TrainConfig(BaseModel):
    """Settings of a training run; unknown keys and values out of range raise an error.

    >>> TrainConfig.preset("default", sparsifier={"name": "jumprelu", "bandwidth": 0.2}).sparsifier
    {'name': 'jumprelu', 'bandwidth': 0.2}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsifier: SparsifierSpec = "topk"
    """Name of a sparsifier, or a mapping with its `name` and hyper-parameters."""
    centred: bool = True
    """Subtract the mean of the training rows."""
    scaling: ScalingName = "rows"
    """Divide by the root mean square deviation of all entries ("rows"), of each dimension, or not at all.

    "auto": per dimension if one carries more than `statistics.OUTLIER_SHARE` of the variance, else "rows"."""
    encoder_bias: bool = True
    decoder_bias: bool = True
    init: Init = "tied"
    """"tied": random atoms and an equal encoder; "principal": the first atoms are the +/- principal axes."""
    axes_rows_per_latent: float | None = Field(default=None, gt=0)
    """With `init="principal"`: training rows per latent from which the start is tied instead; None: never."""
    axes_share: float = Field(default=0.8, gt=0, le=1)
    """With `init="principal"`: axes that hold this share of the variance, at least k/2, become atoms.

    Smaller axes carry small values in every row: they reconstruct well, help probes little and leave fewer latents to
    learn (docs/benchmarks.md)."""
    rest_gain: float = Field(default=0.15, gt=0)
    """Initial gain of the other encoder rows with `init="principal"`: these latents become active by learning."""
    unit_norm: bool = True
    """Keep every atom at length 1; the gradient along it is projected out."""

    dictionary: Dictionary = "free"
    """"archetypal": atoms are mixtures of data points plus a bounded step (arXiv 2502.12892)."""
    archetypes: int = Field(default=512, ge=2)
    """Maximum number of points to mix: k-means centroids of the training rows."""
    relaxation: float = Field(default=0.1, ge=0)
    """Longest step away from the mixture, relative to the root mean square length of the points."""
    mixing_rate: float = Field(default=20.0, gt=0)
    """Learning rate of the mixtures' logits, relative to that of the weights."""

    temporal: float = Field(default=0.0, ge=0)
    """Weight of the contrast between neighbouring frames (see `losses.contrastive_loss`); 0: none."""
    temporal_share: float = Field(default=0.2, gt=0, le=1)
    """Share of the latents, the first ones, that neighbours should have in common."""

    frozen_decoder: bool = False
    """Keep the random atoms and train the encoder alone: a baseline (arXiv 2602.14111)."""
    min_atom_cosine: float | None = Field(default=None, ge=0, lt=1)
    """Keep every atom within this cosine of its start, as the soft-frozen decoder of arXiv 2602.14111; None: free."""

    prefixes: tuple[float, ...] = (1.0,)
    """Shares of the dictionary that must each reconstruct alone (Matryoshka), increasing and ending in 1."""

    k_shares: tuple[float, ...] = (1.0,)
    """Shares of k that must each reconstruct alone (Multi-TopK, arXiv 2406.04093), increasing and ending in 1.

    They count for the sparsifier "topk" without `prefixes`."""
    sufficient_share: float | None = Field(default=None, gt=0, lt=1)
    """With several `k_shares`: after a quarter of the steps they give way to k and one other budget, a growing multiple
    of the smallest whose latents explain this share of what k latents explain (`validation.sufficient_budget`), or 2k
    where k does not suffice; None: never."""

    learning_rate: float | None = Field(default=None, gt=0)
    """None: `base_rate / sqrt(latents / 2**14)`, the rule of dictionary_learning and sparsify."""
    base_rate: float = Field(default=1e-3, gt=0)
    """Those trainers use 2e-4 for 100,000 steps and more; a few hundred steps need a multiple of it."""
    beta2: float = Field(default=0.999, gt=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of the encoder weights per step, times the learning rate (AdamW)."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the learning rate rises from 0."""
    decay: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps, the last ones, over which the learning rate falls linearly to 0."""

    batch: int = Field(default=512, ge=1)
    """Largest batch; few rows are split into at least `min_steps_per_epoch` batches of `min_batch` or more."""
    min_steps_per_epoch: int = Field(default=1, ge=1)
    min_batch: int = Field(default=1, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    """None: `target_rows` divided by the number of rows, between 1 and `max_epochs`."""
    target_rows: int = Field(default=250_000, ge=1)
    max_epochs: float = Field(default=30.0, gt=0)
    patience: float | None = Field(default=None, gt=0, le=1)
    """Early-stopping patience, as a fraction of the planned steps; None disables it."""
    patient_from: float | None = Field(default=None, gt=0)
    """Rows per latent from which training never stops early; None: early stopping is always possible."""

    aux_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the loss that lets dead latents fit the residual (AuxK, arXiv 2406.04093); 0: none."""
    dead_window_rows: int | None = Field(default=None, ge=1)
    """A latent silent for this many rows is dead. None: an epoch, or a twentieth of the run if that is less."""
    dead_window_epochs: float | None = Field(default=None, gt=0)
    """The same window in epochs; give one of the two."""
    dead_window_firings: float | None = Field(default=None, gt=0)
    """If no window is set: the window is at most the rows in which an average latent fires this many times."""
    validate_rows: int = Field(default=1_000_000, ge=1)
    """Validate after every epoch, and within an epoch after this many rows."""

    @field_validator("sparsifier", mode="before")
    @classmethod
    def _check_sparsifier(cls, value: object) -> SparsifierSpec:
        if not isinstance(value, str | Mapping):
            raise ConfigError(
                f"sparsifier: got {quote(value)}; give a name, or a mapping with name and hyper-parameters"
            )
        return check_sparsifier(value)  # pyright: ignore[reportUnknownArgumentType]

    @field_validator("prefixes", "k_shares")
    @classmethod
    # pydantic declares `info` as a protocol that cannot be checked at run time
    def _check_shares(cls, value: tuple[float, ...], info: Any) -> tuple[float, ...]:
        if not value or value[-1] != 1.0 or value[0] <= 0 or any(b <= a for a, b in pairwise(value)):
            raise ValueError(f"{info.field_name} must rise from above 0 to 1, got {value}")
        return value

    @classmethod
    def preset(cls, name: str = "default", /, **changes: Any) -> "TrainConfig":
        """Return a preset with some of its settings changed.

        Raises `ConfigError` for unknown names and settings, with the nearest one, and for values out of range.

        >>> TrainConfig.preset("default", sparsifier="batch_topk").sparsifier
        'batch_topk'
        """
        settings = find_preset(name).model_dump()
        for key in changes:
            if key not in cls.model_fields:
                raise ConfigError(f"no training setting {quote(key)}; {suggest(key, cls.model_fields)}")
        try:
            return cls.model_validate({**settings, **changes})
        except ValidationError as error:
            first = error.errors()[0]
            place = str(first["loc"][0])
            choices = get_args(cls.model_fields[place].annotation) if first["type"] == "literal_error" else ()
            problem = suggest(first["input"], choices) if choices else first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{place}: got {quote(first['input'])}; {problem}") from error

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> "TrainConfig":
        """Return the configuration that a mapping describes: its preset (`default` if left out) and the changes.

        Raises `ConfigError` as `preset` does.

        >>> TrainConfig.from_mapping({"based_on": "mariotte2025", "epochs": 5}).epochs
        5.0
        """
        changes = dict(settings)
        base = str(changes.pop(BASE_KEY, "default"))
        for key in changes:
            if key not in cls.model_fields:
                raise ConfigError(f"no training setting {quote(key)}; {suggest(key, [BASE_KEY, *cls.model_fields])}")
        return cls.preset(base, **changes)


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
"""Preset of arXiv 2509.24793 as its code runs it (PAPER section 1.1), with one deviation: the best checkpoint is
chosen by the loss on the complete validation set, not on its last batch."""

DEFAULT = TrainConfig(
    scaling="auto",
    init="principal",
    axes_rows_per_latent=4.0,
    k_shares=(0.125, 0.25, 0.5, 1.0),
    sufficient_share=0.93,
    base_rate=2e-3,
    min_steps_per_epoch=8,
    min_batch=64,
    patience=1 / 3,
    patient_from=1.0,
    aux_coefficient=1 / 8,
    dead_window_firings=50.0,
)
"""Preset that recovers features for any k, does not memorise few rows, and keeps the best state on held-out groups.

With TopK, fewer latents than k must reconstruct alone too, as far as k exceeds what suffices: an error at k alone
loses the features there. With fewer than four rows per latent, the first atoms are the leading principal axes of the
rows with both signs; the others start at random with a gain too small to be active. With fewer rows than latents, where
one atom per row is an optimum and training on means memorising, training stops after a third of the steps without
improvement; with more rows all steps are taken.
"""

FROZEN_DECODER = DEFAULT.model_copy(update={"frozen_decoder": True, "init": "tied", "patience": None})
"""The default preset on random, frozen atoms: a baseline in which only the encoder learns."""

SOFT_FROZEN_DECODER = FROZEN_DECODER.model_copy(update={"frozen_decoder": False, "min_atom_cosine": 0.8})
"""The same with atoms that may turn a little: every atom keeps a cosine of 0.8 with its random start (same article)."""

PRESETS: dict[str, TrainConfig] = {
    "default": DEFAULT,
    "mariotte2025": MARIOTTE2025,
    "frozen_decoder": FROZEN_DECODER,
    "soft_frozen_decoder": SOFT_FROZEN_DECODER,
}


def find_preset(name: str) -> TrainConfig:
    """Return a preset by name; raise `ConfigError` with the nearest name if there is none."""
    if name not in PRESETS:
        raise ConfigError(f"no training preset {quote(name)}; {suggest(name, PRESETS)}")
    return PRESETS[name]


def require_compatible(config: TrainConfig, *, latents: int, neighbours: bool) -> None:
    """Raise `ConfigError` for settings that exclude each other, this number of latents, or rows without neighbours."""
    archetypal = config.dictionary == "archetypal"
    blocks = [max(round(share * latents), 1) for share in config.prefixes]
    conflicts = {
        'dictionary="archetypal" and unit_norm=True: the length of an atom follows from the points that it mixes; '
        "set unit_norm=False": archetypal and config.unit_norm,
        f'dictionary="archetypal" and init="{config.init}": archetypal atoms start at data points; '
        'set init="points"': archetypal and config.init != "points",
        'init="points" and dictionary="free": only archetypal atoms start at data points; '
        'set dictionary="archetypal", or init="tied"': config.init == "points" and not archetypal,
        'dictionary="archetypal" and frozen_decoder=True: archetypal atoms must be trained; '
        "set frozen_decoder=False": archetypal and config.frozen_decoder,
        f"min_atom_cosine={config.min_atom_cosine} bounds the direction of free atoms of length 1 that are trained; "
        'set dictionary="free", unit_norm=True and frozen_decoder=False': config.min_atom_cosine is not None
        and (archetypal or config.frozen_decoder or not config.unit_norm),
        f"prefixes={config.prefixes} and latents={latents}: two prefixes have the same number of latents; "
        "use fewer prefixes or more latents": len(set(blocks)) < len(blocks),
        f"dead_window_rows={config.dead_window_rows} and dead_window_epochs={config.dead_window_epochs}: both set the "
        "same window; give one": bool(config.dead_window_rows and config.dead_window_epochs),
        f"temporal={config.temporal:g} and rows without neighbours in time (pooled clips): train on frames, "
        "or set temporal=0": bool(config.temporal) and not neighbours,
    }
    for message, conflict in conflicts.items():
        if conflict:
            raise ConfigError(message)
