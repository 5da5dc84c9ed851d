"""Maintenance of stores: summary, verification, garbage collection, compaction and merging."""

import re
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from otoscope.activations.format import (
    CARD,
    DAMAGED,
    MANIFEST,
    REPAIRED,
    StoreCard,
    differences,
    foreign_files,
    is_store_file,
    publish_table,
    read_card,
    read_shard_card,
    require_store,
    segments_path,
    shard_card_path,
    spec_of,
    write_card,
)
from otoscope.activations.manifest import check_files, commit_store, is_marked, read_manifest, verify_files
from otoscope.activations.plan import shard_numbers, sound_id, stored_keys
from otoscope.activations.storage import REDIRECT, Storage, open_storage
from otoscope.activations.store import ActivationStore
from otoscope.activations.tensorfile import RowFile, index_path, map_tensor
from otoscope.artifacts import fingerprint, read_table
from otoscope.errors import ArtifactError, DamagedArtifact, IncompleteArtifact, StaleArtifact

MIN_UNLISTED = 0.5
"""Fraction of a shard's clips that must be unlisted before compaction copies the others."""

COPY_ROWS = 4096
"""Rows copied at once."""


class GarbageReport(NamedTuple):
    """Files that no manifest needs and their bytes; `waiting` explains why some were not removed.

    `sharing` counts unlisted clips that stay because their shards hold listed clips too; `foreign` lists files that
    otoscope did not write, which stay.
    """

    files: list[str]
    bytes: int
    waiting: str
    sharing: int
    foreign: list[str]


class CompactionReport(NamedTuple):
    """Shards to rewrite, and the number of unlisted clips in them."""

    shards: list[int]
    clips: int


def store_info(address: str | Path) -> dict[str, Any]:
    """Summarise a store: inputs, contents, and bytes per kind of file."""
    store = ActivationStore.open(address)
    manifest = store.manifest
    shards = manifest["shards"]
    sizes: dict[str, int] = {}
    for name, record in store.files.items():
        kind = PurePosixPath(name).name.split("-")[0] if name.startswith("layer_") else "tables"
        sizes[kind] = sizes.get(kind, 0) + int(record["bytes"])
    unlisted = sum(shard["clips"] - shard["listed"] for shard in shards)
    segments = sum(shard["segments"] for shard in shards)
    if unlisted and store.has_segments:
        segments = store.segments.height
    return {
        "place": store.folder,
        "fingerprint": store.fingerprint,
        "encoder": manifest["encoder"],
        "layers": {str(layer["index"]): layer["width"] for layer in manifest["layers"]},
        "dtype": store.dtype,
        "clips": manifest["clips"],
        "set_aside": manifest["set_aside"],
        "hours": round(manifest["sound_s"] / 3600, 4),
        "frames": store.frames if store.has_frames else 0,
        "segments": segments,
        "shards": len(shards),
        "bytes": sizes,
        "bytes_total": sum(sizes.values()),
        "clips_dropped": unlisted,
    }


def verify_store(address: str | Path) -> list[str]:
    """Recompute every checksum; return one message per damaged file.

    Damaged files are marked in the store, if it is writable, so that the next extraction rewrites their shards.
    """
    return verify_files(open_storage(address))


def is_known_damaged(address: str | Path) -> bool:
    """Return whether a verification marked damage that no extraction has repaired since."""
    return is_marked(open_storage(address))


def is_merged(address: str | Path) -> bool:
    """Return whether the store was merged from others, so that no extraction can repair it."""
    return "merged" in read_manifest(open_storage(address))


