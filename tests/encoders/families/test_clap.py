"""CLAP's audio tower against transformers, and its patches against sounds at known moments and frequencies."""

import numpy as np
import pytest
import torch
import transformers

from otoscope.encoders.catalog import load_encoder
from otoscope.errors import EncoderError
from tests.support.sounds import assert_near, noise
from tests.support.tiny import edit_preprocessor, write_tiny_checkpoint


def test_patches_equal_transformers_grid_unfolded_by_hand(tiny):
    (wave,) = noise(48000)
    encoder = load_encoder(tiny("clap"))
    ours = encoder.encode([wave], [0, 3])
    extractor = transformers.ClapFeatureExtractor.from_pretrained(tiny("clap"))
    model = transformers.ClapModel.from_pretrained(tiny("clap")).eval().audio_model
    inputs = extractor(wave.numpy(), sampling_rate=48000, return_tensors="pt")
    with torch.no_grad():
        theirs = model(inputs.input_features.float(), output_hidden_states=True).hidden_states
    for layer, grid in ((0, theirs[-2]), (3, theirs[-1])):
        assert grid.shape[2:] == (8, 8)
        for row in range(8):
            for column in range(8):
                moment, band = row // 2 * 8 + column, row % 2
                assert_near(ours.layers[layer][0, moment * 2 + band], grid[0, :, row, column])


@pytest.mark.parametrize("at_s", [0.2, 0.55, 0.9])
def test_a_click_moves_the_patches_over_its_moment_most(tmp_path, at_s):
    folder = write_tiny_checkpoint("clap", tmp_path / "clap", seed=1)
    encoder = load_encoder(folder)
    (plain,) = noise(48000)
    touched = plain.clone()
    touched[round(at_s * 48000) : round(at_s * 48000) + 200] += 2.0
    before, after = (encoder.encode([wave], [0]).layers[0][0] for wave in (plain, touched))
    change = (before - after).norm(dim=-1)
    frames = encoder.frames(48000)
    centre_s = (frames.start_s + frames.end_s)[int(change.argmax())] / 2
    assert abs(centre_s - at_s) < 2 / encoder.layers[0].rate_hz


def test_moments_fill_the_window_and_bands_the_spectrum(tiny):
    encoder = load_encoder(tiny("clap"))
    frames = encoder.frames(48000)
    assert len(frames.end_s) == 64
    np.testing.assert_allclose(np.diff(np.unique(frames.end_s)), 1 / encoder.layers[0].rate_hz, rtol=1e-6)
    assert frames.end_s[-1] == pytest.approx(1.0, abs=0.01)
    assert (frames.low_hz[0], frames.high_hz[1]) == (0.0, pytest.approx(14000))
    assert frames.low_hz[1] < frames.high_hz[0]


def test_a_tower_that_fuses_views_is_refused(tmp_path):
    folder = write_tiny_checkpoint("clap", tmp_path / "model")
    edit_preprocessor(folder, truncation="fusion")
    with pytest.raises(EncoderError, match="without fusion, as in laion/clap-htsat-unfused"):
        load_encoder(folder)
