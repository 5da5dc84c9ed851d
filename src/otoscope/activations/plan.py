"""What is stored already, and which shards are to be written: settled before any work, and the same after a kill."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from otoscope.activations.format import CARD, MANIFEST, differences
from otoscope.activations.integrity import read_complete_shard
from otoscope.activations.segments import Segments
from otoscope.activations.sharding import PlannedClip, Sharding, assign_shards, sorted_clips
from otoscope.activations.storage.base import Storage, read_card, write_card
from otoscope.artifacts import fingerprint
from otoscope.corpus.table import Corpus
from otoscope.errors import ArtifactError, IncompleteArtifact, StaleArtifact


@dataclass(frozen=True)
class ExtractionPlan:
    """The store as it will be.

    `card` is its identity; `keys` says what each clip's activations are a function of beside the recipe; `kept` holds
    the cards of shards that an earlier corpus left; `plan` the clips of each shard of this one, by number.
    """

    card: dict[str, Any]
    keys: Mapping[str, str]
    kept: Mapping[int, dict[str, Any]]
    plan: Mapping[int, tuple[PlannedClip, ...]]

    def key_of(self, shard: int) -> str:
        """Identify a planned shard: the same key, the same bytes."""
        clips = [(clip.clip_id, self.keys[clip.clip_id]) for clip in self.plan[shard]]
        return fingerprint(self.card["recipe"], shard, clips)


def plan_extraction(
    home: Storage,
    corpus: Corpus,
    recipe: Mapping[str, Any],
    sharding: Sharding,
    *,
    segments: Segments | None,
    bytes_per_s: float,
    verify: bool,
    spoiled: Collection[int] = (),
) -> ExtractionPlan:
    """Compare a corpus and a recipe with what lies at a home; nothing is written.

    Clips that an earlier corpus of the same recipe left there are kept, whatever came or went beside them; those of
    `spoiled` shards are not. Raises
    `StaleArtifact` with what differs when the home holds activations of another recipe.
    """
    clips = sorted_clips(corpus.clips)
    keys = clip_keys(corpus, segments)
    wanted = {
        "name": corpus.name,
        "clips": len(clips),
        "sound": fingerprint([(c.clip_id, keys[c.clip_id]) for c in clips]),
    }
    found = _found(home, recipe)
    begun = found is not None and found["corpus"] == wanted
    kept = {
        number: card
        for number, card in _kept(home, found, begun=begun, verify=verify).items()
        if number not in spoiled and any(keys.get(clip_id) == key for clip_id, key in stored_keys(card).items())
    }
    if begun and found is not None and [[n, card["key"]] for n, card in kept.items()] == found["kept"]:
        first = int(found["first"])
    else:
        first = 1 + max(numbers(home), default=-1) if kept else _first_free(home)
    there = {
        clip_id for card in kept.values() for clip_id, key in stored_keys(card).items() if keys.get(clip_id) == key
    }
    missing = assign_shards([clip for clip in clips if clip.clip_id not in there], sharding, bytes_per_s=bytes_per_s)
    card = {
        **recipe,
        "recipe": fingerprint(recipe),
        "corpus": wanted,
        "kept": [[n, card["key"]] for n, card in kept.items()],
        "first": first,
    }
    card = {"fingerprint": fingerprint(card), **card}
    return ExtractionPlan(card, keys, kept, dict(enumerate(missing, start=first)))


def begin(home: Storage, settled: ExtractionPlan) -> None:
    """Write the store's card, and clear what a killed run left half-written."""
    try:
        found = read_card(home, CARD)
    except IncompleteArtifact:
        found = None
    if found != settled.card:
        write_card(home, CARD, settled.card)
    clear(home)


def clear(home: Storage) -> None:
    """Remove what writers that were killed left half-written."""
    for name in home.list_files():
        if (path := PurePosixPath(name)).name.startswith(".") and path.suffix == ".part":
            home.remove(name)


def clip_keys(corpus: Corpus, segments: Segments | None) -> dict[str, str]:
    """Identify each clip's sound, and its segments where a table gives them. Labels and splits do not count."""
    rows = corpus.clips.select("clip_id", "digest", "start_s", "duration_s").iter_rows()
    if segments is not None:
        segments.check(set(corpus.clips["clip_id"]))
        return {clip_id: fingerprint(sound, segments.key(clip_id)) for clip_id, *sound in rows}
    return {clip_id: fingerprint(sound) for clip_id, *sound in rows}


def stored_keys(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the key of each clip of a shard, usable or set aside."""
    return {clip[0]: clip[-1] for clip in (*card["clips"], *card["set_aside"])}


def _found(home: Storage, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the card that lies there; refuse one of another recipe."""
    try:
        found = read_card(home, CARD)
    except IncompleteArtifact:
        return None
    if not isinstance(found, dict) or {key: found.get(key) for key in recipe} != dict(recipe):
        before = {key: value for key, value in found.items() if key in recipe} if isinstance(found, dict) else {}
        raise StaleArtifact(
            f"{home.address} holds other activations: {'; '.join(differences(before, dict(recipe)))}; "
            "delete the folder or choose another"
        )
    return found


def _kept(home: Storage, found: Mapping[str, Any] | None, *, begun: bool, verify: bool) -> dict[int, dict[str, Any]]:
    """Return the whole shards that an earlier corpus left.

    Once this corpus was begun only those count that its card names: what a killed run has finished since is planned.
    """
    if found is None:
        return {}
    listed: dict[int, str | None] = dict(found["kept"]) if begun else dict.fromkeys(numbers(home))
    cards = {
        number: read_complete_shard(home, number, recipe=found["recipe"], key=key, verify=verify)
        for number, key in sorted(listed.items())
    }
    return {number: card for number, card in cards.items() if card is not None}


def _first_free(home: Storage) -> int:
    """Return the first number of a store without any shard to keep; what an older manifest names must stay readable."""
    return 1 + max(numbers(home), default=-1) if home.size(MANIFEST) is not None else 0


def numbers(home: Storage) -> list[int]:
    """Return the numbers of all shards that lie there or are in use, whole or not."""
    names = [PurePosixPath(name) for name in home.list_files()]
    found = {int(path.stem) for path in names if path.parent.name == "shards" and path.stem.isdigit()}
    with suppress(ArtifactError, KeyError, TypeError):
        found |= {shard["shard"] for shard in read_card(home, MANIFEST)["shards"]}
    return sorted(found)


def missing_shards(
    home: Storage, settled: ExtractionPlan, *, verify: bool, spoiled: Collection[int] = ()
) -> tuple[dict[int, dict[str, Any]], list[int]]:
    """Return the cards of the planned shards that are there and whole, and the numbers of the others."""
    found = {
        number: None
        if number in spoiled
        else read_complete_shard(home, number, recipe=settled.card["recipe"], key=settled.key_of(number), verify=verify)
        for number in settled.plan
    }
    return {n: card for n, card in found.items() if card is not None}, [n for n, card in found.items() if card is None]


def duration_of(clips: Sequence[PlannedClip]) -> float:
    """Return the seconds of sound of clips, as the corpus gives them."""
    return sum(clip.duration_s for clip in clips)