def collect_garbage(address: str | Path, *, dry_run: bool = False) -> GarbageReport:
    """Remove files that the manifest does not need: leftovers of killed runs, unlisted shards, old tables.

    Only files with names of a store are removed; `foreign` lists the others. Shards of an unfinished extraction stay,
    since the next run resumes with them.
    """
    storage = open_storage(address)
    read_manifest(storage)  # before the lock, which would create the folder
    with storage.write_lock():
        manifest = read_manifest(storage)
        needed = _needed_files(storage, manifest)
        unfinished = read_card(storage, CARD, StoreCard)["fingerprint"] != manifest["fingerprint"]
        unneeded = [name for name in storage.list_files() if is_store_file(name) and name not in needed]
        garbage = [name for name in unneeded if not (unfinished and _is_shard_file(name))]
        sizes = {name: storage.size(name) or 0 for name in garbage}
        if not dry_run:
            for name in garbage:
                storage.remove(name)
        waiting = "an extraction is unfinished; run it again, then collect" if unfinished else ""
        sharing = sum(shard["clips"] - shard["listed"] for shard in manifest["shards"] if shard["listed"])
        return GarbageReport(garbage, sum(sizes.values()), waiting, sharing, foreign_files(storage))


def _needed_files(storage: Storage, manifest: Mapping[str, Any]) -> set[str]:
    if storage.size(CARD) is None:
        raise IncompleteArtifact(f"{storage.address} has a manifest but no card; extract again")
    needed = {CARD, DAMAGED, MANIFEST, REDIRECT, REPAIRED, *(table["file"] for table in manifest["tables"].values())}
    for shard in manifest["shards"]:
        needed |= {shard_card_path(shard["shard"]), *shard["files"]}
    return needed


def _is_shard_file(name: str) -> bool:
    return PurePosixPath(name).parent.name in ("shards", "index", "segments") or name.startswith("layer_")


def compact_store(address: str | Path, *, dry_run: bool = False) -> CompactionReport:
    """Copy the listed clips out of mostly unlisted shards into new shards; `collect_garbage` removes the old ones.

    Nothing is encoded again. Readers see the old store until the new one is complete; a killed compaction starts
    over. The store gets a new fingerprint, so results computed from it become stale. Raises `ArtifactError` if the
    store is marked as damaged or an extraction is unfinished.
    """
    storage = open_storage(address)
    read_manifest(storage)  # before the lock, which would create the folder
    with storage.write_lock():
        manifest = read_manifest(storage)
        if is_marked(storage):
            raise ArtifactError(f"{storage.address} is damaged; extract once more, then compact")
        if read_card(storage, CARD, StoreCard)["fingerprint"] != manifest["fingerprint"]:
            raise ArtifactError(f"{storage.address}: an extraction is unfinished; run it again, then compact")
        sparse = [s for s in manifest["shards"] if 0 < s["listed"] <= (1 - MIN_UNLISTED) * s["clips"]]
        report = CompactionReport([s["shard"] for s in sparse], sum(s["clips"] - s["listed"] for s in sparse))
        if dry_run or not sparse:
            return report
        store = ActivationStore.open(address)
        check_files(storage, {shard_card_path(s["shard"]): s["card"] for s in manifest["shards"]}, verify=True)
        cards = {s["shard"]: read_shard_card(storage, s["shard"]) for s in manifest["shards"]}
        keys = _listed_keys(store, cards)
        first_new = 1 + max(shard_numbers(storage))
        for number, shard in enumerate(report.shards, start=first_new):
            cards[number] = _rewrite_shard(storage, cards.pop(shard), _listed_ids(store, shard), keys, number)
        card = {name: value for name, value in read_card(storage, CARD, StoreCard).items() if name != "fingerprint"}
        card |= {
            "kept": [[number, shard["key"]] for number, shard in sorted(cards.items())],
            "first": first_new + len(report.shards),
        }
        card = {"fingerprint": fingerprint(card), **card}
        write_card(storage, CARD, card)
        commit_store(storage, card, keys, cards)
        return report


def _listed_ids(store: ActivationStore, shard: int) -> set[str]:
    return set(store.clips.filter(pl.col("shard") == shard)["clip_id"])


def _listed_keys(store: ActivationStore, cards: Mapping[int, Mapping[str, Any]]) -> dict[str, str]:
    """Return the key of every listed clip; the newest key of a clip that was set aside twice."""
    set_aside = set(store.set_aside["clip_id"])
    keys: dict[str, str] = {}
    for number, card in sorted(cards.items()):
        ids = _listed_ids(store, number) | set_aside
        keys |= {clip_id: key for clip_id, key in stored_keys(card).items() if clip_id in ids}
    if sound_id(keys) != store.manifest["corpus"]["sound"]:
        raise ArtifactError(f"{store.folder}: its shards do not match its corpus; extract once more, then compact")
    return keys


