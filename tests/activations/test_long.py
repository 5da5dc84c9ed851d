"""Long recordings are decoded while they are encoded: the same store, and memory that does not grow."""

from pathlib import Path

import numpy as np
import pytest

import otoscope.activations.worker as extraction
from otoscope.activations.format import Sharding
from otoscope.corpus.audio import write_audio
from otoscope.errors import AudioError
from tests.activations.test_extract import steps, store_of
from tests.support.activations import RATE_HZ, Toy, contents, corpus_of, noise, write_corpus
from tests.support.sounds import assert_near


@pytest.mark.parametrize("overlap_s", [0.0, 0.25])
def test_a_streamed_clip_is_stored_as_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlap_s: float):
    corpus = write_corpus(tmp_path / "sound", [0.4, 25.3, 3.0])
    sharding = Sharding(window_s=2.0, overlap_s=overlap_s)
    steps(corpus, tmp_path / "whole", sharding=sharding)
    monkeypatch.setattr(extraction, "STREAMED_S", 1.0)
    steps(corpus, tmp_path / "streamed", sharding=sharding)
    assert contents(tmp_path / "whole") == contents(tmp_path / "streamed")


def test_a_resampled_stream_is_stored_within_the_tolerance_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "sound").mkdir()
    write_audio(tmp_path / "sound" / "a.wav", np.repeat(noise(0, 20.0), 2), 2 * RATE_HZ)
    corpus = corpus_of(tmp_path / "sound")
    whole = store_of(corpus, tmp_path / "whole")
    monkeypatch.setattr(extraction, "STREAMED_S", 1.0)
    streamed = store_of(corpus, tmp_path / "streamed")
    assert_near(streamed.frames_of(2, "a.wav"), whole.frames_of(2, "a.wav"))


def test_a_long_clip_that_turns_out_to_be_no_sound_is_set_aside_with_all_that_was_stored_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(extraction, "STREAMED_S", 1.0)
    write_corpus(tmp_path / "sound", [5.0, 0.5])
    write_audio(tmp_path / "sound" / "clip000b.wav", np.full(RATE_HZ * 6, 0.25, dtype=np.float32), RATE_HZ)
    corpus = corpus_of(tmp_path / "sound")
    store = store_of(corpus, tmp_path / "store", Toy(), max_set_aside=0.5)
    assert store.set_aside.rows() == [("clip000b.wav", "clip000b.wav", "silent: all its samples are equal")]
    assert store.clip_ids == ["clip000.wav", "clip001.wav"]
    assert store.frames == sum(len(Toy().frames(round(s * RATE_HZ)).end_s) for s in (5.0, 0.5))
    with pytest.raises(AudioError, match=r"clip000b\.wav: silent"):
        steps(corpus, tmp_path / "strict", strict=True)
