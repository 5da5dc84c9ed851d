"""Files of a store: names, the specification that its shards share, and the shapes of its JSON files.

A folder is checked to be a store before anything is written to it.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import PurePosixPath
from types import GenericAlias
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import Field
from typing_extensions import TypedDict

from otoscope.activations.segments import Segments
from otoscope.activations.storage import LOCK, LocalStorage, Storage
from otoscope.activations.tensorfile import PRECISIONS
from otoscope.artifacts import environment, json_bytes, parse_json_as, table_bytes
from otoscope.encoders.base import Encoder, check_layers
from otoscope.errors import ArtifactError, ConfigError, DamagedArtifact, quote, suggest

FORMAT = 2
CARD = "card.json"
MANIFEST = "manifest.json"
DAMAGED = "damaged.json"
"""List of files that a verification found damaged; removed once an extraction has rewritten them."""
REPAIRED = "repaired.json"
"""Number of times that each file was damaged and then restored, for files with any; part of a layer's identity."""
CLIPS = "clips"
SET_ASIDE = "set_aside"
UNRELATED = frozenset({"scikit-learn"})
"""Packages in `environment` that do not affect activations."""


SHARD_FILE = r"^(?:(?:index|segments)/[0-9]{5,10}\.parquet|layer_[0-9]{2,}/[a-z]+-[0-9]{5,10}\.safetensors)$"
"""Names of the files of a shard, except its card."""

_STORE_FILE = re.compile(
    rf"(card|manifest|damaged|repaired|redirect)\.json|(clips|set_aside)(-[0-9]+)?\.parquet|shards/[0-9]{{5,10}}\.json|{SHARD_FILE}"
)
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part")


def is_store_file(name: str) -> bool:
    """Return whether a relative path is that of a file that otoscope writes into a store, or of its temporary file.

    >>> [is_store_file(name) for name in ("shards/00001.json", "layer_03/.pooled-00000.safetensors.0123abcd.part")]
    [True, True]
    >>> is_store_file("shards/notes.json")
    False
    """
    folder, slash, file = name.rpartition("/")
    if temporary := _TEMPORARY.fullmatch(file):
        file = temporary[1]
    return _STORE_FILE.fullmatch(f"{folder}{slash}{file}") is not None


def is_temporary(name: str) -> bool:
    """Return whether a relative path is that of a temporary file of a writer of a store."""
    return _TEMPORARY.fullmatch(name.rpartition("/")[2]) is not None and is_store_file(name)


def segments_path(shard: int) -> str:
    """Return the path of a shard's segment table."""
    return f"segments/{shard:05d}.parquet"


def shard_card_path(shard: int) -> str:
    """Return the path of a shard's card."""
    return f"shards/{shard:05d}.json"


def table_path(table: str, generation: int) -> str:
    """Return the path of a store-wide table; each change of the clips starts a new generation.

    >>> table_path("clips", 0), table_path("clips", 2)
    ('clips.parquet', 'clips-2.parquet')
    """
    return f"{table}-{generation}.parquet" if generation else f"{table}.parquet"


