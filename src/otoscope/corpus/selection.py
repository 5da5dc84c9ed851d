"""Part of a collection: files by name, and a number of clips spread evenly over groups and labels."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import polars as pl
from pydantic import BeforeValidator, Field

from otoscope.corpus.listing import EACH, CorpusSpec, Listing
from otoscope.errors import CorpusError, quote
from otoscope.formatting import count

MAX_CHANNELS = 1024
"""Most channels that libsndfile reads."""


def _check_channel(value: object) -> object:
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_CHANNELS
    if not is_number and value not in ("mean", "each"):
        raise ValueError(f"a channel is a number from 1 to {MAX_CHANNELS}, mean, or each")
    return value


class SelectableCorpus(CorpusSpec, frozen=True, extra="forbid"):
    """Base of corpus kinds of which a part can be used."""

    include: tuple[str, ...] = Field(
        default=(), description="use only paths that match one of these, such as `*/song/*.wav`; `*` also matches `/`"
    )
    exclude: tuple[str, ...] = Field(default=(), description="leave out paths that match one of these")
    take: int | None = Field(
        default=None, ge=1, description="use at most this many clips of each group with the same labels"
    )
    max_clips: int | None = Field(
        default=None, ge=1, description="use at most this many clips, spread evenly over groups and labels"
    )
    channel: Annotated[int | Literal["mean", "each"], BeforeValidator(_check_channel)] = Field(
        default="mean",
        description="channel that is read, counted from 1; mean: the mean of all; each: one clip per channel",
    )

    def is_chosen(self, path: str) -> bool:
        """Return whether a relative path is included and not excluded."""
        included = not self.include or any(fnmatchcase(path, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(path, pattern) for pattern in self.exclude)

    def require_chosen(self, paths: Sequence[str]) -> list[str]:
        """Return warnings about patterns that match no path; raise `CorpusError` if they leave none."""
        if paths and not any(map(self.is_chosen, paths)):
            raise CorpusError(
                f"include {list(self.include)} and exclude {list(self.exclude)} leave none of"
                f" {count(len(paths), 'path')}, such as {paths[0]}; paths are relative to the root, `*` also matches"
                " `/`, and upper and lower case differ"
            )
        return [
            f"warning: {key}: {quote(pattern)} matches no path, such as {paths[0]}"
            for key, patterns in (("include", self.include), ("exclude", self.exclude))
            for pattern in patterns
            if paths and not any(fnmatchcase(path, pattern) for path in paths)
        ]


def choose_clips(listing: Listing, *, take: int | None, max_clips: int | None) -> Listing:
    """Return at most `take` clips of each group with the same labels, and at most `max_clips` in total.

    The clips are chosen by a hash of their path and start, so that files added later change little. `max_clips` takes
    turns over the groups and, within a group, over its labels.
    """
    clips = listing.clips
    labels = [name for name in clips.columns if name.startswith("label_")]
    kinds: list[Hashable] = list(clips.select("group", *labels).iter_rows())
    order = sorted(range(clips.height), key=lambda row: _hash(*clips.row(row)[:2]))
    of_kind: Counter[Hashable] = Counter()
    turn: dict[int, int] = {}
    for row in order:
        turn[row] = of_kind[kinds[row]]
        of_kind[kinds[row]] += 1
    chosen = [row for row in order if take is None or turn[row] < take]
    if max_clips is not None:
        chosen.sort(key=lambda row: (turn[row], _hash(kinds[row])))
        of_group: Counter[str] = Counter()
        place: dict[int, int] = {}
        for row in chosen:
            group = clips["group"][row]
            place[row] = of_group[group]
            of_group[group] += 1
        chosen = sorted(chosen, key=lambda row: (place[row], _hash(clips["group"][row])))[:max_clips]
    if len(chosen) == clips.height:
        return listing
    note = f"{count(len(chosen), 'clip')} of {clips.height:,} chosen (take, max_clips)"
    return listing._replace(clips=clips[sorted(chosen)], notes=(*listing.notes, note))


def with_channel(listing: Listing, channel: int | str) -> Listing:
    """Return a listing with the column `channel`, unless every clip is the mean of its channels.

    A channel that the listing states already, such as a column of a table, is kept.
    """
    number = {"mean": None, "each": EACH}[channel] if isinstance(channel, str) else channel
    stated = pl.col("channel") if "channel" in listing.clips.columns else pl.lit(None, dtype=pl.Int64())
    clips = listing.clips.with_columns(channel=stated.fill_null(pl.lit(number, dtype=pl.Int64())))
    return listing if clips["channel"].is_null().all() else listing._replace(clips=clips)


def _hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
