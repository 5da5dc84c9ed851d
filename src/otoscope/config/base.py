"""What the sections of a configuration share: their model, and checks of lists."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Value = TypeVar("Value")
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """One block of the configuration: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def as_tuple(value: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    """Return the values of a setting that takes one or a list."""
    return value if isinstance(value, tuple) else (value,)


def require_unique(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return values; raise `ValueError` unless there is one, and none twice."""
    if not values or len(set(values)) != len(values):
        raise ValueError("give at least one value, each once")
    return values


def require_layers(layers: object) -> object:
    """Return layers; raise `ValueError` for an empty list."""
    if layers == ():
        raise ValueError("give at least one layer, or all")
    return layers
