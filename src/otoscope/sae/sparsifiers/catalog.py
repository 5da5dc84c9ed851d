"""Every sparsifier by name."""

from collections.abc import Callable, Mapping
from typing import Any

from otoscope.errors import ConfigError, DamagedArtifact, suggest
from otoscope.sae.sparsifiers.base import Sparsifier, TopK, check_k
from otoscope.sae.sparsifiers.batch_topk import BatchTopK
from otoscope.sae.sparsifiers.gated import Gated
from otoscope.sae.sparsifiers.jumprelu import JumpReLU
from otoscope.sae.sparsifiers.relu import ReLU

SPARSIFIERS: dict[str, Callable[[int, int], Sparsifier]] = {
    "topk": lambda k, _: TopK(k),
    "batch_topk": lambda k, _: BatchTopK(k),
    "relu": lambda k, _: ReLU(k),
    "jumprelu": JumpReLU,
    "gated": Gated,
}
"""Constructors of (k, latents). TopK holds every row to k; the others reach k active latents on average."""


def check_sparsifier(kind: str) -> str:
    """Return the name of a sparsifier; raise `ConfigError` with the nearest name for an unknown one."""
    if kind not in SPARSIFIERS:
        raise ConfigError(f"no sparsifier {kind!r}; {suggest(kind, SPARSIFIERS)}")
    return kind


def build_sparsifier(kind: str, *, k: int | None, latents: int) -> Sparsifier:
    """Return a sparsifier by name for a dictionary of so many latents.

    Raises `ConfigError` with the nearest name for an unknown one, and for a k out of range.
    """
    check_sparsifier(kind)
    if k is None:
        raise ConfigError(f"the sparsifier {kind!r} needs k")
    return SPARSIFIERS[kind](check_k(k, latents), latents)


def sparsifier_from_card(card: Mapping[str, Any], *, latents: int) -> Sparsifier:
    """Make the sparsifier that a checkpoint's card describes; raise `DamagedArtifact` if it describes none."""
    settings = dict(card)
    kind = settings.pop("kind", None)
    try:
        return build_sparsifier(str(kind), latents=latents, **settings)
    except (ConfigError, TypeError) as error:
        raise DamagedArtifact(f"the card's sparsifier {dict(card)} cannot be made: {error}") from error