def _rewrite_shard(
    storage: Storage, old: Mapping[str, Any], listed: Collection[str], keys: Mapping[str, str], number: int
) -> dict[str, Any]:
    """Copy the listed clips of a shard to a new shard; return its card."""
    check_files(storage, old["files"], verify=True)
    clips, rows = _listed_rows(old["clips"], listed)
    per_clip = len(old["clips"])
    stored_rows = {"frames": old["frames"], "pooled": per_clip, "tokens": per_clip, "segments": old["segments"]}
    written: list[str] = []
    for path in (index_path, segments_path):
        if (name := path(old["shard"])) in old["files"]:
            table = read_table(storage.fetch(name, old["files"][name])).filter(pl.col("clip_id").is_in(list(listed)))
            if path is segments_path:
                rows["segments"] = table["offset"].to_numpy()
            offset = pl.int_range(pl.len(), dtype=pl.Int64).cast(table.schema["offset"])
            renumbered = table.with_columns(shard=pl.lit(number, dtype=pl.Int32), offset=offset)
            publish_table(storage, path(number), renumbered)
            written.append(path(number))
    for name in sorted(name for name in old["files"] if name.endswith(".safetensors")):
        kind = PurePosixPath(name).name.split("-")[0]
        target = str(PurePosixPath(name).with_name(f"{kind}-{number:05d}.safetensors"))
        stored = map_tensor(storage.fetch(name, old["files"][name]), kind)
        if len(stored.values) != stored_rows.get(kind):
            raise DamagedArtifact(
                f"{storage.address}/{name} holds other rows than its shard's card says; extract again"
            )
        with (
            storage.publish(target) as temporary,
            RowFile(temporary, name=kind, axes=stored.values.shape[1:], dtype=stored.dtype) as file,
        ):
            for start in range(0, len(rows[kind]), COPY_ROWS):
                file.append(stored.values[rows[kind][start : start + COPY_ROWS]])
        written.append(target)
    card = {
        "shard": number,
        "spec_id": old["spec_id"],
        "key": fingerprint("compacted", old["key"], sorted(listed)),
        "frames": len(rows["frames"]),
        "segments": len(rows["segments"]),
        "clips": clips,
        "set_aside": [clip for clip in old["set_aside"] if keys.get(clip[0]) == clip[-1]],
        "files": {name: storage.file_record(name) for name in sorted(written)},
    }
    write_card(storage, shard_card_path(number), card)
    return card


def _listed_rows(
    clips: list[list[Any]], listed: Collection[str]
) -> tuple[list[list[Any]], dict[str, NDArray[np.int64]]]:
    """Return the listed clips with their new offsets, and the rows to copy for each kind of tensor."""
    positions = [position for position, clip in enumerate(clips) if clip[0] in listed]
    moved: list[list[Any]] = []
    rows: list[NDArray[np.int64]] = []
    first = 0
    for clip_id, path, old_first, frames, *rest in (clips[position] for position in positions):
        moved.append([clip_id, path, first, frames, *rest])
        rows.append(np.arange(old_first, old_first + frames))
        first += frames
    per_clip = np.array(positions, dtype=np.int64)
    no_rows = np.empty(0, dtype=np.int64)
    return moved, {"frames": np.concatenate(rows), "pooled": per_clip, "tokens": per_clip, "segments": no_rows}


