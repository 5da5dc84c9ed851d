"""Base model of configuration sections, and checks of lists."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Value = TypeVar("Value")
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Seeds that NumPy, PyTorch and scikit-learn all accept."""
Latents = Annotated[int, Field(ge=2, le=2**27)]
"""Numbers of latents; whether they fit into memory is checked before training."""
Repeats = Annotated[int, Field(ge=1, le=100_000)]
"""Refits, epochs or crops: more take months, and give no further digit."""
Layer = Annotated[int, Field(ge=0, lt=10_000)]


class Section(BaseModel):
    """Section of the configuration: immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def as_tuple(value: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    """Return a setting that takes one value or a list as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def require_unique(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return values; raise `ValueError` if there are none or a value occurs twice."""
    if not values or len(set(values)) != len(values):
        raise ValueError("give at least one value, each once")
    return values


def require_layers(layers: object) -> object:
    """Return layers; raise `ValueError` for an empty list."""
    if layers == ():
        raise ValueError("give at least one layer, or all")
    return layers
