"""Names of the files of a store, and the recipe that all of them share."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from otoscope.activations.segments import Segments
from otoscope.activations.sharding import Sharding
from otoscope.activations.tensorfile import PRECISIONS
from otoscope.artifacts import environment
from otoscope.encoders.base import Encoder, check_layers
from otoscope.errors import ConfigError, suggest

FORMAT = 2
CARD = "card.json"
MANIFEST = "manifest.json"
DAMAGED = "damaged.json"
"""Lists the files that a verification found damaged, until an extraction has written them anew."""
MENDED = "mended.json"
"""Counts how often each file was found damaged and has been whole again since."""
CLIPS = "clips"
SET_ASIDE = "set_aside"
UNSAID = {"precision": "exact"}
"""What a setting is where a recipe leaves it out."""
UNRELATED = frozenset({"scikit-learn"})
"""Packages that `environment` names and that no activation passes through."""


def segments_path(shard: int) -> str:
    """Return where the segment rows of a shard lie."""
    return f"segments/{shard:05d}.parquet"


def shard_card_path(shard: int) -> str:
    """Return where the card of a shard lies."""
    return f"shards/{shard:05d}.json"


def table_path(table: str, generation: int) -> str:
    """Return where a table of the whole store lies: a new file whenever clips come or go.

    >>> table_path("clips", 0), table_path("clips", 2)
    ('clips.parquet', 'clips-2.parquet')
    """
    return f"{table}-{generation}.parquet" if generation else f"{table}.parquet"


def store_spec(
    encoder: Encoder,
    *,
    layers: Sequence[int],
    dtype: str = "float32",
    pooled: bool = True,
    frames: bool = True,
    segments: Segments | None = None,
    batch_s: float = 30.0,
    sharding: Sharding | None = None,
) -> dict[str, Any]:
    """Return all that a clip's activations are a function of beside its sound, as plain JSON.

    Raises `UnknownLayer` for a layer that the encoder lacks, `ConfigError` for settings that make no store.
    """
    if not layers:
        raise ConfigError("no layer was asked for; name at least one")
    check_layers(layers, encoder.layers, encoder.name)
    if dtype not in PRECISIONS:
        raise ConfigError(f"activations cannot be stored as {dtype!r}; {suggest(dtype, PRECISIONS)}")
    if not (pooled or frames or segments):
        raise ConfigError("a store holds pooled clips, frames or segments; all were switched off")
    if batch_s <= 0:
        raise ConfigError(f"batch_s is {batch_s}; it must be above 0")
    wanted = set(layers)
    return {
        "format": FORMAT,
        "encoder": {
            "name": encoder.name,
            "revision": encoder.revision,
            "context": getattr(encoder, "context", None),
            **_unless_exact(encoder),
            "rate_hz": encoder.rate_hz,
        },
        "layers": [asdict(layer) for layer in encoder.layers if layer.index in wanted],
        "dtype": dtype,
        "pooled": pooled,
        "frames": frames,
        "segments": None if segments is None else segments.card(),
        "batch_s": batch_s,
        "sharding": asdict(sharding or Sharding()),
        "versions": {name: release for name, release in environment().items() if name not in UNRELATED},
    }


def _unless_exact(encoder: Encoder) -> dict[str, str]:
    precision = getattr(encoder, "precision", "exact")
    return {} if precision == "exact" else {"precision": precision}


def differences(
    found: dict[str, Any], wanted: dict[str, Any], prefix: str = "", *, stores: tuple[str, str] | None = None
) -> list[str]:
    """Say where two identities differ, one phrase a setting; of two `stores`, name both.

    >>> differences({"dtype": "float16", "encoder": {"name": "a"}}, {"dtype": "float32", "encoder": {"name": "b"}})
    ['dtype is float16, asked for float32', 'encoder.name is a, asked for b']
    >>> differences({"dtype": "float16"}, {"dtype": "float32"}, stores=("runs/a", "runs/b"))
    ['dtype is float16 in runs/a, float32 in runs/b']
    """
    phrases: list[str] = []
    for key in sorted(found.keys() | wanted.keys()):
        old, new = (given.get(key, UNSAID.get(key)) for given in (found, wanted))
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            phrases += differences(old, new, f"{prefix}{key}.", stores=stores)
        elif key == "layers" and isinstance(old, list) and isinstance(new, list):
            phrases += _layer_difference(old, new, stores)
        else:
            phrases.append(f"{prefix}{key} is {_beside(old, new, stores)}")
    return phrases


def _beside(old: object, new: object, stores: tuple[str, str] | None) -> str:
    return f"{old}, asked for {new}" if stores is None else f"{old} in {stores[0]}, {new} in {stores[1]}"


def _layer_difference(old: list[Any], new: list[Any], stores: tuple[str, str] | None) -> list[str]:
    indices = [layer["index"] for layer in old], [layer["index"] for layer in new]
    if indices[0] != indices[1]:
        return [f"layers are {_beside(*indices, stores)}"]
    return ["the layers' geometry is another"]
