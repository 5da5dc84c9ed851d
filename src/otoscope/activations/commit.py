"""Beginning a store, and declaring it whole."""

import fcntl
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from otoscope.activations.layout import CARD, CLIPS, MANIFEST, SET_ASIDE, differences, locate, shard_card_path
from otoscope.activations.shards import describe
from otoscope.artifacts import is_full, read_json, write_json, write_table
from otoscope.errors import ArtifactError, CorpusError, StaleArtifact, StorageFull

LOCK = ".lock"


@contextmanager
def sole_writer(folder: Path) -> Generator[None]:
    """Hold the store's lock; the system gives it back when the process ends, however it ends.

    Raises `ArtifactError` when another process writes into the same folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if is_full(error):
            raise StorageFull(f"no room left to begin {folder}; free some space and run again") from error
        raise ArtifactError(f"{folder} cannot be written ({error.strerror})") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ArtifactError(f"another process is writing {folder}; wait for it or choose another folder") from error
    finally:
        os.close(handle)


def begin(folder: Path, card: dict[str, Any]) -> None:
    """Write the store's card, or refuse a folder that holds another store; clear what a killed run left half-written.

    Raises `StaleArtifact` with what differs.
    """
    path = locate(folder, CARD)
    if path.is_file():
        found = read_json(path)
        if found != card:
            raise StaleArtifact(
                f"{folder} holds other activations: {'; '.join(differences(found, card))}; "
                "delete the folder or choose another"
            )
    else:
        write_json(path, card)
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)


def finish(folder: Path, card: dict[str, Any], shards: Iterable[dict[str, Any]]) -> None:
    """Write the tables of clips and, last of all, the manifest that makes the store complete."""
    shards = list(shards)
    clips = [(clip[0], clip[1], shard["shard"], place, *clip[2:]) for shard in shards for place, clip in _places(shard)]
    if not clips:
        reason = next((clip[2] for shard in shards for clip in shard["set_aside"]), "none was given")
        raise CorpusError(f"no clip could be used; the first one: {reason}")
    types = {
        "clip_id": pl.String,
        "path": pl.String,
        "shard": pl.Int32,
        "pooled_offset": pl.Int64,
        "first_offset": pl.Int64,
        "frames": pl.Int64,
        "sound_s": pl.Float64,
    }
    write_table(locate(folder, CLIPS), pl.DataFrame(clips, schema=types, orient="row"))
    aside = [tuple(clip) for shard in shards for clip in shard["set_aside"]]
    columns = {"clip_id": pl.String, "path": pl.String, "reason": pl.String}
    write_table(locate(folder, SET_ASIDE), pl.DataFrame(aside, schema=columns, orient="row"))
    manifest = {
        "complete": True,
        **card,
        "clips": len(clips),
        "rows": sum(shard["frames"] for shard in shards),
        "sound_s": sum(clip[-1] for clip in clips),
        "set_aside": len(aside),
        "shards": [
            {
                "shard": shard["shard"],
                "clips": len(shard["clips"]),
                "rows": shard["frames"],
                "card": describe(locate(folder, shard_card_path(shard["shard"]))),
                "files": shard["files"],
            }
            for shard in shards
        ],
        "tables": {name: describe(locate(folder, name)) for name in (CLIPS, SET_ASIDE)},
    }
    write_json(locate(folder, MANIFEST), manifest)


def _places(shard: dict[str, Any]) -> Iterable[tuple[int, list[Any]]]:
    return enumerate(shard["clips"])
