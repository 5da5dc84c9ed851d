"""Inspection: real length and rate, one reason a bad clip, the same table whatever the threads do.

Thin classes and shared recordings are told, not crashed on.
"""

import hashlib
import time

import numpy as np
import polars as pl
import pytest

from otoscope.corpus.checks import check_clips, class_support, shared_recordings
from otoscope.corpus.listing import Listing, listing_table, set_aside_table
from otoscope.errors import AudioError, CorpusError


def listing_of(root, rows, set_aside=()) -> Listing:
    clips = listing_table([{"group": "g", **(row if isinstance(row, dict) else {"path": row})} for row in rows])
    return Listing("test", root, "unknown", "", clips, set_aside_table(set_aside))


def test_length_rate_and_digest_are_those_of_the_file(record, tone, tmp_path):
    path = record("a/x.wav", tone(rate_hz=22_050, seconds=0.3), rate_hz=22_050)
    row = check_clips(listing_of(tmp_path, ["a/x.wav"])).clips.row(0, named=True)
    assert row["clip_id"] == row["path"] == "a/x.wav"
    assert (row["rate_hz"], row["duration_s"]) == (22_050, pytest.approx(0.3))
    assert row["digest"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_files_of_one_name_are_two_clips(record, tmp_path):
    record("ann/a.wav")
    record("bob/a.wav")
    assert check_clips(listing_of(tmp_path, ["bob/a.wav", "ann/a.wav"])).clips["clip_id"].to_list() == [
        "ann/a.wav",
        "bob/a.wav",
    ]


def test_segments_of_a_file_are_clips_of_their_own(record, tone, tmp_path):
    record("x.wav", tone(seconds=2.0))
    rows = [{"path": "x.wav", "start_s": 0.5, "duration_s": 0.25}, {"path": "x.wav", "start_s": 1.5}, {"path": "x.wav"}]
    clips = check_clips(listing_of(tmp_path, rows)).clips
    assert clips["clip_id"].to_list() == ["x.wav", "x.wav#0.5-0.75", "x.wav#1.5-2"]
    assert clips["duration_s"].to_list() == pytest.approx([2.0, 0.25, 0.5])
    assert clips["digest"].n_unique() == 1


def test_bad_clips_are_set_aside_and_the_run_goes_on(record, tmp_path):
    for i in range(12):
        record(f"good{i:02}.wav")
    record("silent.wav", np.zeros(800))
    (tmp_path / "empty.wav").touch()
    listing = listing_of(
        tmp_path,
        [*(f"good{i:02}.wav" for i in range(12)), "silent.wav", {"path": "empty.wav", "start_s": 1.0}],
        [("odd.wav", "its path names no singer")],
    )
    clips, set_aside, _ = check_clips(listing)
    assert clips.height == 12
    assert set_aside.rows() == [
        ("empty.wav#1-end", "empty file (0 bytes)"),
        ("odd.wav", "its path names no singer"),
        ("silent.wav", "silent: all its samples are equal"),
    ]


def test_the_number_of_threads_changes_nothing(record, tone, tmp_path):
    names = [f"{i:02}.wav" for i in range(20)]
    for i, name in enumerate(names):
        record(name, np.zeros(80) if i % 7 == 3 else tone(300 + i, seconds=0.02 + 0.5 * (i % 3)))
    one, many = (check_clips(listing_of(tmp_path, names[::-1]), threads=threads) for threads in (1, 8))
    assert one.clips.equals(many.clips)
    assert one.set_aside.equals(many.set_aside)


def test_strict_stops_at_the_first_bad_clip_in_path_order(record, tmp_path):
    for name in ["a.wav", "c.wav"]:
        record(name)
    (tmp_path / "b.wav").touch()
    record("d.wav", np.zeros(800))
    with pytest.raises(AudioError, match=r"b\.wav: empty file"):
        check_clips(listing_of(tmp_path, ["d.wav", "c.wav", "b.wav", "a.wav"]), fail_fast=True)
    with pytest.raises(AudioError, match=r"odd\.wav: no name"):
        check_clips(listing_of(tmp_path, ["a.wav"], [("odd.wav", "no name")]), fail_fast=True)


def test_an_interrupt_leaves_the_rest_undecoded(record, tmp_path, monkeypatch):
    names = [f"{i:03}.wav" for i in range(200)]
    record(names[0])
    decoded: list[str] = []
    monkeypatch.setattr("otoscope.corpus.checks.digest", lambda path: decoded.append(path.name) or time.sleep(0.002))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_clips(listing_of(tmp_path, names), on_progress=interrupt, threads=1)
    assert len(decoded) < 100


def test_too_many_bad_clips_stop_the_run_with_the_commonest_reasons(record, tmp_path):
    record("good.wav")
    for i in range(3):
        record(f"still{i}.wav", np.zeros(800))
    (tmp_path / "empty.wav").touch()
    listing = listing_of(tmp_path, ["good.wav", "still0.wav", "still1.wav", "still2.wav", "empty.wav"])
    with pytest.raises(
        CorpusError,
        match=r"4 of 5 clips .* \(allowed: 20%\)\. Most frequent reasons: 3 x silent; 1 x empty file\. The first",
    ):
        check_clips(listing)
    assert check_clips(listing, max_set_aside=0.8).clips["clip_id"].to_list() == ["good.wav"]


def test_nothing_usable_is_an_error_at_any_share(tmp_path):
    (tmp_path / "empty.wav").touch()
    with pytest.raises(CorpusError, match=r"1 of 1 clips .*empty\.wav \(empty file"):
        check_clips(listing_of(tmp_path, ["empty.wav"]), max_set_aside=1.0)


def test_progress_counts_every_clip_once(record, tmp_path):
    for name in ["a.wav", "b.wav", "c.wav"]:
        record(name)
    seen: list[tuple[int, int]] = []
    check_clips(
        listing_of(tmp_path, ["a.wav", "b.wav", "c.wav"]), on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_labels_and_factors_stay_with_their_clip(record, tmp_path):
    for name in ["b.wav", "a.wav"]:
        record(name)
    rows = [{"path": p, "label_name": p, "factor_code": float(ord(p[0]))} for p in ("b.wav", "a.wav")]
    clips = check_clips(listing_of(tmp_path, rows)).clips
    assert clips.select("path", "label_name", "factor_code").rows() == [
        ("a.wav", "a.wav", 97.0),
        ("b.wav", "b.wav", 98.0),
    ]
    assert clips.schema["factor_code"] == pl.Float64


def test_reasons_beyond_the_commonest_three_are_counted(tmp_path):
    reasons = ("silent", "silent", "empty", "short", "NaN", "torn")
    unusable = set_aside_table((f"{i}.wav", reason) for i, reason in enumerate(reasons))
    listing = Listing("x", tmp_path, "", "", listing_table([]), unusable)
    with pytest.raises(
        CorpusError, match=r"Most frequent reasons: 2 x silent; 1 x \w+; 1 x \w+; 2 x others\. The first of "
    ):
        check_clips(listing)


def clips(rows: list[tuple[str, str, str, str | None]]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["digest", "group", "split", "label_vowel"], orient="row")
    return frame.with_row_index().select(
        pl.format("{}.wav", "index").alias("clip_id"),
        pl.lit(0.0).alias("start_s"),
        pl.lit(1.0).alias("duration_s"),
        *frame.columns,
    )


TABLE = [
    ("1", "ann", "train", "a"),
    ("2", "ann", "train", "a"),
    ("3", "bob", "test", "a"),
    ("4", "ann", "train", "e"),
    ("5", "ann", "train", "e"),
    ("6", "bob", "test", "i"),
    ("7", "cy", "valid", "i"),
    ("8", "cy", "valid", "o"),
    ("9", "cy", "valid", None),
]


def test_a_class_is_usable_when_train_shows_it_and_test_asks_for_it():
    found = class_support(clips(TABLE)).drop("label")
    assert found.rows() == [
        ("a", 3, 2, 2, 0, 1, True, None),
        ("e", 2, 1, 2, 0, 0, False, "no clip in test"),
        ("i", 2, 2, 0, 1, 1, False, "no clip in train"),
        ("o", 1, 1, 0, 1, 0, False, "one clip only"),
    ]


def test_every_label_has_its_classes_and_no_label_none():
    both = clips(TABLE).with_columns(label_age=pl.lit("adult"))
    assert class_support(both)["label"].unique().sort().to_list() == ["age", "vowel"]
    assert class_support(both.drop("label_age", "label_vowel")).is_empty()


def test_the_same_bytes_in_two_groups_are_found_and_leaks_named():
    rows = [
        ("x", "ann", "train", "a"),
        ("x", "bob", "test", "a"),
        ("y", "ann", "train", "a"),
        ("y", "ann", "train", "a"),
    ]
    rows += [("z", "cy", "train", "a"), ("z", "ann", "train", "a")]
    found = shared_recordings(clips(rows))
    assert found.drop("clip_ids").rows() == [
        ("x", ["ann", "bob"], ["test", "train"], True),
        ("z", ["ann", "cy"], ["train"], False),
    ]


def test_the_same_bytes_in_two_folds_of_a_cross_fit_leak():
    rows = clips([("x", "ann", "train", "a"), ("x", "bob", "train", "a"), ("z", "cy", "train", "a")])
    assert shared_recordings(rows.with_columns(fold=pl.Series([0, 1, 0])))["leaks"].to_list() == [True]
    assert shared_recordings(rows.with_columns(fold=pl.Series([0, 0, 1])))["leaks"].to_list() == [False]


def test_two_segments_of_one_file_are_not_one_recording():
    rows = clips([("x", "ann", "train", "a"), ("x", "bob", "test", "a")])
    assert shared_recordings(rows.with_columns(start_s=pl.Series([0.0, 1.0]))).is_empty()


def test_overlapping_segments_in_two_groups_are_one_recording():
    rows = clips([("x", "ann", "train", "a"), ("x", "bob", "test", "b"), ("x", "cy", "train", "c")])
    spans = rows.with_columns(start_s=pl.Series([0.0, 0.5, 3.0]), duration_s=pl.Series([1.0, 1.0, 1.0]))
    found = shared_recordings(spans)
    assert found.drop("clip_ids").rows() == [("x", ["ann", "bob"], ["test", "train"], True)]
    adjacent = spans.with_columns(start_s=pl.Series([0.0, 0.995, 3.0]))
    assert shared_recordings(adjacent).is_empty()


def test_a_segment_end_rounded_up_is_shortened_and_a_later_one_is_not(record, tone, tmp_path):
    record("a.wav", tone(seconds=0.2537))
    rows = [{"path": "a.wav", "start_s": 0.1, "duration_s": 0.16}, {"path": "a.wav", "start_s": 0.1, "duration_s": 0.2}]
    rows += [{"path": "a.wav", "start_s": 1e308, "duration_s": 1.0}, {"path": "a.wav", "duration_s": 1e308}]
    checked = check_clips(listing_of(tmp_path, rows), max_set_aside=1.0)
    assert checked.clips["clip_id"].to_list() == ["a.wav#0.1-0.26"]
    assert checked.clips["duration_s"][0] == pytest.approx(0.1537, abs=1e-4)
    assert all("exceeds the recording" in reason for reason in checked.set_aside["reason"])
