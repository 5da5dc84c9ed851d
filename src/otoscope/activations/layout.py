"""Names of the files of a store, and the identity that all of them share."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from otoscope.activations.plan import Sharding
from otoscope.activations.tensorfile import PRECISIONS
from otoscope.artifacts import environment, fingerprint
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoder, check_layers
from otoscope.errors import ConfigError, suggest

FORMAT = 1
CARD = "card.json"
MANIFEST = "manifest.json"
CLIPS = "clips.parquet"
SET_ASIDE = "set_aside.parquet"
UNRELATED = frozenset({"scikit-learn"})
"""Packages that `environment` names and that no activation passes through."""


def tensor_path(layer: int, kind: str, shard: int) -> str:
    """Return where a shard of one layer lies; `kind` is frames, pooled or tokens.

    >>> tensor_path(3, "frames", 0)
    'layer_03/frames-00000.safetensors'
    """
    return f"layer_{layer:02d}/{kind}-{shard:05d}.safetensors"


def index_path(shard: int) -> str:
    """Return where the frame rows of a shard lie."""
    return f"index/{shard:05d}.parquet"


def shard_card_path(shard: int) -> str:
    """Return where the card of a shard lies."""
    return f"shards/{shard:05d}.json"


def identity(
    corpus: Corpus,
    encoder: Encoder,
    *,
    layers: Sequence[int],
    dtype: str = "float32",
    pooled: bool = True,
    frames: bool = True,
    batch_s: float = 30.0,
    sharding: Sharding | None = None,
) -> dict[str, Any]:
    """Return everything that a store's bytes are a function of, as plain JSON; its `fingerprint` is among it.

    Of the corpus only the sound counts: new labels or splits leave the activations as they are.
    Raises `UnknownLayer` for a layer that the encoder lacks, `ConfigError` for settings that make no store.
    """
    if not layers:
        raise ConfigError("no layer was asked for; name at least one")
    check_layers(layers, encoder.layers, encoder.name)
    if dtype not in PRECISIONS:
        raise ConfigError(f"activations cannot be stored as {dtype!r}; {suggest(dtype, PRECISIONS)}")
    if not (pooled or frames):
        raise ConfigError("a store holds pooled clips, frames or both; both were switched off")
    if batch_s <= 0:
        raise ConfigError(f"batch_s is {batch_s}; it must be above 0")
    wanted = set(layers)
    sound = corpus.clips.select("clip_id", "start_s", "duration_s", "digest").sort("clip_id")
    card: dict[str, Any] = {
        "format": FORMAT,
        "corpus": {"name": corpus.name, "clips": sound.height, "sound": fingerprint(sound.rows())},
        "encoder": {
            "name": encoder.name,
            "revision": encoder.revision,
            "context": getattr(encoder, "context", None),
            "rate_hz": encoder.rate_hz,
        },
        "layers": [asdict(layer) for layer in encoder.layers if layer.index in wanted],
        "dtype": dtype,
        "pooled": pooled,
        "frames": frames,
        "batch_s": batch_s,
        "sharding": asdict(sharding or Sharding()),
        "versions": {name: release for name, release in environment().items() if name not in UNRELATED},
    }
    return {"fingerprint": fingerprint(card), **card}


def differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """Say where two identities differ, one phrase a setting.

    >>> differences({"dtype": "float16", "encoder": {"name": "a"}}, {"dtype": "float32", "encoder": {"name": "b"}})
    ['dtype is float16, asked for float32', 'encoder.name is a, asked for b']
    """
    phrases: list[str] = []
    for key in sorted(found.keys() | wanted.keys()):
        old, new = found.get(key), wanted.get(key)
        if old == new or (not prefix and key == "fingerprint"):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            phrases += differences(old, new, f"{prefix}{key}.")
        elif key == "layers" and isinstance(old, list) and isinstance(new, list):
            phrases += _layer_difference(old, new)
        else:
            phrases.append(f"{prefix}{key} is {old}, asked for {new}")
    return phrases


def _layer_difference(old: list[Any], new: list[Any]) -> list[str]:
    indices = [layer["index"] for layer in old], [layer["index"] for layer in new]
    if indices[0] != indices[1]:
        return [f"layers are {indices[0]}, asked for {indices[1]}"]
    return ["the layers' geometry is another"]


def locate(folder: Path, relative: str) -> Path:
    """Return a file of the store from the name that its cards give it."""
    return folder / relative
