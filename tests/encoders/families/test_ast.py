"""The Audio Spectrogram Transformer against transformers, and where its patches lie in time and frequency."""

import math

import numpy as np
import pytest
import torch
import transformers

from otoscope.encoders.catalog import load_encoder
from otoscope.encoders.families.ast import PatchGrid
from otoscope.errors import EncoderError
from tests.support.sounds import assert_near, moved, noise
from tests.support.tiny import BLOCKS, edit_config, scrambled, write_tiny_checkpoint

ALL = tuple(range(BLOCKS + 1))
BANDS, MOMENTS = 12, 12


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_patches_and_tokens_equal_transformers_hidden_states(tiny, attention):
    (wave,) = noise(12345)
    encoder = load_encoder(tiny("ast"))
    ours = encoder.encode([wave], ALL)
    model = transformers.ASTModel.from_pretrained(tiny("ast"), attn_implementation=attention)
    values = encoder.extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        theirs = model(values, output_hidden_states=True)
    moments = ours.mask.shape[1] // BANDS
    assert moments == 7  # centres at 1400 + 1600 t samples
    for layer in ALL:
        state = theirs.hidden_states[layer]
        assert_near(ours.tokens[layer], state[:, :2])
        patches = state[:, 2:].reshape(1, BANDS, MOMENTS, -1)
        for moment in range(moments):
            mine = ours.layers[layer][0, moment * BANDS : (moment + 1) * BANDS]
            assert_near(mine, patches[0, :, moment])
    normed = model.layernorm(ours.tokens[BLOCKS])
    assert_near(normed, theirs.last_hidden_state[:, :2])


def test_a_click_moves_the_patches_over_it_in_every_band(tiny):
    encoder = load_encoder(tiny("ast"))
    layer, (wave,) = encoder.layers[0], noise(20000)
    click = 9003
    touched = wave.clone()
    touched[click] += 1.0
    patches = moved(*(encoder.encode([w], [0]).layers[0][0] for w in (wave, touched)), tolerance=1e-5)
    frames = encoder.frames(20000)
    centres_s = (frames.start_s + frames.end_s) / 2
    seen = np.flatnonzero(np.abs(centres_s - click / 16000) < layer.receptive_field_s / 2)
    assert patches == seen.tolist()


@pytest.mark.parametrize("tone_hz", [700.0, 2500.0, 6000.0])
def test_a_tone_moves_the_bands_that_hold_it_most(tiny, tone_hz):
    encoder = load_encoder(tiny("ast"))
    tone = 0.5 * torch.sin(2 * math.pi * tone_hz * torch.arange(20000) / 16000)
    quiet, loud = (encoder.encode([w], [0]).layers[0][0] for w in (torch.zeros(20000), tone))
    frames = encoder.frames(20000)
    change = (loud - quiet).abs().mean(-1)
    holds = torch.from_numpy((frames.low_hz <= tone_hz) & (tone_hz <= frames.high_hz))
    assert change[holds].min() > 2 * change[~holds].max() or change[holds].mean() > 2 * change[~holds].mean()


def test_bands_follow_the_mel_filters_of_the_extractor(tiny):
    """The first and last non-zero bins of a band's filters lie within its edges, one bin (31.25 Hz) from them."""
    encoder = load_encoder(tiny("ast"))
    filters = encoder.extractor.mel_filters[:257]
    for band, (low_hz, high_hz) in enumerate(encoder.grid.band_edges_hz()):
        bins_hz = np.flatnonzero(filters[:, band * 10 : band * 10 + 16].any(1)) * 31.25
        assert 0 <= bins_hz[0] - low_hz <= 31.25
        assert 0 <= high_hz - bins_hz[-1] <= 31.25


def test_a_full_window_has_the_published_grid():
    grid = PatchGrid(rate_hz=16000, mels=128, mel_frames=1024, patch=16, mel_stride=10, frame_stride=10)
    assert (grid.bands, grid.time_steps) == (12, 101)  # 1,212 patches: arXiv:2104.01778, 2.1
    assert grid.count_time_steps(163840) == 101


def test_patches_of_one_moment_rise_in_frequency(tiny):
    frames = load_encoder(tiny("ast")).frames(9000)
    by_moment = frames.low_hz.reshape(-1, BANDS)
    assert (np.diff(by_moment, axis=1) > 0).all()
    assert np.unique(frames.start_s.reshape(-1, BANDS), axis=1).shape[1] == 1


@pytest.mark.usefixtures("plain_layers")
def test_the_head_of_a_classifier_is_left_out_and_older_names_are_known(tmp_path, tiny):
    config = transformers.ASTConfig.from_pretrained(tiny("ast"))
    model = scrambled(transformers.ASTForAudioClassification(config), 2)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((tiny("ast") / "preprocessor_config.json").read_text())
    ours = dict(load_encoder(tmp_path).model.named_parameters())
    theirs = dict(model.audio_spectrogram_transformer.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_preprocessor_of_another_window_is_refused(tmp_path):
    folder = write_tiny_checkpoint("ast", tmp_path)
    edit_config(folder, max_length=256)
    with pytest.raises(EncoderError, match="max_length"):
        load_encoder(folder)


def test_there_is_no_short_context(tiny):
    with pytest.raises(EncoderError, match="no short context"):
        load_encoder(tiny("ast"), context="short")
