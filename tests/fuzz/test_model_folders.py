"""Mutated model folders: an encoder with finite states, or one of our errors; no code of the folder runs."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from otoscope.encoders import load_encoder
from otoscope.errors import EncoderError, OtoscopeError
from tests.support.damaged_files import SECRET, change_for, remove
from tests.support.fuzzing import limits, mutations
from tests.support.small_runs import Tiny

FAMILIES = ("wavlm", "hubert", "whisper", "ast")


@pytest.mark.parametrize("seed", mutations(8))
def test_a_mutated_model_folder_is_loaded_or_refused(tiny: Tiny, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    folder = tmp_path / "model"
    shutil.copytree(tiny(FAMILIES[seed % len(FAMILIES)]), folder)
    (tmp_path / "secret.txt").write_text(SECRET)
    path = rng.choice([path for path in sorted(folder.iterdir()) if path.is_file()])
    change = change_for(path, rng)
    try:
        change(path, rng)
    except ValueError:
        remove(path, rng)
    try:
        with limits(seconds=30):
            encoder = load_encoder(str(folder))
            states = encoder.encode([np.zeros(16_000, np.float32)], [1]).layers[1]
    except OtoscopeError:
        return
    assert torch.isfinite(states).all(), f"{change.__name__} {path.name}"


@pytest.mark.parametrize(
    ("file", "key", "value"), [("preprocessor_config.json", "dither", {"a": 1}), ("config.json", "dropout", 1e308)]
)
def test_a_setting_that_fails_at_the_first_sound_is_one_error(
    tiny: Tiny, tmp_path: Path, file: str, key: str, value: object
) -> None:
    shutil.copytree(tiny("whisper"), tmp_path / "model")
    path = tmp_path / "model" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(
        EncoderError, match=r"a setting of its configuration or preprocessor does not fit|is not a valid"
    ):
        load_encoder(str(tmp_path / "model")).encode([np.zeros(16_000, np.float32)], [1])


@pytest.mark.parametrize(
    ("file", "key", "value", "reason"),
    [
        ("config.json", "encoder_attention_heads", -1, "has encoder_attention_heads: -1; allowed: 1 and more"),
        ("preprocessor_config.json", "dither", 1e308, r"has dither: 1e\+308; its numbers are at most 1e\+09"),
    ],
)
def test_a_setting_out_of_range_is_refused_at_load(
    tiny: Tiny, tmp_path: Path, file: str, key: str, value: float, reason: str
) -> None:
    shutil.copytree(tiny("whisper"), tmp_path / "model")
    path = tmp_path / "model" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(EncoderError, match=reason):
        load_encoder(str(tmp_path / "model"))


def test_a_stride_below_one_is_refused_at_load(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny("wavlm"), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    settings = json.loads(path.read_text())
    # the product of two negative strides is positive
    settings["conv_stride"] = [-stride for stride in settings["conv_stride"][:2]] + settings["conv_stride"][2:]
    path.write_text(json.dumps(settings))
    with pytest.raises(EncoderError, match=r"conv_kernel and conv_stride of its config.json hold -\d+; allowed: 1 and"):
        load_encoder(str(tmp_path / "model"))
