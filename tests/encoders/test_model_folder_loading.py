"""Strict loading: settings that are missing, of the wrong type or of another model, and weights that cannot be used."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from otoscope.encoders.catalog import load_encoder
from otoscope.errors import EncoderError, WeightMismatch
from tests.support.tiny import TINY, edit_config, edit_preprocessor, edit_weights, write_tiny_checkpoint


def drop_settings(folder: Path, *keys: str) -> None:
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if key not in keys}))


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("null", [False, True])
def test_load_extractor_refuses_a_missing_sample_rate(tmp_path: Path, family: str, null: bool):
    folder = write_tiny_checkpoint(family, tmp_path)
    if null:
        edit_preprocessor(folder, sampling_rate=None)
    else:
        drop_settings(folder, "sampling_rate")
    with pytest.raises(EncoderError, match=r"has no sampling_rate, and no default is safe; copy the file"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("wav2vec2", ["do_normalize"]),
        ("wavlm-large", ["do_normalize"]),
        ("mert", ["do_normalize"]),
        ("ast", ["do_normalize", "mean", "std"]),
        ("whisper", ["hop_length", "n_fft"]),
        ("clap", ["frequency_min", "frequency_max"]),
        ("wav2vec2-bert", ["stride"]),
    ],
)
def test_load_extractor_refuses_missing_settings(tmp_path: Path, family: str, keys: list[str]):
    folder = write_tiny_checkpoint(family, tmp_path)
    drop_settings(folder, *keys)
    with pytest.raises(EncoderError, match=rf"has no {' and no '.join(keys)}, and no default is safe"):
        load_encoder(folder)


@pytest.mark.parametrize("rate_hz", ["16000", 0, -16000, 16000.5, True, [16000]])
def test_load_extractor_refuses_a_sample_rate_that_is_no_number(tmp_path: Path, rate_hz: object):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    edit_preprocessor(folder, sampling_rate=rate_hz)
    with pytest.raises(EncoderError, match=r"has sampling_rate: .*; it must be a whole number"):
        load_encoder(folder)


@pytest.mark.parametrize("normalise", ["true", 1, {}])
def test_load_extractor_refuses_a_normalisation_that_is_no_truth_value(tmp_path: Path, normalise: object):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    edit_preprocessor(folder, do_normalize=normalise)
    with pytest.raises(EncoderError, match=r"has do_normalize: .*; it must be true or false"):
        load_encoder(folder)


def test_load_extractor_refuses_another_class(tmp_path: Path, tiny):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    (folder / "preprocessor_config.json").write_text((tiny("whisper") / "preprocessor_config.json").read_text())
    with pytest.raises(EncoderError, match=r"a WhisperFeatureExtractor, this model needs a Wav2Vec2FeatureExtractor"):
        load_encoder(folder)


@pytest.mark.parametrize("settings", ["[]", "null", "{", '"x"', "[" * 100_000])
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_load_extractor_refuses_another_shape(tmp_path: Path, file: str, settings: str):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    (folder / file).write_text(settings)
    with pytest.raises(EncoderError, match=rf"{file} (is not valid JSON|is .*, expected a JSON object)"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("whisper", {"feature_size": 128}, "the number of mel bands is 128 in the preprocessor and 20 in the model"),
        ("whisper", {"chunk_length": 30}, "the window is .* in the preprocessor and 48000 in the model"),
        ("whisper", {"hop_length": 80}, "the window is 48000 in the preprocessor and 24000 in the model"),
        ("ast", {"max_length": 1024}, "max_length is 1024 in the preprocessor and 128 in the model"),
        ("clap", {"feature_size": 64}, "the number of mel bands is 64 in the preprocessor and 16 in the model"),
        ("encodec", {"sampling_rate": 48000}, "the sample rate is 48000 in the preprocessor and 24000 in the model"),
    ],
)
def test_require_equal_refuses_a_preprocessor_of_another_model(tmp_path: Path, family, settings, message):
    folder = write_tiny_checkpoint(family, tmp_path)
    edit_preprocessor(folder, **settings)
    with pytest.raises(EncoderError, match=f"{message}; they must agree"):
        load_encoder(folder)


def test_require_equal_refuses_a_mert_at_another_rate(tmp_path: Path):
    folder = write_tiny_checkpoint("mert", tmp_path)
    edit_config(folder, sample_rate=24000)
    assert load_encoder(folder).rate_hz == 24000
    edit_config(folder, sample_rate=16000)
    with pytest.raises(EncoderError, match="the sample rate is 24000 in the preprocessor and 16000 in the model"):
        load_encoder(folder)


@pytest.mark.parametrize(
    "settings",
    [{"hidden_size": "16"}, {"conv_dim": []}, {"dtype": "abc"}, {"hidden_act": 3}, {"layer_norm_eps": None}],
)
def test_load_config_refuses_invalid_settings(tmp_path: Path, settings: dict[str, object]):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    edit_config(folder, **settings)
    with pytest.raises(EncoderError, match=r"config\.json is not a valid HubertConfig: |cannot be read as HubertModel"):
        load_encoder(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("family", ["hubert", "whisper", "encodec"])
def test_load_weights_refuses_values_that_are_not_finite(tmp_path: Path, family: str, value: float):
    folder = write_tiny_checkpoint(family, tmp_path)

    def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = min(key for key, tensor in weights.items() if tensor.ndim > 1 and key.startswith("encoder"))
        weights[name].view(-1)[0] = value
        return weights

    edit_weights(folder, spoil)
    with pytest.raises(WeightMismatch, match=r"hold NaN or infinite values, in 1: .*; download the model again"):
        load_encoder(folder)


def test_load_weights_accepts_large_finite_values(tmp_path: Path):
    """A sum of finite values may overflow."""
    folder = write_tiny_checkpoint("hubert", tmp_path)

    def enlarge(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["encoder.layers.0.attention.q_proj.weight"].fill_(3e38)
        return weights

    edit_weights(folder, enlarge)
    load_encoder(folder)


def test_load_weights_refuses_a_truncated_file(tmp_path: Path):
    folder = write_tiny_checkpoint("wavlm", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightMismatch, match="cannot be read as WavLMModel"):
        load_encoder(folder)


class Trap:
    """A value whose pickle runs code."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('code ran')",))


def test_load_weights_refuses_a_pickle_that_would_run_code(tmp_path: Path):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "trap": Trap()}, folder / "pytorch_model.bin")
    expected = r"a pickle that holds more than tensors, and opening it could run code: otoscope does not open it; use"
    with pytest.raises(WeightMismatch, match=expected) as caught:
        load_encoder(folder)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02c__builtin__\neval\n.", b"not a checkpoint"])
def test_load_weights_refuses_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(WeightMismatch, match=r"(cannot be read as HubertModel|are a pickle)") as caught:
        load_encoder(folder)
    assert "weights_only" not in str(caught.value)
