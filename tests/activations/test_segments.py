from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from otoscope.activations.segments import Segments
from otoscope.corpus.audio import write_audio
from otoscope.corpus.table import Corpus
from otoscope.errors import ArtifactError, ConfigError
from tests.activations.test_append import Counting
from tests.activations.test_extract import LENGTHS_S, alone, steps, store_of
from tests.support.activations import RATE_HZ, Toy, corpus_of, noise, write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_corpus(tmp_path / "sound", LENGTHS_S)


def centres(seconds: float) -> np.ndarray:
    frames = Toy().frames(round(seconds * RATE_HZ))
    return 0.5 * (frames.start_s + frames.end_s)


def test_windows_hold_the_mean_of_the_frames_that_lie_in_them(corpus: Corpus, tmp_path: Path):
    store = store_of(corpus, tmp_path / "store", segments=Segments(every_s=0.3))
    pooled, table = store.pooled_segments(2), store.segments
    assert len(pooled) == table.height
    for seed, (clip_id, seconds) in enumerate(zip(store.clip_ids, LENGTHS_S, strict=True)):
        whole, at = alone(seed, seconds, 2), centres(seconds)
        rows = table.with_row_index().filter(clip_id=clip_id)
        assert rows["frames"].sum() == len(whole), "windows tile the clip"
        for row in rows.iter_rows(named=True):
            inside = (at >= row["start_s"] - 1e-9) & (at < row["segment"] * 0.3 + 0.3 - 1e-9)
            np.testing.assert_allclose(pooled[row["index"]], whole[inside].mean(0), atol=2e-6)
            assert row["frames"] == inside.sum()
            assert row["end_s"] == pytest.approx(min(row["start_s"] + 0.3, seconds))


def test_a_table_may_overlap_leave_gaps_and_leave_clips_out(corpus: Corpus, tmp_path: Path):
    wanted = pl.DataFrame(
        {
            "clip_id": ["clip002.wav"] * 3 + ["clip000.wav"] * 2,
            "start_s": [0.2, 0.9, 0.0, 0.0, 0.49],
            "end_s": [1.4, 1.1, 2.7, 0.25, 0.5],
        }
    )
    store = store_of(corpus, tmp_path / "store", segments=Segments(table=wanted))
    whole, at = alone(2, 2.7, 0), centres(2.7)
    rows = store.segments.filter(clip_id="clip002.wav")
    assert rows["segment"].to_list() == [0, 1, 2]
    assert list(zip(rows["start_s"], rows["end_s"], strict=True)) == [(0.9, 1.1), (0.2, 1.4), (0.0, 2.7)]
    found = store.pooled_segments(0, ["clip002.wav"])
    for row, (start_s, end_s) in zip(found, rows.select("start_s", "end_s").iter_rows(), strict=True):
        np.testing.assert_allclose(row, whole[(at >= start_s) & (at < end_s)].mean(0), atol=2e-6)
    # no frame's centre lies between 0.49 s and 0.5 s: that segment has no row
    assert store.segments.filter(clip_id="clip000.wav")["segment"].to_list() == [0]


def test_segments_can_be_all_there_is_and_open_with_safetensors_and_polars_alone(corpus: Corpus, tmp_path: Path):
    store = store_of(corpus, tmp_path / "store", pooled=False, frames=False, segments=Segments(every_s=0.5))
    assert not list((tmp_path / "store").rglob("frames-*"))
    found = pl.read_parquet(tmp_path / "store" / "segments" / "*.parquet").sort("clip_id", "segment")
    layer = tmp_path / "store" / "layer_02"
    shards = {i: load_file(layer / f"segments-{i:05d}.safetensors")["segments"] for i in found["shard"].unique()}
    plain = [shards[shard][offset] for shard, offset in found.select("shard", "offset").iter_rows()]
    np.testing.assert_array_equal(store.pooled_segments(2), np.array(plain))
    with pytest.raises(ArtifactError, match="extract with pooled=True"):
        store.pooled(2)


