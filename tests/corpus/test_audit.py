"""Thin classes and shared recordings are told, not crashed on."""

import polars as pl

from otoscope.corpus.checks import class_support, shared_recordings


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


def test_two_segments_of_one_file_are_not_one_recording():
    rows = clips([("x", "ann", "train", "a"), ("x", "bob", "test", "a")])
    assert shared_recordings(rows.with_columns(start_s=pl.Series([0.0, 1.0]))).is_empty()
