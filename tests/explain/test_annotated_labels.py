"""Annotated labels: planted latents are found with their onsets, and independent codes are not."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_matrix

from otoscope.errors import EvaluationError
from otoscope.explain.annotated_labels import (
    AnnotatedFrames,
    cluster_units,
    dense_units,
    label_examples,
    latent_units,
    score_labels,
)
from otoscope.factors.annotations import AnnotatedInterval

HOP_S, FRAMES, CLIPS, LATENTS = 0.02, 100, 24, 60
PLANTED = {"s": 7, "a": 23}


def frames_of(rng: np.random.Generator, *, clips: int = CLIPS) -> AnnotatedFrames:
    """Clips of two seconds with four labelled intervals each, of 120 to 200 ms; groups of four clips, two for test."""
    intervals = []
    for _ in range(clips):
        starts = np.array([0.1, 0.6, 1.1, 1.6]) + rng.uniform(0, 0.1, 4)
        labels = rng.permutation(["s", "a", "s", "a"])
        ends = starts + rng.uniform(0.12, 0.2, 4)
        intervals.append([AnnotatedInterval("phones", *times) for times in zip(starts, ends, labels, strict=True)])
    clip = np.repeat(np.arange(clips), FRAMES)
    start_s = np.tile(np.arange(FRAMES) * HOP_S, clips)
    return AnnotatedFrames(clip, start_s, start_s + HOP_S, clip // 4, clip // 4 >= 4, intervals)


def planted_codes(frames: AnnotatedFrames, rng: np.random.Generator) -> np.ndarray:
    """Random sparse codes; the planted latents fire with their label, and less often without it."""
    codes = rng.exponential(size=(len(frames.clip), LATENTS)) * (rng.random((len(frames.clip), LATENTS)) < 0.05)
    carried = frames.carries([("phones", label) for label in PLANTED])
    for column, latent in enumerate(PLANTED.values()):
        codes[:, latent] = carried[:, column] * rng.uniform(1.0, 2.0, len(codes))
        codes[:, latent] += (rng.random(len(codes)) < 0.002) * 0.2
    return codes.astype(np.float32)


def test_score_labels_recovers_planted_latents_and_their_onsets():
    rng = np.random.default_rng(0)
    frames = frames_of(rng)
    latents = latent_units(csr_matrix(planted_codes(frames, rng)), ~frames.test)
    scores = score_labels(frames, [latents])
    assert dict(scores.select("label", "number").iter_rows()) == PLANTED
    for row in scores.iter_rows(named=True):
        assert row["f1"] > 0.9
        assert row["f1_low"] <= row["f1"] <= row["f1_high"] <= 1
        assert row["p_value"] == pytest.approx(1 / 21)
        assert row["f1_null_high"] < 0.5
        assert row["auroc"] > 0.98
        assert row["onset_f1_20ms"] > 0.9
        assert row["onset_f1_50ms"] >= row["onset_f1_20ms"]
        assert (row["place"], row["groups"], row["events_test"]) == ("steady", 2, 16)


def test_score_labels_rarely_exceeds_the_null_for_codes_that_know_nothing():
    small = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        frames = frames_of(rng)
        codes = rng.exponential(size=(len(frames.clip), LATENTS)) * (rng.random((len(frames.clip), LATENTS)) < 0.05)
        scores = score_labels(frames, [latent_units(csr_matrix(codes.astype(np.float32)), ~frames.test)], seed=seed)
        small += scores["p_value"].to_list()
        assert scores["f1"].max() < 0.4
    # 40 labels, each p of 1/21 or less with probability 1/21
    assert sum(p <= 1 / 21 for p in small) <= 6


def test_score_labels_has_no_null_above_the_largest_f1():
    rng = np.random.default_rng(13)
    frames = frames_of(rng)
    # one clip of each group has this label throughout, and so has each latent a quarter of the clips
    whole = [AnnotatedInterval("notes", 0.2 * turn, 0.2 * turn + 0.2, "long") for turn in range(10)]
    has = {4 * group + int(rng.integers(4)) for group in range(CLIPS // 4)}
    frames = replace(frames, intervals=[whole if clip in has else own for clip, own in enumerate(frames.intervals)])
    codes = rng.exponential(size=(len(frames.clip), 8)) * (rng.random((len(frames.clip), 8)) < 0.02)
    for latent in range(8):
        codes[np.isin(frames.clip, rng.choice(CLIPS, CLIPS // 4, replace=False)), latent] = 1.0
    scores = score_labels(frames, [latent_units(csr_matrix(codes.astype(np.float32)), ~frames.test)])
    assert scores.filter(label="long")["f1_null_high"].item() == 1
    assert scores["f1_null_high"].max() == 1


def filled(frames: AnnotatedFrames, rng: np.random.Generator) -> AnnotatedFrames:
    """Clips of which every second one of a group has one label from its start to its end."""
    has = np.concatenate([rng.permutation([True, False] * 2) for _ in range(CLIPS // 4)])
    whole = [[AnnotatedInterval("vowels", 0.0, 2.0, "a" if one else "e")] for one in has]
    return replace(frames, intervals=whole)


def test_labels_that_fill_their_clips_are_tested_against_other_clips_of_the_group():
    rng = np.random.default_rng(0)
    frames = filled(replace(frames_of(rng), test=np.repeat(np.arange(CLIPS), FRAMES) // 4 >= 3), rng)
    codes = rng.exponential(size=(len(frames.clip), LATENTS)) * (rng.random((len(frames.clip), LATENTS)) < 0.05)
    unrelated = score_labels(frames, [latent_units(csr_matrix(codes.astype(np.float32)), ~frames.test)])
    assert unrelated["p_value"].min() > 0.05
    codes[:, 5] = frames.carries([("vowels", "a")])[:, 0] * (rng.random(len(codes)) < 0.8)
    found = score_labels(frames, [latent_units(csr_matrix(codes.astype(np.float32)), ~frames.test)])
    (row,) = found.filter(pl.col("label") == "a").iter_rows(named=True)
    assert (row["number"], row["p_value"]) == (5, pytest.approx(1 / 21))  # a rotation leaves the labels as they are
    assert row["f1_null_high"] < row["f1"]


def test_dense_units_are_found_with_their_sign():
    rng = np.random.default_rng(1)
    frames = frames_of(rng)
    carried = frames.carries([("phones", "a"), ("phones", "s")])
    rows = rng.standard_normal((len(frames.clip), 8)).astype(np.float32)
    rows[:, 2] += 6 * carried[:, 0]
    rows[:, 5] -= 6 * carried[:, 1]
    scores = score_labels(frames, [dense_units(rows, ~frames.test)])
    assert dict(scores.select("label", "number").iter_rows()) == {"a": 2, "s": -1 - 5}
    low = (
        scores.row(by_predicate=scores["label"] == "s", named=True) if False else scores.filter(scores["label"] == "s")
    )
    assert low["threshold"][0] < 0
    assert scores["auroc"].min() > 0.95


def test_cluster_units_find_labels_that_form_clusters():
    rng = np.random.default_rng(2)
    frames = frames_of(rng)
    carried = frames.carries([("phones", "a"), ("phones", "s")])
    rows = (rng.standard_normal((len(frames.clip), 4)) * 0.1 + carried @ np.eye(2, 4) * 3).astype(np.float32)
    scores = score_labels(frames, [cluster_units(rows, ~frames.test)])
    assert set(scores["unit"]) == {"cluster"}
    assert scores["p_value"].max() == pytest.approx(1 / 21)


@pytest.mark.parametrize(("place", "offset"), [("start", 0.0), ("end", 1.0)])
def test_score_labels_tells_where_in_the_label_a_latent_fires(place, offset):
    rng = np.random.default_rng(3)
    frames = frames_of(rng)
    codes = np.zeros((len(frames.clip), 4), dtype=np.float32)
    centre_s = (frames.start_s + frames.end_s) / 2
    for clip, intervals in enumerate(frames.intervals):
        for one in intervals:
            if one.label == "s":
                share = (centre_s - one.start_s) / (one.end_s - one.start_s)
                codes[(frames.clip == clip) & (np.abs(share - offset) < 0.35) & (share >= 0) & (share < 1), 1] = 1.0
    codes[rng.integers(len(codes), size=50), 3] = 1.0
    scores = score_labels(frames, [latent_units(csr_matrix(codes), ~frames.test)])
    assert scores.filter(scores["label"] == "s")["place"].to_list() == [place]


def test_label_examples_come_from_different_test_clips_in_which_the_latent_is_active():
    rng = np.random.default_rng(4)
    frames = frames_of(rng)
    latents = latent_units(csr_matrix(planted_codes(frames, rng)), ~frames.test)
    examples = label_examples(frames, latents, score_labels(frames, [latents]))
    for label, latent in PLANTED.items():
        own = [example for example in examples if example.label[1] == label]
        assert len(own) == len({example.clip for example in own}) == 3
        assert all(example.latent == latent and example.clip >= 16 and example.activation > 0.9 for example in own)


def test_score_labels_without_enough_intervals_is_refused():
    frames = frames_of(np.random.default_rng(5), clips=1)
    with pytest.raises(EvaluationError, match="no annotated label has 5 intervals in the test groups"):
        score_labels(frames, [])
