"""JSON files of a store: their shapes, and the check that a folder is a store before anything is written to it."""

import json
from contextlib import suppress
from itertools import accumulate
from pathlib import PurePosixPath
from types import GenericAlias
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from otoscope.activations.format import CARD, MANIFEST, SHARD_FILE, is_store_file, is_temporary, shard_card_path
from otoscope.activations.storage import LOCK, LocalStorage, Storage
from otoscope.artifacts import parse_json_as, write_json
from otoscope.errors import ArtifactError, DamagedArtifact, quote

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
    with storage.publish(relative) as temporary:
        write_json(temporary, value)


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
