"""The manifest of a whole store, and stores that an earlier release wrote.

Declaring a store whole: the tables of its clips, and last of all its manifest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from otoscope.activations.format import CARD, CLIPS, FORMAT, MANIFEST, SET_ASIDE, shard_card_path, table_path
from otoscope.activations.integrity import check_files
from otoscope.activations.storage.base import Storage, read_card, write_card
from otoscope.artifacts import write_table
from otoscope.errors import ArtifactError, CorpusError, DamagedArtifact, IncompleteArtifact, StaleArtifact


def read_manifest(home: Storage) -> dict[str, Any]:
    """Read the manifest; raise `IncompleteArtifact` where there is none, `DamagedArtifact` where it is no manifest."""
    try:
        card = read_card(home, MANIFEST)
    except IncompleteArtifact as error:
        begun = "was begun but never finished" if home.size(CARD) is not None else "holds no activations"
        raise IncompleteArtifact(
            f"{home.address} {begun}; run the extraction (again), it goes on where it was"
        ) from error
    if not isinstance(card, dict) or card.get("format") not in (1, FORMAT) or "shards" not in card:
        raise DamagedArtifact(f"{home.address}/{MANIFEST} is no manifest of format {FORMAT}; extract again")
    return card if card["format"] == FORMAT else _of_format_2(card)


def files_of(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every file that a manifest names, but for the store's own card, with its size and checksum."""
    tables = {table["file"]: table for table in manifest["tables"].values()}
    return tables | {
        name: described
        for shard in manifest["shards"]
        for name, described in ({shard_card_path(shard["shard"]): shard["card"]} | shard["files"]).items()
    }


def _of_format_2(card: dict[str, Any]) -> dict[str, Any]:
    """Describe a store of format 1, whose shards held the clips of one corpus, in the terms of format 2."""
    tables = {name: {"file": table_path(name, 0), **card["tables"][table_path(name, 0)]} for name in (CLIPS, SET_ASIDE)}
    shards = [{**shard, "listed": shard["clips"], "segments": 0} for shard in card["shards"]]
    return {**card, "generation": 0, "segments": None, "tables": tables, "shards": shards}


CLIP_TYPES: dict[str, Any] = {
    "clip_id": pl.String,
    "path": pl.String,
    "shard": pl.Int32,
    "pooled_offset": pl.Int64,
    "first_offset": pl.Int64,
    "frames": pl.Int64,
    "sound_s": pl.Float64,
}
ASIDE_TYPES: dict[str, Any] = {"clip_id": pl.String, "path": pl.String, "reason": pl.String}


def is_current(home: Storage, fingerprint: str) -> bool:
    """Whether the manifest that lies there is that of this store."""
    try:
        return read_card(home, MANIFEST)["fingerprint"] == fingerprint
    except (ArtifactError, KeyError, TypeError):
        return False


def has_tables(home: Storage) -> bool:
    """Whether the tables that the manifest names are there at their full size."""
    try:
        tables = read_card(home, MANIFEST)["tables"].values()
        check_files(home, {table["file"]: table for table in tables}, verify=False)
    except (ArtifactError, KeyError, TypeError, AttributeError):
        return False
    return True


def commit_store(
    home: Storage, card: Mapping[str, Any], keys: Mapping[str, str], shards: Mapping[int, dict[str, Any]]
) -> None:
    """Write the tables of clips and, last of all, the manifest that makes the store complete.

    `shards` are the cards of all shards by number; of their clips those count whose key is the one in `keys`. What an
    earlier manifest names stays until this one lies beside it: whoever reads meanwhile reads the store as it was.
    Raises `StaleArtifact` when another writer has begun another store here.
    """
    clips, aside = _clips(keys, shards), _aside(keys, shards)
    if clips.is_empty():
        reason = aside["reason"][0] if aside.height else "none was given"
        raise CorpusError(f"no clip could be used; the first one: {reason}")
    if read_card(home, CARD) != card:
        raise StaleArtifact(f"another run has begun another store in {home.address}; give each a place of its own")
    generation, before = _generation(home, card["fingerprint"])
    tables = {CLIPS: clips, SET_ASIDE: aside}
    for name, table in tables.items():
        with home.publish(table_path(name, generation)) as temporary:
            write_table(temporary, table)
    listed = dict(clips.group_by("shard").len().iter_rows())
    manifest = {
        "complete": True,
        **card,
        "generation": generation,
        "clips": clips.height,
        "rows": int(clips["frames"].sum()),
        "sound_s": float(clips["sound_s"].sum()),
        "set_aside": aside.height,
        "tables": {name: _described(home, table_path(name, generation)) for name in tables},
        "shards": [
            {
                "shard": number,
                "clips": len(shard["clips"]),
                "listed": listed.get(number, 0),
                "rows": shard["frames"],
                "segments": shard["segments"],
                "card": home.file_record(shard_card_path(number)),
                "files": shard["files"],
            }
            for number, shard in sorted(shards.items())
        ],
    }
    write_card(home, MANIFEST, manifest)
    for stale in before - {table_path(name, generation) for name in tables}:
        home.remove(stale)


def _described(home: Storage, relative: str) -> dict[str, Any]:
    return {"file": relative, **home.file_record(relative)}


def _generation(home: Storage, fingerprint: str) -> tuple[int, set[str]]:
    """Return the number of this list of clips, and the tables of the manifest that lies there."""
    try:
        manifest = read_card(home, MANIFEST)
        files = {str(table["file"]) for table in manifest["tables"].values()}
        return int(manifest["generation"]) + (manifest["fingerprint"] != fingerprint), files
    except (ArtifactError, KeyError, TypeError, AttributeError):
        return 0, set()


def _clips(keys: Mapping[str, str], shards: Mapping[int, dict[str, Any]]) -> pl.DataFrame:
    rows = [(clip[0], clip[1], number, place, *clip[2:5]) for number, place, clip in _counted(keys, shards, "clips")]
    return pl.DataFrame(rows, schema=CLIP_TYPES, orient="row").sort("clip_id")


def _aside(keys: Mapping[str, str], shards: Mapping[int, dict[str, Any]]) -> pl.DataFrame:
    rows = [tuple(clip[:3]) for _, _, clip in _counted(keys, shards, "set_aside")]
    return pl.DataFrame(rows, schema=ASIDE_TYPES, orient="row").sort("clip_id")


def _counted(
    keys: Mapping[str, str], shards: Mapping[int, dict[str, Any]], kind: str
) -> Iterator[tuple[int, int, list[Any]]]:
    """Yield the clips that count, each once, with their shard and place in it."""
    seen: set[str] = set()
    for number, shard in sorted(shards.items()):
        for place, clip in enumerate(shard[kind]):
            if keys.get(clip[0]) == clip[-1] and clip[0] not in seen:
                seen.add(clip[0])
                yield number, place, clip