def merge_stores(target: str | Path, sources: Sequence[str | Path]) -> ActivationStore:
    """Copy the clips of stores with the same specification into a new store, checking every checksum.

    A clip in several stores is taken from the first. Raises `DamagedArtifact` for a damaged source, `StaleArtifact` if
    specifications differ, `ArtifactError` if one clip id has different sound or the target exists.
    """
    storage = open_storage(target)
    require_store(storage)
    if storage.size(MANIFEST) is not None:
        raise ArtifactError(f"{storage.address} holds activations already; merge into a new folder")
    opened = [_open_source(open_storage(source)) for source in sources]
    first = opened[0]
    for other in opened[1:]:
        if other.manifest["spec_id"] != first.manifest["spec_id"]:
            stores = (first.storage.address, other.storage.address)
            phrases = "; ".join(differences(spec_of(first.manifest), spec_of(other.manifest), stores=stores))
            raise StaleArtifact(f"{stores[1]} cannot be merged with {stores[0]}: {phrases}")
    keys: dict[str, str] = {}
    for source in opened:
        for clip_id, key in source.keys.items():
            if keys.setdefault(clip_id, key) != key:
                raise ArtifactError(f"{clip_id!r} has other sound in {source.storage.address} than in an earlier store")
    names = list(dict.fromkeys(str(source.manifest["corpus"]["name"]) for source in opened))
    corpus = {"name": "+".join(names), "clips": len(keys), "sound": sound_id(keys)}
    shards = [(source.storage, card) for source in opened for card in source.shards]
    card = {
        **spec_of(first.manifest),
        "spec_id": first.manifest["spec_id"],
        "corpus": corpus,
        "kept": [[number, shard["key"]] for number, (_, shard) in enumerate(shards)],
        "first": len(shards),
    }
    card = {"fingerprint": fingerprint(card), "merged": len(opened), **card}
    with storage.write_lock():
        if storage.size(CARD) is None:
            write_card(storage, CARD, card)
        elif read_card(storage, CARD, StoreCard) != card:
            raise ArtifactError(
                f"{storage.address} holds another store, begun and not finished; merge into a new folder"
            )
        written = {n: _copy_shard(source, shard, storage, n) for n, (source, shard) in enumerate(shards)}
        commit_store(storage, card, keys, written)
    return ActivationStore.open(target)


class _MergeSource(NamedTuple):
    """A store to merge; `keys` identifies the sound of its listed clips, `shards` are the cards of shards with any."""

    storage: Storage
    manifest: dict[str, Any]
    keys: Mapping[str, str]
    shards: list[dict[str, Any]]


def _open_source(storage: Storage) -> _MergeSource:
    manifest = read_manifest(storage)
    cards = {shard_card_path(shard["shard"]): shard["card"] for shard in manifest["shards"]}
    check_files(storage, {table["file"]: table for table in manifest["tables"].values()} | cards, verify=True)
    store = ActivationStore.open(storage.address)
    listed = {(clip_id, shard) for clip_id, shard in store.clips.select("clip_id", "shard").iter_rows()}
    set_aside = set(store.set_aside["clip_id"])
    keys: dict[str, str] = {}
    shards: list[dict[str, Any]] = []
    for shard in manifest["shards"]:
        number = shard["shard"]
        card = read_shard_card(storage, number)
        if shard["listed"]:
            shards.append(card)
        for clip_id, key in stored_keys(card).items():
            if (clip_id, number) in listed or clip_id in set_aside:
                keys.setdefault(clip_id, key)
    return _MergeSource(storage, manifest, keys, shards)


def _copy_shard(source: Storage, card: Mapping[str, Any], target: Storage, number: int) -> dict[str, Any]:
    """Copy a shard under another number: tensors unchanged, tables with the new number."""
    files: dict[str, Any] = {}
    for name, record in card["files"].items():
        path = source.fetch(name, record)
        data = path.read_bytes()
        if sha256(data).hexdigest() != record["sha256"]:
            raise DamagedArtifact(
                f"{source.address}/{name} is damaged: its SHA-256 differs from its card, so nothing was merged; run "
                f"`otoscope store verify {source.address}`, extract that store again, then merge"
            )
        renamed = re.sub(r"[0-9]+(?=\.[a-z]+$)", f"{number:05d}", name)
        if name.endswith(".parquet"):
            publish_table(target, renamed, read_table(path).with_columns(shard=pl.lit(number, dtype=pl.Int32)))
        else:
            with target.publish(renamed) as temporary:
                temporary.write_bytes(data)
        files[renamed] = target.file_record(renamed)
    card = {**card, "shard": number, "files": files}
    write_card(target, shard_card_path(number), card)
    return card
