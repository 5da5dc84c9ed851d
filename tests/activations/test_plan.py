import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.activations.plan import PlannedClip, Sharding, assign_shards, make_batches, sorted_clips
from otoscope.errors import ConfigError

lengths = st.lists(st.floats(0.01, 60.0), min_size=1, max_size=60)


def clips_of(lengths_s: list[float]) -> list[PlannedClip]:
    return [PlannedClip(i, f"c{i:03d}", f"c{i:03d}.wav", seconds) for i, seconds in enumerate(lengths_s)]


@given(lengths, st.integers(1, 20), st.floats(1.0, 100.0), st.floats(0.001, 1.0))
def test_every_clip_is_in_one_shard_in_order_and_shards_keep_their_bounds(lengths_s, most, shard_s, shard_mb):
    clips = clips_of(lengths_s)
    found = assign_shards(clips, Sharding(shard_clips=most, shard_s=shard_s, shard_mb=shard_mb), bytes_per_s=10_000.0)
    assert [clip for shard in found for clip in shard] == clips
    for shard in found:
        held_s = sum(clip.duration_s for clip in shard)
        assert len(shard) == 1 or (len(shard) <= most and held_s <= min(shard_s, shard_mb * 100.0) + 1e-6)


@given(lengths, st.floats(1.0, 100.0), st.floats(0.5, 30.0), st.sampled_from([0.0, 30.0]))
def test_batches_hold_every_clip_once_within_their_bound_and_long_clips_alone(lengths_s, batch_s, window_s, padded_s):
    clips = clips_of(lengths_s)
    found = make_batches(3, clips, batch_s=batch_s, window_s=window_s, padded_s=padded_s)
    assert sorted(clip for batch in found for clip in batch.clips) == clips
    for batch in found:
        longest_s = max(clip.duration_s for clip in batch.clips)
        assert batch.shard == 3
        assert len(batch.clips) == 1 or len(batch.clips) * max(longest_s, padded_s) <= batch_s
        assert len(batch.clips) == 1 or longest_s <= window_s


def test_the_order_of_the_table_does_not_matter():
    table = pl.DataFrame({"clip_id": ["b", "a"], "path": ["b.wav", "a.wav"], "duration_s": [1.0, 2.0]})
    assert [(c.clip_id, c.row) for c in sorted_clips(table)] == [("a", 1), ("b", 0)]
    assert [c[1:] for c in sorted_clips(table.reverse())] == [c[1:] for c in sorted_clips(table)]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"shard_clips": 0}, "shard_clips is 0; it must be above 0"),
        ({"window_s": -1.0}, "window_s is -1.0; it must be above 0"),
        ({"window_s": 2.0, "overlap_s": 2.0}, r"overlap_s is 2.0; allowed: from 0 to below window_s \(2.0\)"),
    ],
)
def test_settings_out_of_range_are_named(setting: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        Sharding(**setting)
