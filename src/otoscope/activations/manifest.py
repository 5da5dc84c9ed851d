"""Manifest and clip tables, written last, and the integrity of stored files: sizes, checksums, and marks of damage.

A store without a manifest is incomplete. Extraction checks sizes only, since hashing a large store in every run would
cost more than most runs. `verify_files` hashes everything and marks damaged files in the store; the next extraction
rewrites their shards and clears the marks.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from otoscope.activations.format import (
    CARD,
    CLIPS,
    DAMAGED,
    MANIFEST,
    REPAIRED,
    SET_ASIDE,
    Manifest,
    StoreCard,
    StoredFile,
    is_store_file,
    publish_table,
    read_card,
    read_shard_card,
    shard_card_path,
    table_path,
    write_card,
)
from otoscope.activations.storage import Storage
from otoscope.artifacts import FileRecord, check_size, read_table
from otoscope.errors import ArtifactError, CorpusError, DamagedArtifact, IncompleteArtifact, StaleArtifact

CLIP_TYPES: dict[str, Any] = {
    "clip_id": pl.String,
    "path": pl.String,
    "shard": pl.Int32,
    "pooled_offset": pl.Int64,
    "first_offset": pl.Int64,
    "frames": pl.Int64,
    "sound_s": pl.Float64,
}
SET_ASIDE_TYPES: dict[str, Any] = {"clip_id": pl.String, "path": pl.String, "reason": pl.String}


def read_manifest(storage: Storage) -> dict[str, Any]:
    """Read the manifest; raise `IncompleteArtifact` if it is missing, `DamagedArtifact` if it is invalid."""
    try:
        manifest = read_card(storage, MANIFEST, Manifest)
    except IncompleteArtifact as error:
        state = "was begun but never finished" if storage.size(CARD) is not None else "holds no activations"
        raise IncompleteArtifact(f"{storage.address} {state}; run the extraction (again), it resumes") from error
    folders = {file.partition("/")[0] for shard in manifest["shards"] for file in shard["files"]}
    stored = {int(name.removeprefix("layer_")) for name in folders if name.startswith("layer_")}
    if manifest["shards"] and stored != (listed := {layer["index"] for layer in manifest["layers"]}):
        raise DamagedArtifact(
            f"{storage.address}: {MANIFEST} is damaged: it lists the layers {sorted(listed)}, and files of"
            f" {sorted(stored)}; extract again"
        )
    return manifest


def read_typed(path: Path, types: Mapping[str, Any]) -> pl.DataFrame:
    """Read a table of a store; raise `DamagedArtifact` unless it has these columns and no missing value."""
    table = read_table(path)
    if dict(table.schema) != dict(types) or table.null_count().sum_horizontal().sum():
        raise DamagedArtifact(f"{path} is damaged: it is no table of {', '.join(types)}; extract again")
    return table


def read_clips(path: Path, manifest: Mapping[str, Any]) -> pl.DataFrame:
    """Read the table of clips; raise `DamagedArtifact` unless each clip lies within a shard of the manifest."""
    clips = read_typed(path, CLIP_TYPES)
    shards = [(shard["shard"], shard["clips"], shard["rows"]) for shard in manifest["shards"]]
    known = pl.DataFrame(shards, schema={"shard": pl.Int32, "shard_clips": pl.Int64, "rows": pl.Int64}, orient="row")
    placed = clips.join(known, on="shard", how="inner").filter(
        pl.col("pooled_offset").is_between(0, pl.col("shard_clips") - 1),
        pl.col("first_offset").is_between(0, pl.col("rows")),
        pl.col("frames").is_between(0, pl.col("rows") - pl.col("first_offset")),
        pl.col("sound_s").is_finite(),
    )
    if placed.height != clips.height or not clips["clip_id"].is_unique().all() or clips.height != manifest["clips"]:
        raise DamagedArtifact(f"{path} is damaged: it places clips outside their shards; extract again")
    return clips


def files_of(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return size and checksum of every file in a manifest, by path."""
    tables = {table["file"]: table for table in manifest["tables"].values()}
    return tables | {
        name: record
        for shard in manifest["shards"]
        for name, record in ({shard_card_path(shard["shard"]): shard["card"]} | shard["files"]).items()
    }


