"""Which dictionaries are trained: the section `train`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from otoscope.config.base import Section, each_once, not_empty, several
from otoscope.errors import ConfigError, suggest
from otoscope.sae.presets import PRESETS

PAPER_SPARSITIES = (0.75, 0.80, 0.85, 0.90, 0.95, 0.99)
"""The six sparsities of the study (arXiv 2509.24793)."""

Pooling = Literal["encode_then_pool", "pool_then_encode"]
Latents = Annotated[int, Field(ge=2)]


class TrainSettings(Section):
    """Which dictionaries are trained: layers x poolings x presets x latents x sparsities x seeds."""

    preset: str | tuple[str, ...] = Field(
        default="default", description="a training recipe or several; `otoscope models` lists them"
    )
    latents: Latents | tuple[Latents, ...] = Field(default=2048, description="size of the dictionary, or several")
    sparsities: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = PAPER_SPARSITIES
    layers: Literal["all"] | tuple[int, ...] = Field(default="all", description="a part of the extracted layers")
    poolings: tuple[Pooling, ...] = Field(
        default=("encode_then_pool",),
        description="frames encoded, codes pooled; or the paper's order, pooled rows encoded",
    )
    seeds: tuple[int, ...] = (0,)

    @field_validator("layers")
    @classmethod
    def _any(cls, value: object) -> object:
        return not_empty(value)

    @field_validator("preset")
    @classmethod
    def _known_presets(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in each_once(several(value)):
            if name not in PRESETS:
                raise ConfigError(f"train.preset: no preset {name!r}; {suggest(name, PRESETS)}")
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
