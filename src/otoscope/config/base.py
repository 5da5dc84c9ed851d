"""Base model of configuration sections, and checks of lists."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Value = TypeVar("Value")
Share = Annotated[float, Field(ge=0.0, le=1.0)]


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
