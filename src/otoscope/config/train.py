"""Which dictionaries are trained: the section `train`."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from otoscope.config.base import Section, each_once, not_empty, several
from otoscope.errors import ConfigError, suggest
from otoscope.sae.config import PRESETS, TrainConfig, described_recipe, find_preset, refuse_pairs
from otoscope.sae.sparsifiers.base import k_from_sparsity

PAPER_SPARSITIES = (0.75, 0.80, 0.85, 0.90, 0.95, 0.99)
"""The six sparsities of the study (arXiv 2509.24793)."""

Pooling = Literal["encode_then_pool", "pool_then_encode"]
Latents = Annotated[int, Field(ge=2)]

NAME = r"[a-z0-9][a-z0-9_.-]*"
"""What a recipe may be called: it becomes part of a folder's name, even where file names do not tell cases apart."""


class TrainSettings(Section):
    """Which dictionaries are trained: layers x poolings x presets x latents x sparsities x seeds."""

    recipes: dict[str, dict[str, Any]] = Field(
        default={}, description="recipes of your own by name: the one it is `based_on`, and the settings that differ"
    )
    preset: str | tuple[str, ...] = Field(
        default="default", description="a training recipe or several; `otoscope models` lists those that are built in"
    )
    latents: Latents | tuple[Latents, ...] = Field(default=2048, description="size of the dictionary, or several")
    sparsities: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = PAPER_SPARSITIES
    layers: Literal["all"] | tuple[int, ...] = Field(default="all", description="a part of the extracted layers")
    poolings: tuple[Pooling, ...] = Field(
        default=("encode_then_pool",),
        description="frames encoded, codes pooled; or the paper's order, pooled rows encoded",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)

    @field_validator("layers")
    @classmethod
    def _any(cls, value: object) -> object:
        return not_empty(value)

    @field_validator("recipes", mode="before")
    @classmethod
    def _whole_recipes(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ConfigError(f"train.recipes: got {value!r}; give `NAME: {{based_on: default, ...}}`")
        for name, given in value.items():
            if not isinstance(name, str) or not re.fullmatch(NAME, name):
                raise ConfigError(f"train.recipes: got the name {name!r}; take lower case letters, digits, _, . and -")
            if name in PRESETS:
                raise ConfigError(f"train.recipes: {name!r} is built in; give your own another name")
            if not isinstance(given, Mapping):
                raise ConfigError(f"train.recipes.{name}: got {given!r}; give `based_on: ...` and what differs")
            _described(name, given)
        return value

    @field_validator("preset")
    @classmethod
    def _some_presets(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        each_once(several(value))
        return value

    @field_validator("latents")
    @classmethod
    def _some_latents(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        each_once(several(value))
        return value

    @property
    def presets(self) -> tuple[str, ...]:
        """The training recipes, one or several."""
        return several(self.preset)

    @property
    def dictionaries(self) -> tuple[int, ...]:
        """The sizes of dictionaries, one or several."""
        return several(self.latents)

    @field_validator("sparsities", "seeds", "poolings")
    @classmethod
    def _some(cls, value: tuple[object, ...]) -> tuple[object, ...]:
        return each_once(value)

    @model_validator(mode="after")
    def _trainable(self) -> "TrainSettings":
        for latents, sparsity in product(self.dictionaries, self.sparsities):
            try:
                k_from_sparsity(latents, sparsity)
            except ConfigError as error:
                raise ConfigError(f"train.sparsities: {sparsity}: {error}") from error
        for name in self.presets:
            self.require(name, key="train.preset", poolings=self.poolings)
        return self

    def recipe(self, name: str) -> TrainConfig:
        """Return a recipe by name, one of the configuration's own or one that is built in."""
        return _described(name, self.recipes[name]) if name in self.recipes else find_preset(name)

    def require(self, name: str, *, key: str, poolings: Sequence[Pooling]) -> None:
        """Raise `ConfigError` unless a recipe exists and can train dictionaries of every size, for these poolings.

        `key` is the setting that asks for it.
        """
        if name not in PRESETS and name not in self.recipes:
            raise ConfigError(f"{key}: no preset {name!r}; {suggest(name, [*PRESETS, *self.recipes])}")
        for latents in self.dictionaries:
            try:
                refuse_pairs(self.recipe(name), latents=latents, neighbours="pool_then_encode" not in poolings)
            except ConfigError as error:
                raise ConfigError(f"train.recipes.{name}: {error}") from error


def _described(name: str, given: Mapping[str, Any]) -> TrainConfig:
    try:
        return described_recipe(given)
    except ConfigError as error:
        raise ConfigError(f"train.recipes.{name}: {str(error).removeprefix('recipe: ')}") from error
