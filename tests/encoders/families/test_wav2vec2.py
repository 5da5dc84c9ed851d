"""The wav2vec 2.0 family against transformers, against physics, and against its known traps."""

import pytest
import torch
import transformers
from safetensors.torch import load_file

from otoscope.encoders.catalog import load_encoder
from otoscope.errors import EncoderError, WeightMismatch
from tests.support.sounds import assert_near, moved, noise
from tests.support.tiny import (
    BLOCKS,
    CONVOLUTIONS,
    SHAPE,
    edit_config,
    edit_preprocessor,
    edit_weights,
    old_weight_norm_names,
    scrambled,
    write_tiny_checkpoint,
)

CLASSES = {
    "wav2vec2": "Wav2Vec2Model",
    "wav2vec2-large": "Wav2Vec2Model",
    "hubert": "HubertModel",
    "hubert-large": "HubertModel",
    "wavlm": "WavLMModel",
    "wavlm-large": "WavLMModel",
    "data2vec-audio": "Data2VecAudioModel",
    "unispeech-sat": "UniSpeechSatModel",
    "unispeech-sat-large": "UniSpeechSatModel",
    "sew": "SEWModel",
    "sew-d": "SEWDModel",
}
LARGE = [name for name in CLASSES if name.endswith("-large")]
PADDED = ["wav2vec2-large", "hubert-large", "unispeech-sat-large"]
ALL = tuple(range(BLOCKS + 1))
NORM_KEYS = ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "original1")


def plain(family, folder, wave, *, attention="eager", **inputs):
    """What a user of transformers gets for one clip."""
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    model = getattr(transformers, CLASSES[family]).from_pretrained(folder, attn_implementation=attention)
    values = extractor(wave.numpy(), sampling_rate=extractor.sampling_rate, return_tensors="pt").input_values
    with torch.no_grad():
        return model, model(values, output_hidden_states=True, **inputs)


@pytest.mark.parametrize("family", CLASSES)
def test_layers_equal_transformers_hidden_states(tiny, family):
    (wave,) = noise(12345)
    ours = load_encoder(tiny(family)).encode([wave], ALL)
    _, theirs = plain(family, tiny(family), wave)
    assert len(theirs.hidden_states) == len(ALL)
    for layer in ALL:
        assert_near(ours.layers[layer], theirs.hidden_states[layer])


@pytest.mark.parametrize("family", LARGE)
def test_the_final_norm_of_pre_norm_models_is_left_off(tiny, family):
    (wave,) = noise(9000)
    ours = load_encoder(tiny(family)).encode([wave], [BLOCKS]).layers[BLOCKS]
    model, theirs = plain(family, tiny(family), wave)
    assert_near(model.encoder.layer_norm(ours), theirs.last_hidden_state)
    assert (ours - theirs.last_hidden_state).abs().max() > 0.01


@pytest.mark.parametrize("family", sorted(set(CLASSES) - {"wavlm", "wavlm-large", "sew-d"}))
def test_both_attentions_of_transformers_agree(tiny, family):
    (wave,) = noise(9000)
    (_, eager), (_, sdpa) = (plain(family, tiny(family), wave, attention=kind) for kind in ("eager", "sdpa"))
    assert_near(sdpa.last_hidden_state, eager.last_hidden_state)


@pytest.mark.parametrize("family", CLASSES)
def test_only_models_that_mask_exactly_are_padded(tiny, family):
    assert load_encoder(tiny(family)).pads == (family in PADDED)


@pytest.mark.parametrize("family", PADDED)
def test_padding_with_a_mask_is_exact(tiny, family):
    waves = noise(11000, 10400, 9600)  # within a factor of 1.25: these share a pass
    encoder = load_encoder(tiny(family), together=True)
    assert len({encoder.bucket(len(wave)) for wave in waves}) == 1
    shared = encoder.encode(waves, ALL)
    for clip, wave in enumerate(waves):
        alone = encoder.encode([wave], ALL)
        for layer in ALL:
            assert_near(shared.layers[layer][clip][shared.mask[clip]], alone.layers[layer][0])


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "unispeech-sat", "wavlm"])
def test_group_norm_would_see_padding(tiny, family):
    """Why these get batches of equal length: zeros behind a clip move its every frame."""
    (wave,) = noise(9000)
    _, alone = plain(family, tiny(family), wave)
    _, padded = plain(family, tiny(family), torch.nn.functional.pad(wave, (0, 9000)))
    frames = alone.hidden_states[0].shape[1] - 16  # beyond the reach of the positional convolution
    assert (padded.hidden_states[0][:, :frames] - alone.hidden_states[0][:, :frames]).abs().min(-1).values.max() > 1e-4


