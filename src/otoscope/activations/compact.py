"""Freeing what shards hold of clips that are listed no more.

Shards never change, so a clip that left the corpus stays in its shard for as long as any other of the shard's clips is
listed. Where most of a shard has left, the rest is copied into a new shard; nothing is encoded again.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from otoscope.activations.damage import is_marked
from otoscope.activations.format import CARD, FORMAT, segments_path, shard_card_path
from otoscope.activations.integrity import check_files
from otoscope.activations.manifest import commit_store, read_manifest
from otoscope.activations.plan import numbers, stored_keys
from otoscope.activations.storage.base import Storage, open_storage, read_card, write_card
from otoscope.activations.store import ActivationStore
from otoscope.activations.tensorfile import RowFile, index_path, map_tensor
from otoscope.artifacts import fingerprint, read_table, write_table
from otoscope.errors import ArtifactError

MOSTLY = 0.5
"""Share of a shard's clips that must have left before the others move."""

AT_ONCE = 4096
"""Rows that are copied at once."""


class Compacted(NamedTuple):
    """Shards that are written anew, and the clips in them that are listed no more."""

    shards: list[int]
    clips: int


def compact_store(place: str | Path, *, dry_run: bool = False) -> Compacted:
    """Copy what is listed out of shards of which most is not; `collect` then removes the old ones.

    Whoever reads meanwhile reads the store as it was, and a killed compaction is begun again by the next. The store
    gets another fingerprint, as after any change of its clips: what was computed from it is computed anew. Raises
    `ArtifactError` for a store that is damaged, of an earlier format, or in the middle of an extraction.
    """
    home = open_storage(place)
    read_manifest(home)  # where there is no store, no lock is left either
    with home.write_lock():
        manifest = read_manifest(home)
        _require_settled(home, manifest)
        worth = [s for s in manifest["shards"] if 0 < s["listed"] <= (1 - MOSTLY) * s["clips"]]
        found = Compacted([s["shard"] for s in worth], sum(s["clips"] - s["listed"] for s in worth))
        if dry_run or not worth:
            return found
        store = ActivationStore.open(place)
        cards = {s["shard"]: read_card(home, shard_card_path(s["shard"])) for s in manifest["shards"]}
        keys = _keys(store, cards)
        following = 1 + max(numbers(home))
        for number, shard in enumerate(found.shards, start=following):
            cards[number] = _rewrite(home, cards.pop(shard), _listed(store, shard), keys, number)
        card = {name: value for name, value in read_card(home, CARD).items() if name != "fingerprint"}
        card |= {
            "kept": [[number, shard["key"]] for number, shard in sorted(cards.items())],
            "first": following + len(found.shards),
        }
        card = {"fingerprint": fingerprint(card), **card}
        write_card(home, CARD, card)
        commit_store(home, card, keys, cards)
        return found


def _require_settled(home: Storage, manifest: Mapping[str, Any]) -> None:
    if manifest["format"] != FORMAT or is_marked(home):
        what = "is damaged" if is_marked(home) else "is of an earlier format"
        raise ArtifactError(f"{home.address} {what}; extract once more, then compact")
    if read_card(home, CARD)["fingerprint"] != manifest["fingerprint"]:
        raise ArtifactError(f"{home.address}: an extraction was begun and not finished; run it again, then compact")


def _listed(store: ActivationStore, shard: int) -> set[str]:
    return set(store.clips.filter(pl.col("shard") == shard)["clip_id"])


def _keys(store: ActivationStore, cards: Mapping[int, Mapping[str, Any]]) -> dict[str, str]:
    """Return the key of every clip that counts; of a clip that was set aside twice the newer."""
    aside = set(store.set_aside["clip_id"])
    keys: dict[str, str] = {}
    for number, card in sorted(cards.items()):
        count = _listed(store, number) | aside
        keys |= {clip_id: key for clip_id, key in stored_keys(card).items() if clip_id in count}
    if fingerprint(sorted(keys.items())) != store.manifest["corpus"]["sound"]:
        raise ArtifactError(f"{store.folder}: its shards are not those of its corpus; extract once more, then compact")
    return keys


def _rewrite(
    home: Storage, old: Mapping[str, Any], listed: Collection[str], keys: Mapping[str, str], number: int
) -> dict[str, Any]:
    """Write the listed clips of a shard as another; return its card."""
    check_files(home, old["files"], verify=True)
    clips, chosen = _moved(old["clips"], listed)
    written: list[str] = []
    for path in (index_path, segments_path):
        if (name := path(old["shard"])) in old["files"]:
            table = read_table(home.fetch(name, old["files"][name])).filter(pl.col("clip_id").is_in(list(listed)))
            if path is segments_path:
                chosen["segments"] = table["offset"].to_numpy()
            with home.publish(path(number)) as temporary:
                write_table(temporary, _numbered(table, number))
            written.append(path(number))
    for name in sorted(name for name in old["files"] if name.endswith(".safetensors")):
        kind = PurePosixPath(name).name.split("-")[0]
        renamed = str(PurePosixPath(name).with_name(f"{kind}-{number:05d}.safetensors"))
        stored = map_tensor(home.fetch(name, old["files"][name]), kind)
        with (
            home.publish(renamed) as temporary,
            RowFile(temporary, name=kind, axes=stored.values.shape[1:], dtype=stored.dtype) as file,
        ):
            for rows in _parts(chosen[kind]):
                file.append(stored.values[rows])
        written.append(renamed)
    card = {
        "shard": number,
        "recipe": old["recipe"],
        "key": fingerprint("compacted", old["key"], sorted(listed)),
        "frames": len(chosen["frames"]),
        "segments": len(chosen["segments"]),
        "clips": clips,
        "set_aside": [clip for clip in old["set_aside"] if keys.get(clip[0]) == clip[-1]],
        "files": {name: home.file_record(name) for name in sorted(written)},
    }
    write_card(home, shard_card_path(number), card)
    return card


def _moved(clips: list[list[Any]], listed: Collection[str]) -> tuple[list[list[Any]], dict[str, NDArray[np.int64]]]:
    """Return the listed clips with their new first frames, and the rows of each kind of tensor that stay."""
    places = [place for place, clip in enumerate(clips) if clip[0] in listed]
    moved: list[list[Any]] = []
    rows: list[NDArray[np.int64]] = []
    first = 0
    for clip_id, path, before, frames, *rest in (clips[place] for place in places):
        moved.append([clip_id, path, first, frames, *rest])
        rows.append(np.arange(before, before + frames))
        first += frames
    whole = np.array(places, dtype=np.int64)
    return moved, {
        "frames": np.concatenate(rows),
        "pooled": whole,
        "tokens": whole,
        "segments": np.empty(0, dtype=np.int64),
    }


def _numbered(table: pl.DataFrame, number: int) -> pl.DataFrame:
    """Give the rows of a table, which lie in the order of clips, their new shard and offsets."""
    return table.with_columns(
        shard=pl.lit(number, dtype=pl.Int32), offset=pl.int_range(pl.len(), dtype=pl.Int64).cast(table.schema["offset"])
    )


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), AT_ONCE):
        yield rows[start : start + AT_ONCE]
