"""Base model of configuration sections, and types of settings that several sections have."""

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Literal, ParamSpec, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from otoscope.errors import ConfigError

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")
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


SETTING_ERROR = "setting"
"""Type of a validation error with a complete message."""


def collect_errors(validator: Callable[Arguments, Value]) -> Callable[Arguments, Value]:
    """Return a validator whose `ConfigError` is one of the errors of a configuration, and does not hide the others."""

    @wraps(validator)
    def collecting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
        try:
            return validator(*args, **kwargs)
        except ConfigError as error:
            raise PydanticCustomError(SETTING_ERROR, "{text}", {"text": str(error)}) from error

    return collecting


def as_tuple(value: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    """Return a setting that takes one value or a list as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def require_unique(value: Value) -> Value:
    """Return a value or a tuple; raise `ValueError` for an empty tuple or a value that occurs twice."""
    values: tuple[object, ...] = as_tuple(value)
    if not values or len(set(values)) != len(values):
        raise ValueError("give at least one value, each once")
    return value


def _require_layers(layers: Value) -> Value:
    if layers == ():
        raise ValueError("give at least one layer, or all")
    return layers


Unique = AfterValidator(require_unique)
"""Validator of settings that take one value or several, each once."""

Layers = Annotated[Literal["all"] | tuple[Layer, ...], AfterValidator(_require_layers)]