def is_current(storage: Storage, fingerprint: str) -> bool:
    """Return whether the stored manifest has this fingerprint."""
    try:
        return read_card(storage, MANIFEST, Manifest)["fingerprint"] == fingerprint
    except ArtifactError:
        return False


def commit_store(
    storage: Storage, card: Mapping[str, Any], keys: Mapping[str, str], shards: Mapping[int, dict[str, Any]]
) -> None:
    """Write the clip tables, then the manifest that makes the store complete.

    `shards` holds the cards of all shards by number; a clip is listed if its key equals the one in `keys`. Tables of
    the previous manifest stay until the new one is written, so readers always see a complete store. Raises
    `StaleArtifact` if another writer has begun a different store here.
    """
    clips, set_aside = _clip_table(keys, shards), _set_aside_table(keys, shards)
    if clips.is_empty():
        reason = set_aside["reason"][0] if set_aside.height else "no reason recorded"
        raise CorpusError(f"no clip could be used; the first one: {reason}")
    if not _is_stored(storage, card):
        raise StaleArtifact(f"another run has begun another store in {storage.address}; use a separate folder for each")
    generation, previous_tables = _generation(storage, card["fingerprint"])
    tables = {CLIPS: clips, SET_ASIDE: set_aside}
    paths = {name: table_path(name, generation) for name in tables}
    for name, table in tables.items():
        publish_table(storage, paths[name], table)
    listed = dict(clips.group_by("shard").len().iter_rows())
    manifest = {
        "complete": True,
        **card,
        "generation": generation,
        "clips": clips.height,
        "rows": int(clips["frames"].sum()),
        "sound_s": float(clips["sound_s"].sum()),
        "set_aside": set_aside.height,
        "tables": {name: {"file": path, **storage.file_record(path)} for name, path in paths.items()},
        "shards": [
            {
                "shard": number,
                "clips": len(shard["clips"]),
                "listed": listed.get(number, 0),
                "rows": shard["frames"],
                "segments": shard["segments"],
                "card": storage.file_record(shard_card_path(number)),
                "files": shard["files"],
            }
            for number, shard in sorted(shards.items())
        ],
    }
    write_card(storage, MANIFEST, manifest)
    for stale in previous_tables - set(paths.values()):
        storage.remove(stale)


def _generation(storage: Storage, fingerprint: str) -> tuple[int, set[str]]:
    """Return the generation of the new tables, and the paths of the tables in the current manifest."""
    try:
        manifest = read_card(storage, MANIFEST, Manifest)
    except ArtifactError:
        return 0, set()
    files = {str(table["file"]) for table in manifest["tables"].values()}
    return int(manifest["generation"]) + (manifest["fingerprint"] != fingerprint), files


def _is_stored(storage: Storage, card: Mapping[str, Any]) -> bool:
    try:
        return read_card(storage, CARD, StoreCard) == card
    except DamagedArtifact:
        return False


def _clip_table(keys: Mapping[str, str], shards: Mapping[int, dict[str, Any]]) -> pl.DataFrame:
    listed = _listed(keys, shards, "clips")
    rows = [(clip[0], clip[1], number, position, *clip[2:5]) for number, position, clip in listed]
    return pl.DataFrame(rows, schema=CLIP_TYPES, orient="row").sort("clip_id")


def _set_aside_table(keys: Mapping[str, str], shards: Mapping[int, dict[str, Any]]) -> pl.DataFrame:
    rows = [tuple(clip[:3]) for _, _, clip in _listed(keys, shards, "set_aside")]
    return pl.DataFrame(rows, schema=SET_ASIDE_TYPES, orient="row").sort("clip_id")


def _listed(
    keys: Mapping[str, str], shards: Mapping[int, dict[str, Any]], kind: str
) -> Iterator[tuple[int, int, list[Any]]]:
    """Yield each listed clip once, with its shard and its position in the shard."""
    listed: set[str] = set()
    for number, shard in sorted(shards.items()):
        for position, clip in enumerate(shard[kind]):
            if keys.get(clip[0]) == clip[-1] and clip[0] not in listed:
                listed.add(clip[0])
                yield number, position, clip