@pytest.mark.parametrize("family", ["wav2vec2-large", "hubert-large", "data2vec-audio", "wavlm-large"])
def test_a_click_moves_the_frames_that_the_geometry_says(tmp_path, family):
    folder = write_tiny_checkpoint(family, tmp_path)
    edit_preprocessor(folder, do_normalize=False)  # the normalisation would spread the click over the clip
    encoder, (wave,) = load_encoder(folder), noise(48000)
    layer, click = encoder.layers[0], 24000
    touched = wave.clone()
    touched[click] += 1.0
    frames = moved(*(encoder.encode([w], [0]).layers[0][0] for w in (wave, touched)))
    centres_s = [layer.offset_s + i / layer.rate_hz for i in frames]
    reach_s, hop_s = layer.receptive_field_s / 2, 1 / layer.rate_hz
    assert min(centres_s) == pytest.approx(click / 16000 - reach_s, abs=1.5 * hop_s)
    assert max(centres_s) == pytest.approx(click / 16000 + reach_s, abs=1.5 * hop_s)


@pytest.mark.parametrize("family", ["wav2vec2", "hubert-large"])
def test_spans_are_centred_where_the_convolutions_look(tiny, family):
    """Without the positional convolution a frame sees 400 samples: the click must lie under its span's centre."""
    encoder = load_encoder(tiny(family))
    frames = encoder.frames(16000)
    convolutions = encoder.model.feature_extractor
    impulse = torch.zeros(1, 16000)
    for frame in (0, 20, 48):
        centre = (frames.start_s[frame] + frames.end_s[frame]) / 2 if frame else encoder.layers[0].offset_s
        for samples, seen in ((199, True), (201, False)):
            for side in (-1, 1):
                touched = impulse.clone()
                touched[0, round(centre * 16000) + side * samples + (side > 0) * -1] = 1.0
                first = convolutions.conv_layers[0].conv
                stack = torch.nn.Sequential(first, *(layer.conv for layer in convolutions.conv_layers[1:]))
                difference = stack(touched[None])[0, :, frame] - stack(impulse[None])[0, :, frame]
                assert bool(difference.abs().max() > 0) == seen


@pytest.mark.usefixtures("plain_layers")
def test_wavlm_is_loaded_with_its_gated_position_bias(tiny):
    encoder = load_encoder(tiny("wavlm"))
    assert type(encoder.model).__name__ == "WavLMModel"
    names = dict(encoder.model.named_parameters())
    assert "encoder.layers.0.attention.plain.rel_attn_embed.weight" in names
    assert all(f"encoder.layers.{i}.attention.plain.gru_rel_pos_linear.weight" in names for i in range(BLOCKS))
    (wave,) = noise(9000)
    before = encoder.encode([wave], ALL)
    names["encoder.layers.0.attention.plain.rel_attn_embed.weight"].add_(1.0 * torch.arange(320)[:, None].remainder(7))
    after = encoder.encode([wave], ALL)
    assert torch.equal(before.layers[0], after.layers[0])
    assert (before.layers[1] - after.layers[1]).abs().max() > 1e-3