@dataclass(frozen=True)
class Sharding:
    """Limits of shards, and windows of long clips.

    A shard ends before it exceeds `shard_clips` clips, `shard_s` seconds of sound or `shard_mb` megabytes over all
    layers; a clip above a limit gets its own shard. Clips longer than `window_s` (or than the encoder's own limit, if
    that is shorter) are encoded in windows that overlap by at least `overlap_s`.
    """

    shard_clips: int = 256
    shard_s: float = 1800.0
    shard_mb: float = 256.0
    window_s: float = 30.0
    overlap_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("shard_clips", "shard_s", "shard_mb", "window_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.overlap_s < self.window_s:
            raise ConfigError(f"overlap_s is {self.overlap_s}; allowed: from 0 to below window_s ({self.window_s})")


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
    """Return everything but the sound that determines a clip's activations, as plain JSON.

    Raises `UnknownLayer` for a layer that the encoder lacks, `ConfigError` for invalid settings.
    """
    if not layers:
        raise ConfigError("layers is empty; name at least one layer")
    check_layers(layers, encoder.layers, encoder.name)
    if dtype not in PRECISIONS:
        raise ConfigError(f"activations cannot be stored as {dtype!r}; {suggest(dtype, PRECISIONS)}")
    if not (pooled or frames or segments):
        raise ConfigError("a store holds pooled clips, frames or segments; all are switched off")
    if batch_s <= 0:
        raise ConfigError(f"batch_s is {batch_s}; it must be above 0")
    return {
        "format": FORMAT,
        "encoder": {
            "name": encoder.name,
            "revision": encoder.revision,
            "context": getattr(encoder, "context", None),
            "precision": getattr(encoder, "precision", "exact"),
            "rate_hz": encoder.rate_hz,
        },
        "layers": [asdict(layer) for layer in encoder.layers if layer.index in set(layers)],
        "dtype": dtype,
        "pooled": pooled,
        "frames": frames,
        "segments": None if segments is None else segments.settings(),
        "batch_s": batch_s,
        "sharding": asdict(sharding or Sharding()),
        "versions": {name: release for name, release in environment().items() if name not in UNRELATED},
    }


def spec_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a card or manifest that `store_spec` wrote."""
    names = ("format", "encoder", "layers", "dtype", "pooled", "frames", "segments", "batch_s", "sharding", "versions")
    return {name: manifest[name] for name in names}


def differences(
    stored: dict[str, Any], requested: dict[str, Any], prefix: str = "", *, stores: tuple[str, str] | None = None
) -> list[str]:
    """List the settings in which two specifications differ, one phrase per setting; `stores` names both.

    >>> differences({"dtype": "float16", "encoder": {"name": "a"}}, {"dtype": "float32", "encoder": {"name": "b"}})
    ['dtype is float16, requested float32', 'encoder.name is a, requested b']
    >>> differences({"dtype": "float16"}, {"dtype": "float32"}, stores=("runs/a", "runs/b"))
    ['dtype is float16 in runs/a, float32 in runs/b']
    """
    phrases: list[str] = []
    for key in sorted(stored.keys() | requested.keys()):
        old, new = stored.get(key), requested.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            phrases += differences(old, new, f"{prefix}{key}.", stores=stores)
        elif key == "layers" and isinstance(old, list) and isinstance(new, list):
            phrases += _layer_difference(old, new, stores)
        else:
            phrases.append(f"{prefix}{key} is {_compared(old, new, stores)}")
    return phrases


def _compared(old: object, new: object, stores: tuple[str, str] | None) -> str:
    return f"{old}, requested {new}" if stores is None else f"{old} in {stores[0]}, {new} in {stores[1]}"


def _layer_difference(old: list[Any], new: list[Any], stores: tuple[str, str] | None) -> list[str]:
    indices = [layer["index"] for layer in old], [layer["index"] for layer in new]
    if indices[0] != indices[1]:
        return [f"layers are {_compared(*indices, stores)}"]
    return ["the geometry of the layers differs"]


Count = Annotated[int, Field(ge=0, lt=2**62)]
ShardNumber = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class StoredFile(TypedDict):
    """Size and SHA-256 of a file."""

    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StoredTable(StoredFile):
    """A table of the whole store."""

    file: str


class StoredLayer(TypedDict):
    """Width and frame geometry of a layer."""

    index: Count
    width: Annotated[int, Field(gt=0, lt=2**31)]
    rate_hz: float


class StoredEncoder(TypedDict):
    """Name and revision of the encoder; other entries are its settings."""

    name: str
    revision: str


class StoredCorpus(TypedDict):
    """Name, number of clips, and identity of the sound of a corpus."""

    name: str
    clips: Count
    sound: str


class StoreCard(TypedDict):
    """Specification and identity of a store: `card.json`."""

    fingerprint: str
    format: Literal[2]
    encoder: StoredEncoder
    layers: Annotated[list[StoredLayer], Field(min_length=1)]
    dtype: Literal["float32", "float16", "bfloat16"]
    pooled: bool
    frames: bool
    segments: dict[str, Any] | None
    batch_s: Seconds
    sharding: dict[str, Seconds]
    versions: dict[str, str]
    spec_id: str
    corpus: StoredCorpus
    kept: list[tuple[ShardNumber, str]]
    first: ShardNumber


class ListedShard(TypedDict):
    """A shard in the manifest."""

    shard: ShardNumber
    clips: Count
    listed: Count
    rows: Count
    segments: Count
    card: StoredFile
    files: dict[str, StoredFile]


class StoredTables(TypedDict):
    """Tables of the whole store."""

    clips: StoredTable
    set_aside: StoredTable


class Manifest(StoreCard):
    """Contents of a complete store: `manifest.json`."""

    complete: Literal[True]
    generation: ShardNumber
    clips: Count
    rows: Count
    sound_s: Seconds
    set_aside: Count
    tables: StoredTables
    shards: list[ListedShard]


class ShardCard(TypedDict):
    """Contents of a shard: `shards/NNNNN.json`.

    `clips` holds `clip_id, path, first_offset, frames, sound_s, key`, `set_aside` holds `clip_id, path, reason, key`.
    """

    shard: ShardNumber
    spec_id: str
    key: str
    frames: Count
    segments: Count
    clips: list[tuple[str, str, Count, Count, Seconds, str]]
    set_aside: list[tuple[str, str, str, str]]
    files: dict[Annotated[str, Field(pattern=SHARD_FILE)], StoredFile]


MANIFEST_ONLY = Manifest.__annotations__.keys() - StoreCard.__annotations__.keys()
"""Entries of a manifest that are not in the store's card."""


def read_card(storage: Storage, relative: str, kind: type[Any] | GenericAlias) -> dict[str, Any]:
    """Read a JSON file; raise `IncompleteArtifact` if it is missing, `DamagedArtifact` if it has another shape."""
    data = storage.read(relative)
    parse_json_as(data, kind, name=f"{storage.address}/{relative}")
    return json.loads(data)


def read_shard_card(storage: Storage, shard: int) -> dict[str, Any]:
    """Read the card of a shard; raise as `read_card`, also if its clips overlap or leave gaps."""
    name = shard_card_path(shard)
    card = read_card(storage, name, ShardCard)
    spans = sorted((clip[2], clip[3]) for clip in card["clips"])  # offset and number of frames of each clip
    offsets = list(accumulate((frames for _, frames in spans), initial=0))
    if card["shard"] != shard or [first for first, _ in spans] != offsets[:-1] or offsets[-1] != card["frames"]:
        raise DamagedArtifact(f"{storage.address}/{name} is damaged: its clips overlap or leave gaps; extract again")
    return card


def write_card(storage: Storage, relative: str, value: object) -> None:
    """Write a JSON file atomically."""
    _publish(storage, relative, json_bytes(value))


def publish_table(storage: Storage, relative: str, table: pl.DataFrame) -> None:
    """Write a Parquet file atomically, where the storage decides on its temporary name."""
    _publish(storage, relative, table_bytes(table))


def _publish(storage: Storage, relative: str, content: bytes) -> None:
    with storage.publish(relative) as temporary:
        temporary.write_bytes(content)


def card_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the card of a complete store from its manifest."""
    return {name: value for name, value in manifest.items() if name not in MANIFEST_ONLY}


DESKTOP = frozenset({".DS_Store", "Thumbs.db", "desktop.ini", ".directory"})
"""Files that file managers leave in any folder that they show."""


def require_store(storage: Storage) -> None:
    """Raise `ArtifactError` unless an address is new, empty, or carries a card of a store; write nothing."""
    names = storage.list_top()
    others = [name for name in names if name not in DESKTOP and not is_temporary(name)]
    if others and not _is_store(storage, others):
        shown = ", ".join(map(quote, others[:3])) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise ArtifactError(
            f"{storage.address} is not empty and holds no activations of otoscope ({shown}); nothing was written: "
            "choose a new or empty folder"
        )


def _is_store(storage: Storage, names: list[str]) -> bool:
    for name, kind in ((CARD, StoreCard), (MANIFEST, Manifest)):
        if name in names:
            with suppress(ArtifactError):
                return bool(read_card(storage, name, kind))
    if "shards" in names and CARD in names:  # a damaged card
        for name in storage.list_files():
            if name.startswith("shards/") and is_store_file(name):
                with suppress(ArtifactError):
                    return bool(read_card(storage, name, ShardCard))
    return False


def foreign_files(storage: Storage) -> list[str]:
    """Return the files at an address that otoscope did not write."""
    return [
        name for name in storage.list_files() if not is_store_file(name) and PurePosixPath(name).name not in DESKTOP
    ]


def remove_store(storage: Storage) -> None:
    """Remove the files of a store; files of others stay, and with them their folders."""
    for name in storage.list_files():
        if is_store_file(name):
            storage.remove(name)
    if isinstance(storage, LocalStorage):
        (storage.folder / LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            storage.folder.rmdir()
