"""Deterministic extraction plan: clips per shard and batch, shards to reuse and shards to write.

The plan follows from the corpus table and the stored cards alone, so an interrupted extraction resumes to the same
bytes.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import polars as pl

from otoscope.activations.format import (
    CARD,
    MANIFEST,
    Manifest,
    Sharding,
    StoreCard,
    card_of,
    differences,
    is_temporary,
    read_card,
    write_card,
)
from otoscope.activations.manifest import read_complete_shard
from otoscope.activations.segments import Segments
from otoscope.activations.storage import Storage
from otoscope.artifacts import fingerprint
from otoscope.corpus.table import Corpus
from otoscope.errors import ArtifactError, DamagedArtifact, IncompleteArtifact, StaleArtifact


class PlannedClip(NamedTuple):
    """One clip of the corpus: its row in the table, id, path and expected duration."""

    row: int
    clip_id: str
    path: str
    duration_s: float


class ClipBatch(NamedTuple):
    """Clips of similar length that are encoded in one call."""

    shard: int
    clips: tuple[PlannedClip, ...]

    @property
    def sound_s(self) -> float:
        """Seconds of sound, according to the corpus table."""
        return sum(clip.duration_s for clip in self.clips)


@dataclass(frozen=True)
class ExtractionPlan:
    """Shards of the finished store.

    `card` identifies the store; `keys` identifies the sound (and segments) of each clip; `reused` holds the cards of
    shards that an earlier corpus left; `shards` lists the clips of each planned shard by number.
    """

    card: dict[str, Any]
    keys: Mapping[str, str]
    reused: Mapping[int, dict[str, Any]]
    shards: Mapping[int, tuple[PlannedClip, ...]]

    def shard_key(self, shard: int) -> str:
        """Identify the content of a planned shard: equal keys mean equal bytes."""
        clips = [(clip.clip_id, self.keys[clip.clip_id]) for clip in self.shards[shard]]
        return fingerprint(self.card["spec_id"], shard, clips)


def sorted_clips(clips: pl.DataFrame) -> list[PlannedClip]:
    """Return the clips sorted by id, whatever the order of the table."""
    rows = clips.select("clip_id", "path", "duration_s").iter_rows()
    return sorted((PlannedClip(i, *row) for i, row in enumerate(rows)), key=lambda clip: clip.clip_id)


def assign_shards(
    clips: Sequence[PlannedClip], sharding: Sharding, *, bytes_per_s: float
) -> list[tuple[PlannedClip, ...]]:
    """Divide clips into shards, in the given order.

    >>> few = [PlannedClip(i, f"c{i}", f"c{i}.wav", 2.0) for i in range(5)]
    >>> [len(shard) for shard in assign_shards(few, Sharding(shard_s=4.0), bytes_per_s=1.0)]
    [2, 2, 1]
    """
    longest_s = min(sharding.shard_s, sharding.shard_mb * 1e6 / bytes_per_s if bytes_per_s else sharding.shard_s)
    shards: list[tuple[PlannedClip, ...]] = []
    current: list[PlannedClip] = []
    current_s = 0.0
    for clip in clips:
        if current and (len(current) >= sharding.shard_clips or current_s + clip.duration_s > longest_s):
            shards.append(tuple(current))
            current, current_s = [], 0.0
        current.append(clip)
        current_s += clip.duration_s
    return [*shards, tuple(current)] if current else shards


def make_batches(
    shard: int, clips: Sequence[PlannedClip], *, batch_s: float, window_s: float, padded_s: float
) -> list[ClipBatch]:
    """Sort a shard's clips by length and group neighbours; a clip longer than one window forms its own batch.

    The cost of a batch is the memory it occupies: number of clips times the longest of them. Each clip counts at least
    `padded_s`, since an encoder that pads to a fixed context spends the same on all.

    >>> few = [PlannedClip(i, f"c{i}", f"c{i}.wav", s) for i, s in enumerate([1.0, 9.0, 1.0])]
    >>> [len(batch.clips) for batch in make_batches(0, few, batch_s=4.0, window_s=30.0, padded_s=0.0)]
    [2, 1]
    """
    batches: list[ClipBatch] = []
    current: list[PlannedClip] = []
    for clip in sorted(clips, key=lambda clip: (clip.duration_s, clip.clip_id)):
        is_full = (len(current) + 1) * max(clip.duration_s, padded_s) > batch_s
        if current and (is_full or clip.duration_s > window_s):
            batches.append(ClipBatch(shard, tuple(current)))
            current = []
        current.append(clip)
    return [*batches, ClipBatch(shard, tuple(current))] if current else batches


def plan_extraction(
    storage: Storage,
    corpus: Corpus,
    spec: Mapping[str, Any],
    sharding: Sharding,
    *,
    segments: Segments | None,
    bytes_per_s: float,
    verify: bool,
    damaged: Collection[int] = (),
) -> ExtractionPlan:
    """Compare a corpus and a specification with the stored shards; write nothing.

    Stored clips of the same specification are reused, except those of `damaged` shards. Raises `StaleArtifact` with
    the differences if the store has another specification.
    """
    clips = sorted_clips(corpus.clips)
    keys = clip_keys(corpus, segments)
    identity = {"name": corpus.name, "clips": len(clips), "sound": sound_id(keys)}
    stored = _stored_card(storage, spec)
    if stored is not None and stored["corpus"]["sound"] == identity["sound"]:
        identity = stored["corpus"]  # the same clips under another name
    resumed = stored is not None and stored["corpus"] == identity
    reused = {
        number: card
        for number, card in _complete_shards(storage, stored, resumed=resumed, verify=verify).items()
        if number not in damaged and any(keys.get(clip_id) == key for clip_id, key in stored_keys(card).items())
    }
    if resumed and stored is not None and [[n, card["key"]] for n, card in reused.items()] == stored["kept"]:
        first = int(stored["first"])
    else:
        first = 1 + max(shard_numbers(storage), default=-1) if reused else _first_free_number(storage)
    stored_ids = {
        clip_id for card in reused.values() for clip_id, key in stored_keys(card).items() if keys.get(clip_id) == key
    }
    new_clips = [clip for clip in clips if clip.clip_id not in stored_ids]
    card = {
        **spec,
        "spec_id": fingerprint(spec),
        "corpus": identity,
        "kept": [[n, card["key"]] for n, card in reused.items()],
        "first": first,
    }
    card = {"fingerprint": fingerprint(card), **card}
    shards = assign_shards(new_clips, sharding, bytes_per_s=bytes_per_s)
    return ExtractionPlan(card, keys, reused, dict(enumerate(shards, start=first)))


def begin_store(storage: Storage, plan: ExtractionPlan) -> None:
    """Write the store's card, and remove partial files of an interrupted run."""
    try:
        stored = read_card(storage, CARD, StoreCard)
    except (IncompleteArtifact, DamagedArtifact):
        stored = None
    if stored != plan.card:
        write_card(storage, CARD, plan.card)
    remove_partial_files(storage)


