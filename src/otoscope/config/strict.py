"""Settings of the strict protocol: the section `evaluate.strict` of a configuration."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from otoscope.metrics.representation import BASELINES

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Sparsity = Annotated[float, Field(gt=0.0, lt=1.0)]


class StrictSettings(BaseModel):
    """What is asked, of how much, and how often; every bound on cost is a setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: Literal["chosen"] | int = Field(
        default="chosen", description="the layer compared in full; chosen: by dense activations, on groups left out"
    )
    sparsity: Literal["chosen"] | Sparsity = Field(
        default="chosen", description="the sparsity compared in full; chosen: within one error of the best"
    )
    seeds: Annotated[int, Field(ge=1)] = Field(default=5, description="dictionaries trained alike but for the seed")
    baselines: tuple[str, ...] = Field(default=BASELINES, description="what stands beside dense and codes")
    folds: Annotated[int, Field(ge=2)] = Field(default=5, description="folds of whole groups that choose penalties")
    permutations: Annotated[int, Field(ge=1)] = Field(default=10, description="refits on permuted targets, for nulls")
    min_r2: Share = Field(default=0.1, description="held-out R2 from which a factor may count as well predicted")
    near_duplicates: Share = Field(
        default=0.9, description="absolute rank correlation from which factors count as one; one of them is asked"
    )
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 2, 4, 8, 16, 32, 64), description="dimensions of the k-sparse curves"
    )
    target: str | None = Field(
        default=None, description="the factor of the continuous task; left out: a pitch where there is one"
    )
    limit_sparsities: tuple[Sparsity, ...] = Field(
        default=(0.75, 0.9, 0.95, 0.99, 0.995, 0.999), description="where the limit is looked for; empty: nowhere"
    )
    limit_presets: tuple[str, ...] = Field(
        default=("mariotte2025", "default"), description="recipes whose limit is looked for"
    )
    untrained_context: Literal["same", "short"] = Field(
        default="same", description="what the untrained encoder hears; short: only the sound there is (Whisper)"
    )

    @field_validator("baselines")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in BASELINES]:
            raise ValueError(f"no baseline {unknown[0]!r}; known: {', '.join(BASELINES)}")
        return value

    @field_validator("sizes", "limit_sparsities")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("give values that rise, each once")
        return value
