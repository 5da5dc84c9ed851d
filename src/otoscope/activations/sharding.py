"""Which clips go into which shard and batch: settled before any work, from the corpus table alone.

A shard is a pure function of its plan, so a run that was killed makes the same bytes when it goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from otoscope.errors import ConfigError


@dataclass(frozen=True)
class Sharding:
    """How large shards may grow, and how long clips are cut.

    A shard ends before it would hold more than `shard_clips` clips, `shard_s` seconds of sound or `shard_mb` megabytes
    over all layers; a clip that is larger alone gets a shard of its own. Clips longer than `window_s` (or than the
    encoder takes, whichever is shorter) are encoded in windows that share at least `overlap_s`.
    """

    shard_clips: int = 256
    shard_s: float = 1800.0
    shard_mb: float = 256.0
    window_s: float = 30.0
    overlap_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("shard_clips", "shard_s", "shard_mb", "window_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.overlap_s < self.window_s:
            raise ConfigError(f"overlap_s is {self.overlap_s}; allowed: from 0 to below window_s ({self.window_s})")


class PlannedClip(NamedTuple):
    """One row of the corpus as the plan needs it: its place in the table, its name, and its expected length."""

    row: int
    clip_id: str
    path: str
    duration_s: float


class ClipBatch(NamedTuple):
    """Clips of about the same length that go through the encoder in one call."""

    shard: int
    clips: tuple[PlannedClip, ...]

    @property
    def sound_s(self) -> float:
        """Seconds of sound in the batch, as the corpus gives them."""
        return sum(clip.duration_s for clip in self.clips)


def sorted_clips(clips: pl.DataFrame) -> list[PlannedClip]:
    """Return the clips sorted by name, so that the order of the table does not matter."""
    rows = clips.select("clip_id", "path", "duration_s").iter_rows()
    return sorted((PlannedClip(i, *row) for i, row in enumerate(rows)), key=lambda clip: clip.clip_id)


def assign_shards(
    clips: Sequence[PlannedClip], sharding: Sharding, *, bytes_per_s: float
) -> list[tuple[PlannedClip, ...]]:
    """Share out clips in order of their names.

    >>> few = [Clip(i, f"c{i}", f"c{i}.wav", 2.0) for i in range(5)]
    >>> [len(shard) for shard in shards(few, Sharding(shard_s=4.0), bytes_per_s=1.0)]
    [2, 2, 1]
    """
    longest_s = min(sharding.shard_s, sharding.shard_mb * 1e6 / bytes_per_s if bytes_per_s else sharding.shard_s)
    found: list[tuple[PlannedClip, ...]] = []
    begun: list[PlannedClip] = []
    held_s = 0.0
    for clip in clips:
        if begun and (len(begun) >= sharding.shard_clips or held_s + clip.duration_s > longest_s):
            found.append(tuple(begun))
            begun, held_s = [], 0.0
        begun.append(clip)
        held_s += clip.duration_s
    return [*found, tuple(begun)] if begun else found


def make_batches(
    shard: int, clips: Sequence[PlannedClip], *, batch_s: float, window_s: float, padded_s: float
) -> list[ClipBatch]:
    """Sort a shard's clips by length and group neighbours; a clip longer than one window goes alone.

    A batch costs what it occupies in memory: its clips times the longest of them, where each counts at least
    `padded_s` (an encoder that pads every clip to a fixed context spends the same on all).

    >>> few = [Clip(i, f"c{i}", f"c{i}.wav", s) for i, s in enumerate([1.0, 9.0, 1.0])]
    >>> [len(batch.clips) for batch in batches(0, few, batch_s=4.0, window_s=30.0, padded_s=0.0)]
    [2, 1]
    """
    found: list[ClipBatch] = []
    begun: list[PlannedClip] = []
    for clip in sorted(clips, key=lambda clip: (clip.duration_s, clip.clip_id)):
        too_much = (len(begun) + 1) * max(clip.duration_s, padded_s) > batch_s
        if begun and (too_much or clip.duration_s > window_s):
            found.append(ClipBatch(shard, tuple(begun)))
            begun = []
        begun.append(clip)
    return [*found, ClipBatch(shard, tuple(begun))] if begun else found