def remove_partial_files(storage: Storage) -> None:
    """Remove temporary files of writers that were killed."""
    for name in storage.list_files():
        if is_temporary(name):
            storage.remove(name)


def clip_keys(corpus: Corpus, segments: Segments | None) -> dict[str, str]:
    """Identify each clip's sound, and its segments if they come from a table; labels and splits are ignored."""
    rows = corpus.clips.select("clip_id", "digest", "start_s", "duration_s", "^channel$").iter_rows()
    if segments is not None:
        segments.check(corpus.clips)
        return {clip_id: fingerprint(sound, segments.key(clip_id)) for clip_id, *sound in rows}
    return {clip_id: fingerprint(sound) for clip_id, *sound in rows}


def sound_id(keys: Mapping[str, str]) -> str:
    """Identify the sound of a corpus by the keys of its clips."""
    return fingerprint(sorted(keys.items()))


def stored_keys(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the key of each clip of a shard, usable or set aside."""
    return {clip[0]: clip[-1] for clip in (*card["clips"], *card["set_aside"])}


def shard_numbers(storage: Storage) -> list[int]:
    """Return the numbers of all shards that exist or that the manifest lists, complete or not."""
    paths = [PurePosixPath(name) for name in storage.list_files()]
    numbers = {int(path.stem) for path in paths if path.parent.name == "shards" and path.stem.isdigit()}
    with suppress(ArtifactError):
        numbers |= {shard["shard"] for shard in read_card(storage, MANIFEST, Manifest)["shards"]}
    return sorted(numbers)


def missing_shards(
    storage: Storage, plan: ExtractionPlan, *, verify: bool, damaged: Collection[int] = ()
) -> tuple[dict[int, dict[str, Any]], list[int]]:
    """Return the cards of planned shards that are complete, and the numbers of the others."""
    spec_id = plan.card["spec_id"]
    cards = {
        number: None
        if number in damaged
        else read_complete_shard(storage, number, spec_id=spec_id, key=plan.shard_key(number), verify=verify)
        for number in plan.shards
    }
    return {n: card for n, card in cards.items() if card is not None}, [n for n, card in cards.items() if card is None]


def _stored_card(storage: Storage, spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the stored card, from the manifest if it is damaged; refuse one of another specification."""
    try:
        stored = read_card(storage, CARD, StoreCard)
    except ArtifactError:
        try:
            stored = card_of(read_card(storage, MANIFEST, Manifest))
        except ArtifactError:
            return None
    before = {key: value for key, value in stored.items() if key in spec}
    if before != dict(spec):
        raise StaleArtifact(
            f"{storage.address} holds other activations: {'; '.join(differences(before, dict(spec)))}; "
            "delete the folder or choose another"
        )
    return stored


def _complete_shards(
    storage: Storage, stored: Mapping[str, Any] | None, *, resumed: bool, verify: bool
) -> dict[int, dict[str, Any]]:
    """Return the complete shards that an earlier corpus left.

    For a resumed extraction only the shards named in its card count; shards finished since then are planned ones.
    """
    if stored is None:
        return {}
    expected: dict[int, str | None] = dict(stored["kept"]) if resumed else dict.fromkeys(shard_numbers(storage))
    cards = {
        number: read_complete_shard(storage, number, spec_id=stored["spec_id"], key=key, verify=verify)
        for number, key in sorted(expected.items())
    }
    return {number: card for number, card in cards.items() if card is not None}


def _first_free_number(storage: Storage) -> int:
    """Return the first shard number if nothing is reused; shards of an older manifest must stay readable."""
    return 1 + max(shard_numbers(storage), default=-1) if storage.size(MANIFEST) is not None else 0
