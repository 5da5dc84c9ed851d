"""Section `train` of a configuration: the SAEs of the grid and their training."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from otoscope.config.base import Latents, Layers, Section, Seed, Unique, as_tuple
from otoscope.config.mariotte2025 import PAPER_SPARSITIES
from otoscope.errors import ConfigError, quote, suggest
from otoscope.sae.config import PRESETS, TrainConfig, find_preset, require_compatible
from otoscope.sae.sparsifiers.base import k_from_sparsity

Pooling = Literal["encode_then_pool", "pool_then_encode"]

MAX_SAES = 10_000
"""Most SAEs of a grid, per layer: each has its own folder, training and evaluation."""

NAME = r"[a-z0-9][a-z0-9_.-]*"
"""Allowed names of presets: a name is part of a folder name, also on case-insensitive file systems."""


class TrainSettings(Section):
    """Grid of SAEs to train: layers x poolings x presets x latents x sparsities x seeds."""

    presets: dict[str, dict[str, Any]] = Field(
        default={}, description="your own presets by name: the preset they are `based_on`, and the changed settings"
    )
    preset: Annotated[str | tuple[str, ...], Unique] = Field(
        default="default", description="a training preset or several; `otoscope models` lists the built-in ones"
    )
    latents: Annotated[Latents | tuple[Latents, ...], Unique] = Field(
        default=2048, description="number of latents, or several"
    )
    sparsities: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Unique] = PAPER_SPARSITIES
    layers: Layers = Field(default="all", description="some of the extracted layers")
    poolings: Annotated[tuple[Pooling, ...], Unique] = Field(
        default=("encode_then_pool",),
        description="encode frames and pool the codes, or encode pooled rows as the paper does",
    )
    seeds: Annotated[tuple[Seed, ...], Unique] = (0,)

    @field_validator("presets", mode="before")
    @classmethod
    def _check_presets(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ConfigError(f"train.presets: got {quote(value)}; give `NAME: {{based_on: default, ...}}`")
        for name, settings in value.items():
            if not isinstance(name, str) or not re.fullmatch(NAME, name):
                raise ConfigError(
                    f"train.presets: got the name {quote(name)}; use lower-case letters, digits, _, . and -"
                )
            if name in PRESETS:
                raise ConfigError(f"train.presets: {quote(name)} is built in; choose another name")
            if not isinstance(settings, Mapping):
                raise ConfigError(
                    f"train.presets.{name}: got {quote(settings)}; give `based_on: ...` and the changed settings"
                )
            _described_preset(name, settings)
        return value

    @property
    def preset_names(self) -> tuple[str, ...]:
        """Names of the presets, one or several."""
        return as_tuple(self.preset)

    @property
    def dictionaries(self) -> tuple[int, ...]:
        """Numbers of latents, one or several."""
        return as_tuple(self.latents)

    @model_validator(mode="after")
    def _trainable(self) -> "TrainSettings":
        lists = (self.poolings, self.preset_names, self.dictionaries, self.sparsities, self.seeds)
        if (saes := math.prod(map(len, lists))) > MAX_SAES:
            raise ConfigError(f"train: {saes:,} SAEs per layer; at most {MAX_SAES:,}, so give fewer values")
        for latents, sparsity in product(self.dictionaries, self.sparsities):
            try:
                k_from_sparsity(latents, sparsity)
            except ConfigError as error:
                raise ConfigError(f"train.sparsities: {sparsity}: {error}") from error
        for name in self.preset_names:
            self.require(name, key="train.preset", poolings=self.poolings)
        return self

    def train_config(self, name: str) -> TrainConfig:
        """Return a preset by name, one of this configuration or a built-in one."""
        return _described_preset(name, self.presets[name]) if name in self.presets else find_preset(name)

    def require(self, name: str, *, key: str, poolings: Sequence[Pooling]) -> None:
        """Raise `ConfigError` unless a preset exists and is compatible with every number of latents and these poolings.

        `key` is the setting that names the preset.
        """
        if name not in PRESETS and name not in self.presets:
            raise ConfigError(f"{key}: no preset {quote(name)}; {suggest(name, [*PRESETS, *self.presets])}")
        for latents in self.dictionaries:
            try:
                require_compatible(
                    self.train_config(name), latents=latents, neighbours="pool_then_encode" not in poolings
                )
            except ConfigError as error:
                raise ConfigError(f"train.presets.{name}: {error}") from error


def _described_preset(name: str, settings: Mapping[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.from_mapping(settings)
    except ConfigError as error:
        raise ConfigError(f"train.presets.{name}: {error}") from error
