"""EnCodec's encoder against transformers, against causality, and with settings of another codec."""

import pytest
import torch
import transformers

from otoscope.encoders.catalog import load_encoder
from otoscope.errors import EncoderError
from tests.support.sounds import assert_near, moved, noise
from tests.support.tiny import edit_config, edit_preprocessor, write_tiny_checkpoint


def test_the_last_layer_is_what_transformers_quantises(tiny):
    (wave,) = noise(12345)
    encoder = load_encoder(tiny("encodec"))
    ours = encoder.encode([wave], [3]).layers[3]
    model = transformers.EncodecModel.from_pretrained(tiny("encodec")).eval()
    with torch.no_grad():
        theirs = model.encoder(wave[None, None])
        codes = model.encode(wave[None, None], bandwidth=1.5).audio_codes[0]
    count = ours.shape[1]
    assert theirs.shape[-1] - count in (0, 1), "a last frame whose middle lies behind the clip is left out"
    assert_near(ours[0], theirs[0, :, :count].T)
    quantised = model.quantizer.encode(ours.transpose(1, 2), bandwidth=1.5)
    assert torch.equal(quantised.transpose(0, 1), codes[..., :count])


def test_a_frame_hears_no_sound_behind_its_hop_and_none_before_its_field(tiny):
    encoder = load_encoder(tiny("encodec"))
    (plain,) = noise(24000)
    touched = plain.clone()
    touched[12000] += 1.0
    before, after = (encoder.encode([wave], [0]).layers[0][0] for wave in (plain, touched))
    heard = moved(before, after, tolerance=1e-6)
    layer, hop = encoder.layers[0], encoder.hop_samples
    assert heard[0] == 12000 // hop
    assert heard[-1] <= (12000 + round(layer.receptive_field_s * encoder.rate_hz)) // hop


def test_stereo_and_normalised_codecs_and_a_preprocessor_of_another_rate_are_refused(tmp_path):
    folder = write_tiny_checkpoint("encodec", tmp_path / "model")
    edit_preprocessor(folder, sampling_rate=48000)
    with pytest.raises(EncoderError, match="48000 in the preprocessor and 24000 in the model"):
        load_encoder(folder)
    edit_config(folder, normalize=True)
    with pytest.raises(EncoderError, match="normalize: True; EnCodec is supported with normalize: False"):
        load_encoder(folder)
