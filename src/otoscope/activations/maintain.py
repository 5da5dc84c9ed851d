"""Looking after stores: what one holds, whether it is whole, what can go, and several made into one."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import polars as pl

from otoscope.activations.damage import is_marked, verify_files
from otoscope.activations.format import (
    CARD,
    DAMAGED,
    FORMAT,
    MANIFEST,
    MENDED,
    differences,
    segments_path,
    shard_card_path,
)
from otoscope.activations.integrity import check_files
from otoscope.activations.manifest import commit_store, read_manifest
from otoscope.activations.plan import stored_keys
from otoscope.activations.storage.base import REDIRECT, Storage, open_storage, read_card, write_card
from otoscope.activations.store import ActivationStore
from otoscope.activations.tensorfile import index_path
from otoscope.artifacts import fingerprint, read_table, write_table
from otoscope.errors import ArtifactError, DamagedArtifact, IncompleteArtifact, StaleArtifact


class Cleared(NamedTuple):
    """Files that no manifest needs, and the bytes that they took; `waiting` says why some were left.

    `sharing` counts the clips that are listed no more and stay, because listed ones lie in the same shards.
    """

    files: list[str]
    bytes: int
    waiting: str
    sharing: int


def store_info(place: str | Path) -> dict[str, Any]:
    """Sum up a store: what it was made of, what it holds, and the bytes of each kind of file."""
    store = ActivationStore.open(place)
    card = store.manifest
    sizes: dict[str, int] = {}
    for name, described in store.files.items():
        kind = PurePosixPath(name).name.split("-")[0] if name.startswith("layer_") else "tables"
        sizes[kind] = sizes.get(kind, 0) + int(described["bytes"])
    return {
        "place": store.folder,
        "fingerprint": store.fingerprint,
        "encoder": card["encoder"],
        "layers": {str(layer["index"]): layer["width"] for layer in card["layers"]},
        "dtype": store.dtype,
        "clips": card["clips"],
        "set_aside": card["set_aside"],
        "hours": round(card["sound_s"] / 3600, 4),
        "frames": store.frames if store.has_frames else 0,
        "segments": _segments_listed(store),
        "shards": len(card["shards"]),
        "bytes": sizes,
        "bytes_total": sum(sizes.values()),
        "clips_dropped": sum(shard["clips"] - shard["listed"] for shard in card["shards"]),
    }


def _segments_listed(store: ActivationStore) -> int:
    """Count the segments of the clips that are listed; tables are read only where a shard holds others beside them."""
    shards = store.manifest["shards"]
    if all(shard["listed"] == shard["clips"] for shard in shards):
        return sum(shard["segments"] for shard in shards)
    return store.segments.height if store.has_segments else 0


def verify_store(place: str | Path) -> list[str]:
    """Recompute every checksum; return what is wrong with each file that is not as it was written.

    Damage is marked in the store (where it can be written), so that the next extraction writes those shards anew.
    """
    return verify_files(open_storage(place))


def is_known_damaged(place: str | Path) -> bool:
    """Whether a verification marked the store as damaged and no extraction has mended it since."""
    return is_marked(open_storage(place))


def is_merged(place: str | Path) -> bool:
    """Whether the store was merged from others and no extraction has written to it since: none can mend it."""
    return "merged" in read_manifest(open_storage(place))


def collect_garbage(place: str | Path, *, dry_run: bool = False) -> Cleared:
    """Remove what the manifest does not need: leftovers of killed runs, shards whose clips are all gone, old tables.

    Shards of an extraction that was begun and never finished stay: the next run goes on with them.
    """
    home = open_storage(place)
    read_manifest(home)  # where there is no store, no lock is left either
    with home.write_lock():
        manifest = read_manifest(home)
        needed = _needed(home, manifest)
        begun = manifest["format"] == FORMAT and read_card(home, CARD)["fingerprint"] != manifest["fingerprint"]
        spare = [name for name in home.list_files() if name not in needed and not (begun and _is_shard(name))]
        sizes = {name: home.size(name) or 0 for name in spare}
        if not dry_run:
            for name in spare:
                home.remove(name)
        waiting = "an extraction was begun and not finished; run it again, then collect" if begun else ""
        sharing = sum(shard["clips"] - shard["listed"] for shard in manifest["shards"] if shard["listed"])
        return Cleared(spare, sum(sizes.values()), waiting, sharing)


def merge_stores(into: str | Path, places: Sequence[str | Path]) -> ActivationStore:
    """Copy the clips of one or several stores of one recipe into a new one.

    A clip that several hold is taken from the first. What is copied is checked against its checksum. Raises
    `DamagedArtifact` naming the file of a source that is not as it was written, `StaleArtifact` when the recipes
    differ, `ArtifactError` when one name stands for different sound or when the new place is taken.
    """
    target = open_storage(into)
    if target.size(CARD) is not None:
        raise ArtifactError(f"{target.address} holds activations already; merge into a new place")
    sources = [_source(open_storage(place)) for place in places]
    first = sources[0]
    for other in sources[1:]:
        if other.card["recipe"] != first.card["recipe"]:
            stores = (first.home.address, other.home.address)
            told = "; ".join(differences(_recipe(first.card), _recipe(other.card), stores=stores))
            raise StaleArtifact(f"{stores[1]} cannot be merged with {stores[0]}: {told}")
    keys: dict[str, str] = {}
    for source in sources:
        for clip_id, key in source.keys.items():
            if keys.setdefault(clip_id, key) != key:
                raise ArtifactError(f"{clip_id!r} is other sound in {source.home.address} than in a store before it")
    with target.write_lock():
        begun = {**_recipe(first.card), "recipe": first.card["recipe"], "corpus": _joined(sources, keys)}
        written: dict[int, dict[str, Any]] = {}
        for source in sources:
            for shard in source.card["shards"]:
                if shard["listed"]:
                    written[len(written)] = _copy(source.home, shard, target, len(written))
        kept = [[number, shard["key"]] for number, shard in written.items()]
        card = {**begun, "kept": kept, "first": len(written)}
        card = {"fingerprint": fingerprint(card), "merged": len(sources), **card}
        write_card(target, CARD, card)
        commit_store(target, card, keys, written)
    return ActivationStore.open(into)


class _Source(NamedTuple):
    """A store to be merged: `keys` names the clips that count in it, with their sound."""

    home: Storage
    card: dict[str, Any]
    keys: Mapping[str, str]


def _source(home: Storage) -> _Source:
    card = read_manifest(home)
    if card["format"] != FORMAT or read_card(home, MANIFEST)["format"] != FORMAT:
        raise ArtifactError(f"{home.address} is of an earlier format; extract once more with this release, then merge")
    cards = {shard_card_path(shard["shard"]): shard["card"] for shard in card["shards"]}
    check_files(home, {table["file"]: table for table in card["tables"].values()} | cards, verify=True)
    store = ActivationStore.open(home.address)
    listed = {(clip_id, shard) for clip_id, shard in store.clips.select("clip_id", "shard").iter_rows()}
    aside = set(store.set_aside["clip_id"])
    keys: dict[str, str] = {}
    for shard in card["shards"]:
        number = shard["shard"]
        for clip_id, key in stored_keys(read_card(home, shard_card_path(number))).items():
            if (clip_id, number) in listed or clip_id in aside:
                keys.setdefault(clip_id, key)
    return _Source(home, card, keys)


def _recipe(card: Mapping[str, Any]) -> dict[str, Any]:
    names = ("format", "encoder", "layers", "dtype", "pooled", "frames", "segments", "batch_s", "sharding", "versions")
    return {name: card[name] for name in names}


def _joined(sources: Sequence[_Source], keys: Mapping[str, str]) -> dict[str, Any]:
    names = list(dict.fromkeys(str(source.card["corpus"]["name"]) for source in sources))
    return {"name": "+".join(names), "clips": len(keys), "sound": fingerprint(sorted(keys.items()))}


def _copy(source: Storage, shard: Mapping[str, Any], target: Storage, number: int) -> dict[str, Any]:
    """Copy a shard under another number: tensors as they are, tables with the new number in them."""
    old = int(shard["shard"])
    card = read_card(source, shard_card_path(old))
    files: dict[str, Any] = {}
    for name, described in card["files"].items():
        path = source.fetch(name, described)
        data = path.read_bytes()
        if sha256(data).hexdigest() != described["sha256"]:
            raise DamagedArtifact(
                f"{source.address}/{name} is damaged: its SHA-256 is not its card's, so nothing was merged; "
                f"`otoscope store verify {source.address}` marks it, extract that store again, then merge"
            )
        renamed = _renumbered(name, old, number)
        with target.publish(renamed) as temporary:
            if name in (index_path(old), segments_path(old)):
                write_table(temporary, read_table(path).with_columns(shard=pl.lit(number, dtype=pl.Int32)))
            else:
                temporary.write_bytes(data)
        files[renamed] = target.file_record(renamed)
    card = {**card, "shard": number, "files": files}
    write_card(target, shard_card_path(number), card)
    return card


def _renumbered(name: str, old: int, new: int) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.replace(f"{old:05d}", f"{new:05d}")))


def _needed(home: Storage, manifest: Mapping[str, Any]) -> set[str]:
    tables = {table["file"] for table in manifest["tables"].values()}
    needed = {CARD, DAMAGED, MANIFEST, MENDED, REDIRECT, *tables}
    if home.size(CARD) is None:
        raise IncompleteArtifact(f"{home.address} has a manifest but no card; extract again")
    for shard in manifest["shards"]:
        needed |= {shard_card_path(shard["shard"]), *shard["files"]}
    return needed


def _is_shard(name: str) -> bool:
    return PurePosixPath(name).parent.name in ("shards", "index", "segments") or name.startswith("layer_")