def check_file(storage: Storage, name: str, record: FileRecord, *, verify: bool) -> None:
    """Raise `DamagedArtifact` if the size of a file, or with `verify` its SHA-256, differs from its record."""
    check_size(f"{storage.address}/{name}", storage.size(name), record)
    if verify and storage.file_record(name)["sha256"] != record["sha256"]:
        raise DamagedArtifact(
            f"{storage.address}/{name} is damaged: its SHA-256 differs from its card; run `otoscope store verify "
            f"{storage.address}` to mark the damage, then extract again"
        )


def check_files(storage: Storage, files: Mapping[str, FileRecord], *, verify: bool) -> None:
    """Check several files; raise `DamagedArtifact` for the first that is damaged."""
    for name, record in files.items():
        check_file(storage, name, record, verify=verify)


def tables_complete(storage: Storage) -> bool:
    """Return whether the tables in the manifest exist at their full size."""
    try:
        tables = read_card(storage, MANIFEST, Manifest)["tables"].values()
        check_files(storage, {table["file"]: table for table in tables}, verify=False)
    except ArtifactError:
        return False
    return True


def read_complete_shard(
    storage: Storage, shard: int, *, spec_id: str, key: str | None, verify: bool
) -> dict[str, Any] | None:
    """Return the card of a complete shard with this specification and key; None if it has to be written."""
    try:
        card = read_shard_card(storage, shard)
        if card["spec_id"] != spec_id or (key is not None and card["key"] != key):
            return None
        check_files(storage, card["files"], verify=verify)
    except ArtifactError:
        return None
    return card


def verify_files(storage: Storage) -> list[str]:
    """Recompute every checksum, mark damaged files if the store is writable, and return one message per file."""
    messages: list[str] = []
    damaged: dict[str, Any] = {}
    for name, record in files_of(read_manifest(storage)).items():
        try:
            check_file(storage, name, record, verify=True)
        except DamagedArtifact as error:
            messages.append(str(error).partition(";")[0])
            damaged[name] = {key: record[key] for key in ("bytes", "sha256")}
    with suppress(ArtifactError, OSError):  # read-only stores can be verified too
        if damaged:
            write_card(storage, DAMAGED, damaged)
        else:
            clear_marks(storage)
    return messages


def clear_marks(storage: Storage) -> None:
    """Remove the marks of damage, and count the repair of each file that was marked.

    Results that were computed from damaged bytes have the checksums of the intact ones; the count makes them stale.
    """
    if is_marked(storage):
        repairs = Counter(read_repairs(storage))
        with suppress(DamagedArtifact):
            repairs.update(read_card(storage, DAMAGED, dict[str, StoredFile]).keys())
        write_card(storage, REPAIRED, dict(sorted(repairs.items())))
        storage.remove(DAMAGED)


def read_repairs(storage: Storage) -> dict[str, int]:
    """Return the number of repairs of each file that was ever damaged."""
    try:
        return read_card(storage, REPAIRED, dict[str, int])
    except IncompleteArtifact:
        return {}


def is_marked(storage: Storage) -> bool:
    """Return whether a verification found damage that no extraction has repaired since."""
    return storage.size(DAMAGED) is not None


def damaged_shards(storage: Storage) -> set[int]:
    """Return the numbers of the shards with a marked file that is still damaged."""
    if not is_marked(storage):
        return set()
    try:
        marked = read_card(storage, DAMAGED, dict[str, StoredFile])
    except DamagedArtifact:  # the list of damage is damaged itself
        verify_files(storage)
        return damaged_shards(storage)
    return {
        int(PurePosixPath(name).stem.rpartition("-")[2])
        for name, record in marked.items()
        if "/" in name and is_store_file(name) and not _is_intact(storage, name, record)
    }


def _is_intact(storage: Storage, name: str, record: FileRecord) -> bool:
    try:
        check_file(storage, name, record, verify=True)
    except (ArtifactError, OSError):
        return False
    return True
