"""Settings of the strict protocol: the section `evaluate.strict` of a configuration."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from otoscope.config.base import Layer, Section, Share
from otoscope.errors import quote
from otoscope.metrics.representation import BASELINES

Sparsity = Annotated[float, Field(gt=0.0, lt=1.0)]


class StrictSettings(Section):
    """Settings of the strict protocol, including all limits on its cost."""

    layer: Literal["chosen"] | Layer = Field(
        default="chosen",
        description="layer of the full comparison; chosen: by dense activations, cross-validated over groups",
    )
    sparsity: Literal["chosen"] | Sparsity = Field(
        default="chosen",
        description="sparsity of the full comparison; chosen: highest within one standard error of the best",
    )
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(default=5, description="SAEs that differ in the seed only")
    baselines: tuple[str, ...] = Field(
        default=BASELINES, description="baselines compared with dense activations and codes"
    )
    folds: Annotated[int, Field(ge=2, le=1000)] = Field(default=5, description="group folds that choose penalties")
    min_r2: Share = Field(default=0.1, description="minimum held-out R2 of a well-predicted factor")
    near_duplicates: Share = Field(default=0.9, description="absolute rank correlation above which factors are merged")
    sizes: tuple[Annotated[int, Field(ge=1, le=2**27)], ...] = Field(
        default=(1, 2, 4, 8, 16, 32, 64), description="dimensions of the k-sparse curves"
    )
    target: str | None = Field(
        default=None, description="factor of the regression task; default: a pitch factor if there is one"
    )
    limit_sparsities: tuple[Sparsity, ...] = Field(
        default=(0.75, 0.9, 0.95, 0.99, 0.995, 0.999),
        description="sparsities of the search for the limit; empty: no search",
    )
    limit_presets: tuple[str, ...] = Field(
        default=("mariotte2025", "default"), description="presets whose limit is searched"
    )
    untrained_context: Literal["same", "short"] = Field(
        default="same", description="Whisper: context of the untrained encoder; short: actual duration only"
    )

    @field_validator("baselines")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in BASELINES]:
            raise ValueError(f"no baseline {quote(unknown[0])}; known: {', '.join(BASELINES)}")
        return value

    @field_validator("sizes", "limit_sparsities")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("give strictly increasing values")
        return value
