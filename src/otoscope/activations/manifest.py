"""Manifest and clip tables, written last: a store without a manifest is incomplete."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from otoscope.activations.cards import Manifest, StoreCard, read_card, write_card
from otoscope.activations.format import CARD, CLIPS, MANIFEST, SET_ASIDE, shard_card_path, table_path
from otoscope.activations.storage.base import Storage
from otoscope.artifacts import read_table, write_table
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
        return read_card(storage, MANIFEST, Manifest)
    except IncompleteArtifact as error:
        state = "was begun but never finished" if storage.size(CARD) is not None else "holds no activations"
        raise IncompleteArtifact(f"{storage.address} {state}; run the extraction (again), it resumes") from error


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
        with storage.publish(paths[name]) as temporary:
            write_table(temporary, table)
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
