"""Sparsifiers: from pre-activations to sparse, non-negative codes.

- `TopK`: the k largest of each row
- `BatchTopK`: the `k * rows` largest of a batch, a threshold afterwards
- `ReLU`, `JumpReLU`, `Gated`: a penalty whose weight is adjusted until rows have k active latents on average
- `Sparsifier`: the interface; pass your own instance to `fit(sparsifier=...)`

`SPARSIFIERS` lists the built-in ones by name. Hyper-parameters are keyword arguments of their constructors and keys of
a mapping in a configuration: `{name: jumprelu, bandwidth: 0.2}`.
"""

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any, TypeAlias

from otoscope.errors import ConfigError, DamagedArtifact, suggest
from otoscope.sae.sparsifiers.base import Sparsifier, check_k
from otoscope.sae.sparsifiers.penalised import Gated, JumpReLU, ReLU
from otoscope.sae.sparsifiers.topk import BatchTopK, TopK

__all__ = [
    "SPARSIFIERS",
    "BatchTopK",
    "Gated",
    "JumpReLU",
    "ReLU",
    "Sparsifier",
    "SparsifierSpec",
    "TopK",
    "build_sparsifier",
    "check_sparsifier",
    "describe_sparsifier",
    "sparsifier_card",
    "sparsifier_from_card",
]

SPARSIFIERS: dict[str, type[Any]] = {
    "topk": TopK,
    "batch_topk": BatchTopK,
    "relu": ReLU,
    "jumprelu": JumpReLU,
    "gated": Gated,
}
"""Built-in sparsifiers. TopK limits every row to k active latents; the others reach k on average."""

SparsifierSpec: TypeAlias = str | dict[str, Any]
"""A sparsifier in a configuration: its name, or a mapping with `name` and hyper-parameters."""


def build_sparsifier(spec: str | Mapping[str, Any], *, k: int | None, latents: int) -> Sparsifier:
    """Return the built-in sparsifier that a name or a mapping describes.

    Raises `ConfigError` for an unknown name or hyper-parameter (with the nearest one), and for values out of range.

    >>> describe_sparsifier(build_sparsifier({"name": "jumprelu", "bandwidth": 0.2}, k=4, latents=64))
    'JumpReLU(k=4, bandwidth=0.2, penalty_weight=0.01, penalty_rate=0.05)'
    """
    settings = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in SPARSIFIERS:
        raise ConfigError(f"no sparsifier {name!r}; {suggest(name, SPARSIFIERS)}")
    if k is None:
        raise ConfigError(f"the sparsifier {name!r} needs k")
    kind = SPARSIFIERS[name]
    parameters = signature(kind).parameters
    known = {key: p.default for key, p in parameters.items() if p.default is not Parameter.empty}
    for key in settings:
        if key not in known:
            raise ConfigError(f"no hyper-parameter {key!r} of the sparsifier {name!r}; {suggest(key, known)}")
    size = {"latents": latents} if "latents" in parameters else {}
    return kind(check_k(k, latents), **size, **settings)


def check_sparsifier(spec: str | Mapping[str, Any]) -> SparsifierSpec:
    """Return a valid specification, as a name where it has no hyper-parameters; raise `ConfigError` otherwise."""
    build_sparsifier(spec, k=1, latents=1)
    if isinstance(spec, str):
        return spec
    return str(spec["name"]) if len(spec) == 1 else dict(spec)


def sparsifier_card(sparsifier: Sparsifier) -> dict[str, Any]:
    """Return a JSON-able description: `name` for a built-in class, else `class`, and the constructor's arguments.

    >>> sparsifier_card(TopK(3))
    {'name': 'topk', 'k': 3}
    """
    kind = type(sparsifier)
    names = [name for name, built_in in SPARSIFIERS.items() if built_in is kind]
    identity = {"name": names[0]} if names else {"class": f"{kind.__module__}.{kind.__qualname__}"}
    return {**identity, **_arguments(sparsifier)}


def describe_sparsifier(sparsifier: Sparsifier) -> str:
    """Return a sparsifier as a constructor call.

    >>> describe_sparsifier(BatchTopK(3))
    'BatchTopK(k=3, momentum=0.05)'
    """
    arguments = ", ".join(f"{name}={value!r}" for name, value in _arguments(sparsifier).items())
    return f"{type(sparsifier).__name__}({arguments})"


def _arguments(sparsifier: Sparsifier) -> dict[str, str | int | float]:
    """Return the constructor's arguments that the sparsifier stores under their own names; `k` in any case."""
    values = {name: getattr(sparsifier, name, ...) for name in ["k", *signature(type(sparsifier)).parameters]}
    return {name: value for name, value in values.items() if name != "latents" and isinstance(value, str | int | float)}


def sparsifier_from_card(card: Mapping[str, Any], *, latents: int, given: Sparsifier | None = None) -> Sparsifier:
    """Return the sparsifier that a card describes, or the `given` instance if it matches the card.

    A class from outside the package is never imported from a card: its instance must be `given`, else `ConfigError`.
    Raises `DamagedArtifact` if the card describes no sparsifier.
    """
    if given is not None:
        if (actual := sparsifier_card(given)) != dict(card):
            raise ConfigError(f"the SAE was saved with the sparsifier {dict(card)}, got {actual}; give an equal one")
        return given
    if "class" in card:
        raise ConfigError(
            f"the sparsifier {card['class']} is not part of otoscope, and code is never imported from a file; give an "
            f"instance, such as from_pretrained(path, sparsifier={str(card['class']).rpartition('.')[2]}(...))"
        )
    settings = dict(card)
    k = settings.pop("k", None)
    try:
        return build_sparsifier(settings, k=k, latents=latents)
    except (ConfigError, TypeError) as error:
        raise DamagedArtifact(f"the card's sparsifier {dict(card)} cannot be built: {error}") from error