HEADS = {
    "Wav2Vec2ForPreTraining": ("wav2vec2", "Wav2Vec2Config"),
    "Wav2Vec2ForCTC": ("wav2vec2", "Wav2Vec2Config"),
    "Wav2Vec2ForSequenceClassification": ("wav2vec2", "Wav2Vec2Config"),
    "HubertForCTC": ("hubert", "HubertConfig"),
    "HubertForSequenceClassification": ("hubert", "HubertConfig"),
    "WavLMForXVector": ("wavlm", "WavLMConfig"),
    "WavLMForAudioFrameClassification": ("wavlm", "WavLMConfig"),
    "UniSpeechSatForPreTraining": ("unispeech-sat", "UniSpeechSatConfig"),
    "Data2VecAudioForCTC": ("data2vec-audio", "Data2VecAudioConfig"),
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_and_training_parts_are_left_out(tmp_path, tiny, head):
    family, config_class = HEADS[head]
    extra = {"num_codevectors_per_group": 4, "codevector_dim": 8, "proj_codevector_dim": 8, "vocab_size": 5}
    positional = {"num_conv_pos_embeddings": 2} if family == "data2vec-audio" else {}
    config = getattr(transformers, config_class)(
        **SHAPE, **{**CONVOLUTIONS, **positional}, **extra, use_weighted_layer_sum=True, num_clusters=8
    )
    model = scrambled(getattr(transformers, head)(config), 1)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((tiny(family) / "preprocessor_config.json").read_text())
    encoder, (wave,) = load_encoder(tmp_path), noise(9000)
    values = encoder.extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        theirs = getattr(model, model.base_model_prefix)(values).last_hidden_state
    assert_near(encoder.encode([wave], [BLOCKS]).layers[BLOCKS], theirs)


def test_old_and_new_names_of_the_weight_norm_give_the_same_model(tmp_path, tiny):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    edit_weights(folder, old_weight_norm_names)
    assert any(name.endswith("conv.weight_g") for name in load_file(folder / "model.safetensors"))
    old, new = (load_encoder(path).encode(noise(9000), [0]).layers[0] for path in (folder, tiny("hubert")))
    assert torch.equal(old, new)


@pytest.mark.parametrize("dropped", ["weight_g", "weight_v"])
def test_a_missing_weight_norm_is_caught_under_either_name(tmp_path, dropped):
    folder = write_tiny_checkpoint("wavlm", tmp_path)
    edit_weights(folder, old_weight_norm_names)
    edit_weights(folder, lambda weights: {k: v for k, v in weights.items() if not k.endswith(dropped)})
    number = {"weight_g": 0, "weight_v": 1}[dropped]
    with pytest.raises(WeightMismatch, match=rf"missing 1: encoder\.pos_conv_embed\..*original{number}"):
        load_encoder(folder)


def test_a_checkpoint_with_missing_unexpected_and_misshapen_keys_is_refused_naming_them(tmp_path):
    folder = write_tiny_checkpoint("hubert", tmp_path)

    def spoil(weights):
        weights["encoder.layers.1.stray.weight"] = weights.pop("encoder.layers.1.attention.q_proj.weight")
        weights["encoder.layers.2.attention.k_proj.bias"] = torch.zeros(3)
        return weights

    edit_weights(folder, spoil)
    expected = (
        r"missing 1: .*q_proj.weight; unexpected 1: .*stray.weight; misshapen 1: .*k_proj.bias \(3,\) for \(16,\)"
    )
    with pytest.raises(WeightMismatch, match=expected):
        load_encoder(folder)


def test_wavlms_weights_under_the_name_of_wav2vec2_are_refused(tmp_path):
    """The mistake that cost a published study its middle layers (PAPER.md, defect 14)."""
    folder = write_tiny_checkpoint("wavlm", tmp_path)
    edit_config(folder, model_type="wav2vec2")
    with pytest.raises(WeightMismatch, match=r"not those of Wav2Vec2Model: unexpected 10: .*gru_rel_pos_const"):
        load_encoder(folder)


def test_masked_frames_embedding_may_be_absent(tmp_path):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    edit_weights(folder, lambda weights: {k: v for k, v in weights.items() if k != "masked_spec_embed"})
    assert load_encoder(folder).encode(noise(9000), [0]).mask.any()


def test_pickled_and_half_precision_weights_load_as_float32(tmp_path, tiny):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    weights = load_file(folder / "model.safetensors")
    torch.save({name: tensor.half() for name, tensor in weights.items()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    half = load_encoder(folder).encode(noise(9000), [1]).layers[1]
    whole = load_encoder(tiny("hubert")).encode(noise(9000), [1]).layers[1]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, rtol=0, atol=0.05)


def test_language_adapters_are_refused(tmp_path):
    folder = write_tiny_checkpoint("wav2vec2-large", tmp_path)
    edit_config(folder, adapter_attn_dim=4)
    with pytest.raises(EncoderError, match="adapter_attn_dim=4"):
        load_encoder(folder)
