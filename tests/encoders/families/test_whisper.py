"""Whisper's encoder against transformers, and what its two contexts do."""

import pytest
import torch
import transformers

from otoscope.encoders.catalog import load_encoder
from otoscope.errors import ConfigError, WeightMismatch
from tests.support.sounds import assert_near, moved, noise
from tests.support.tiny import BLOCKS, edit_weights, scrambled, write_tiny_checkpoint

ALL = tuple(range(BLOCKS + 1))


def plain(folder, wave, attention="eager"):
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    model = transformers.WhisperModel.from_pretrained(folder, attn_implementation=attention).encoder
    features = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        return model, model(features, output_hidden_states=True)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_layers_equal_transformers_hidden_states(tiny, attention):
    (wave,) = noise(20000)
    ours = load_encoder(tiny("whisper")).encode([wave], ALL)
    model, theirs = plain(tiny("whisper"), wave, attention)
    frames = ours.mask.shape[1]
    assert frames == 63  # 20,000 samples / 320, the last one begun
    for layer in range(BLOCKS):  # transformers' last entry has the final norm on it
        assert_near(ours.layers[layer], theirs.hidden_states[layer][:, :frames])
    normed = model.layer_norm(ours.layers[BLOCKS])
    assert_near(normed, theirs.last_hidden_state[:, :frames])


def test_a_click_moves_the_frames_that_the_geometry_says(tiny):
    encoder, (wave,) = load_encoder(tiny("whisper")), noise(32000)
    layer = encoder.layers[0]
    for click in (16000, 16100, 16160):
        touched = wave.clone()
        touched[click] += 0.5
        frames = moved(*(encoder.encode([w], [0]).layers[0][0] for w in (wave, touched)), tolerance=1e-6)
        reach_s = layer.receptive_field_s / 2
        seen = [i for i in range(100) if abs(i / layer.rate_hz - click / 16000) < reach_s]
        assert frames == pytest.approx(seen)


def test_short_context_on_a_full_window_is_exact(tiny):
    waves = noise(48000)
    exact, short = (load_encoder(tiny("whisper"), context=kind).encode(waves, ALL) for kind in ("exact", "short"))
    for layer in ALL:
        assert_near(short.layers[layer], exact.layers[layer])


def test_short_context_differs_once_attention_has_seen_the_silence(tiny):
    waves = noise(16000)
    exact, short = (load_encoder(tiny("whisper"), context=kind).encode(waves, ALL) for kind in ("exact", "short"))
    assert torch.equal(exact.mask, short.mask)
    # the front end alone sees silence behind the clip either way: only the last frame looks over the edge
    assert_near(short.layers[0][:, :-1], exact.layers[0][:, :-1])
    assert (short.layers[BLOCKS] - exact.layers[BLOCKS]).abs().max() > 1e-3


def test_short_clips_share_a_pass_only_with_as_many_frames(tiny):
    waves = noise(9600, 9500, 16000, 9300)
    apart, shared = (
        load_encoder(tiny("whisper"), context="short", together=together).encode(waves, ALL)
        for together in (False, True)
    )
    for layer in ALL:
        assert_near(shared.layers[layer], apart.layers[layer])


def test_an_unknown_context_is_refused(tiny):
    with pytest.raises(ConfigError, match="context is 'long'; allowed: exact, short"):
        load_encoder(tiny("whisper"), context="long")


@pytest.mark.usefixtures("plain_layers")
@pytest.mark.parametrize("task", ["WhisperForConditionalGeneration", "WhisperForAudioClassification"])
def test_the_encoder_of_a_task_model_is_the_same(tmp_path, tiny, task):
    config = transformers.WhisperConfig.from_pretrained(tiny("whisper"))
    model = scrambled(getattr(transformers, task)(config), 3)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((tiny("whisper") / "preprocessor_config.json").read_text())
    ours = dict(load_encoder(tmp_path).model.named_parameters())
    theirs = dict((model.model.encoder if hasattr(model, "model") else model.encoder).named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_missing_key_of_the_encoder_is_caught(tmp_path):
    folder = write_tiny_checkpoint("whisper", tmp_path)
    edit_weights(folder, lambda w: {k: v for k, v in w.items() if k != "encoder.layers.1.fc1.weight"})
    with pytest.raises(WeightMismatch, match=r"missing 1: layers\.1\.fc1\.weight"):
        load_encoder(folder)