def test_a_clip_that_is_set_aside_half_way_leaves_no_segment(tmp_path: Path):
    write_corpus(tmp_path / "sound", [0.5, 0.7])
    loud = noise(5, 3.0)
    loud[-100] = 0.99
    write_audio(tmp_path / "sound" / "clip000b.wav", loud, RATE_HZ)
    store = store_of(corpus_of(tmp_path / "sound"), tmp_path / "store", segments=Segments(every_s=0.2), max_set_aside=1)
    assert store.set_aside["path"].to_list() == ["clip000b.wav"]
    assert set(store.segments["clip_id"]) == {"clip000.wav", "clip001.wav"}
    np.testing.assert_allclose(
        store.pooled_segments(0, ["clip001.wav"])[0], alone(1, 0.7, 0)[centres(0.7) < 0.2].mean(0), atol=2e-6
    )


def test_new_segments_of_one_clip_encode_that_clip_alone(corpus: Corpus, tmp_path: Path):
    def segments(end_s: float) -> Segments:
        table = {"clip_id": ["clip000.wav", "clip003.wav"], "start_s": [0.0, 0.0], "end_s": [0.4, end_s]}
        return Segments(table=pl.DataFrame(table))

    steps(corpus, tmp_path / "store", segments=segments(0.3))
    encoder = Counting()
    store = store_of(corpus, tmp_path / "store", encoder, segments=segments(0.2))
    assert len(encoder.given) == 1
    assert store.segments.filter(clip_id="clip003.wav")["end_s"].to_list() == [0.2]


def test_a_table_is_read_from_a_file(tmp_path: Path):
    (tmp_path / "segments.csv").write_text("clip_id,start_s,end_s\na.wav,0,1\n")
    assert Segments.read(tmp_path / "segments.csv").key("a.wav") == Segments(
        table=pl.DataFrame({"clip_id": ["a.wav"], "start_s": [0.0], "end_s": [1.0]})
    ).key("a.wav")
    with pytest.raises(ConfigError, match=r"segments nowhere\.csv cannot be read"):
        Segments.read(Path("nowhere.csv"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "give exactly one of the two"),
        ({"every_s": 0.0}, "every_s is 0; it must be above 0 and finite"),
        ({"table": pl.DataFrame({"clip_id": ["a"]})}, r"lacks the columns \['start_s', 'end_s'\]"),
        (
            {"table": pl.DataFrame({"clip_id": ["a"], "start_s": [1.0], "end_s": [0.5]})},
            r"a segment of a goes from 1\.0 s to 0\.5 s",
        ),
    ],
)
def test_what_are_no_segments_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        Segments(**given)


def test_a_table_that_names_an_unknown_clip_is_refused(corpus: Corpus, tmp_path: Path):
    table = pl.DataFrame({"clip_id": ["clip01.wav"], "start_s": [0.0], "end_s": [0.5]})
    with pytest.raises(ConfigError, match=r"has a clip that the corpus lacks.*did you mean clip001\.wav"):
        steps(corpus, tmp_path / "store", segments=Segments(table=table))


@pytest.mark.parametrize(
    ("start_s", "end_s", "message"),
    [
        (0.0, 80.0, "goes from 0 s to 80 s, and the clip lasts 0.1 s; are the times in milliseconds"),
        (0.0, 700.0, "are the times in samples"),
        (60.0, 61.0, "are the times in milliseconds"),
        (1e6, 2e6, "give seconds in the clip"),
    ],
)
def test_segments_far_from_the_sound_are_refused(
    corpus: Corpus, tmp_path: Path, start_s: float, end_s: float, message: str
):
    table = pl.DataFrame({"clip_id": ["clip001.wav"], "start_s": [start_s], "end_s": [end_s]})
    with pytest.raises(ConfigError, match=message):
        steps(corpus, tmp_path / "store", segments=Segments(table=table))


def test_a_table_of_segments_names_columns_without_use_and_decimal_commas_are_read(tmp_path: Path):
    path = tmp_path / "segments[1].csv"
    path.write_text("clip_id;start_s;end_s;word\na.wav;0,25;0,5;one\n")
    segments = Segments.read(path)
    assert segments.notes[-1] == "segments[1].csv: columns without use for segments: word"
    assert segments.key("a.wav") == Segments(
        table=pl.DataFrame({"clip_id": ["a.wav"], "start_s": [0.25], "end_s": [0.5]})
    ).key("a.wav")
    for every_s in (float("inf"), float("nan"), -1.0):
        with pytest.raises(ConfigError, match="must be above 0 and finite"):
            Segments(every_s=every_s)
