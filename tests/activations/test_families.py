"""Extraction with every family of encoder, from tiny checkpoints of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from otoscope.activations.extract import extract
from otoscope.activations.format import Sharding
from otoscope.corpus.audio import load_clip
from otoscope.encoders.catalog import load_encoder
from tests.support.activations import contents, write_corpus
from tests.support.sounds import assert_near
from tests.support.tiny import write_tiny_checkpoint

LENGTHS_S = [0.4, 2.3, 0.4, 0.7]


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm", "mert", "whisper", "ast", "clap"])
def test_every_family_is_stored_clip_by_clip_as_it_encodes_and_cut_without_a_seam(family: str, tmp_path: Path):
    encoder = load_encoder(write_tiny_checkpoint(family, tmp_path / family))
    corpus = write_corpus(tmp_path / "sound", LENGTHS_S)
    window_s = min(1.0, encoder.window_s or 1.0)
    sharding = Sharding(window_s=window_s)
    store = extract(corpus, encoder, tmp_path / "store", layers=[0, 3], batch_s=4.0, sharding=sharding)
    store.verify()
    assert store.set_aside.is_empty()
    for row in corpus.clips.iter_rows(named=True):
        wave = load_clip(corpus.root, row, rate_hz=encoder.rate_hz)
        times, frames = store.times_of(row["clip_id"]), store.frames_of(3, row["clip_id"])
        assert len(times.end_s) == len(frames)
        assert_near(store.pooled(3, [row["clip_id"]])[0], frames.mean(0))
        if len(wave) <= window_s * encoder.rate_hz:
            alone = encoder.encode([torch.from_numpy(wave)], [3])
            assert_near(frames, alone.layers[3][0][alone.mask[0]].numpy())
            np.testing.assert_array_equal(times.end_s, encoder.frames(len(wave)).end_s)
        else:
            moments, heard = np.unique(np.round(times.end_s, 6), return_counts=True)
            # CLAP's moments lie between samples, where no window can begin
            np.testing.assert_allclose(np.diff(moments), 1.0 / encoder.layers[3].rate_hz, atol=1.1 / encoder.rate_hz)
            assert len(set(heard)) == 1
            whole_s = len(wave) / encoder.rate_hz
            assert whole_s - moments[-1] < 2.0 / encoder.layers[3].rate_hz + encoder.layers[3].receptive_field_s


@pytest.mark.parametrize("family", ["hubert", "whisper"])
@pytest.mark.parametrize("batch_s", [0.5, 30.0])
def test_extract_writes_the_same_bytes_with_one_pass_at_a_time_and_with_several(family, batch_s, tmp_path: Path):
    folder = write_tiny_checkpoint(family, tmp_path / family)
    corpus = write_corpus(tmp_path / "sound", [*LENGTHS_S, 61.0])
    for threads in (1, 3):
        encoder = load_encoder(folder, threads=threads)
        extract(corpus, encoder, tmp_path / f"store{threads}", layers=[0, 3], batch_s=batch_s)
    assert contents(tmp_path / "store1") == contents(tmp_path / "store3")


def test_tokens_of_ast_are_kept_apart_from_its_frames(tmp_path: Path):
    encoder = load_encoder(write_tiny_checkpoint("ast", tmp_path / "ast"))
    corpus = write_corpus(tmp_path / "sound", [0.4, 0.7])
    store = extract(corpus, encoder, tmp_path / "store", layers=[1])
    wave = torch.from_numpy(load_clip(corpus.root, corpus.clips.row(1, named=True), rate_hz=encoder.rate_hz))
    expected = encoder.encode([wave], [1]).tokens[1][0].numpy()
    assert_near(store.tokens(1, ["clip001.wav"])[0], expected)
    assert {"low_hz", "high_hz"} <= set(store.index.columns)
