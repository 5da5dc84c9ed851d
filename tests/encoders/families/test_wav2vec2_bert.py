"""wav2vec2-BERT against transformers, against physics, and with a preprocessor of another model."""

import pytest
import torch
import transformers

from otoscope.encoders.catalog import load_encoder
from otoscope.errors import EncoderError, WeightMismatch
from tests.support.sounds import assert_near, moved, noise
from tests.support.tiny import BLOCKS, edit_preprocessor, edit_weights, write_tiny_checkpoint

ALL = tuple(range(BLOCKS + 1))


@pytest.mark.parametrize("samples", [16000, 12345, 16160])
def test_layers_equal_transformers_hidden_states_masked_as_its_extractor_says(tiny, samples):
    (wave,) = noise(samples)
    ours = load_encoder(tiny("wav2vec2-bert")).encode([wave], ALL)
    extractor = transformers.SeamlessM4TFeatureExtractor.from_pretrained(tiny("wav2vec2-bert"))
    model = transformers.Wav2Vec2BertModel.from_pretrained(tiny("wav2vec2-bert"), attn_implementation="eager")
    inputs = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**inputs, output_hidden_states=True)
    valid = inputs.attention_mask[0].bool()
    assert len(theirs.hidden_states) == len(ALL)
    # transformers projects the frame that it masks too, and hands that on as its first state
    for layer in ALL:
        assert_near(ours.layers[layer][0], theirs.hidden_states[layer][0, valid])


def test_a_click_moves_the_frames_over_it(tiny):
    encoder = load_encoder(tiny("wav2vec2-bert"))
    (plain,) = noise(16000, seed=3)
    touched = plain.clone()
    touched[8000:8003] += 1.0
    before, after = (encoder.encode([wave], [0]).layers[0][0] for wave in (plain, touched))
    change = (before - after).abs().amax(-1)
    layer = encoder.layers[0]
    centre_s = layer.offset_s + int(change.argmax()) / layer.rate_hz
    assert abs(centre_s - 8001 / 16000) <= layer.receptive_field_s / 2
    assert moved(before, after)


def test_a_preprocessor_of_another_model_and_foreign_weights_are_refused(tmp_path):
    folder = write_tiny_checkpoint("wav2vec2-bert", tmp_path / "model")
    edit_preprocessor(folder, num_mel_bins=30)
    with pytest.raises(EncoderError, match="stacks 2 frames of 30 mel bands, the model takes 40 values"):
        load_encoder(folder)
    edit_preprocessor(folder, num_mel_bins=20)
    edit_weights(folder, lambda weights: {k: v for k, v in weights.items() if "layers.1.ffn1" not in k})
    with pytest.raises(WeightMismatch, match=r"missing 6: encoder\.layers\.1\.ffn1"):
        load_encoder(folder)
