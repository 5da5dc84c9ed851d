"""The first code of README.md and docs/how-to/python.md, as printed, on a tiny model."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import otoscope
from otoscope.activations.format import store_spec
from otoscope.corpus.audio import write_audio
from otoscope.encoders.base import Encoder
from otoscope.encoders.catalog import load_encoder
from otoscope.sae import SparseAutoencoder, TopK

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/python.md"])
def test_first_code_encodes_with_the_encoder_of_the_sae(
    page: str, tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code, *_) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    (folder,) = re.findall(r'from_pretrained\("(.*?)"\)', code)
    encoder = load_encoder(tiny("whisper"), context="short")
    card = {"layer": 3, "encoder": store_spec(encoder, layers=[3])["encoder"]}
    sae = SparseAutoencoder(encoder.layers[3].width, 32, TopK(4))
    sae.save_pretrained(tmp_path / folder, card)
    wave = (0.3 * np.sin(np.arange(12_000) / 9)).astype(np.float32)
    write_audio(tmp_path / "voice.wav", wave, 16_000)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    read = np.round(wave * 32768).astype(np.float32) / 32768
    expected = sae.encode(encoder.encode([read], layers=[3]).layers[3][0])
    torch.testing.assert_close(names["codes"], expected)
    assert len(names["codes"]) == len(encoder.frames(12_000).end_s), "the short context of the training"


def code_and_encoder(title: str, model: Path, folder: Path) -> tuple[str, Encoder]:
    """Return the code of a section of the page, and an encoder; an untrained SAE lies where the code loads it."""
    page = (ROOT / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"## {title}\n\n```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (path,) = re.findall(r'from_pretrained\("(.*?)"\)', code)
    encoder = load_encoder(model, context="short")
    card = {"layer": 2, "encoder": store_spec(encoder, layers=[2])["encoder"]}
    SparseAutoencoder(encoder.layers[2].width, 32, TopK(4)).save_pretrained(folder / path, card)
    return code, encoder


def test_code_that_sweeps_a_voice_draws_the_curves_of_a_latent(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _ = code_and_encoder("Change one factor of a voice", tiny("whisper"), tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"otoscope": otoscope}
    exec(code.replace("sae, 3,", "sae, 2,").replace("singers=3", "singers=2, crossed_clips=8"), names)
    assert names["tables"].sweeps.select("latent", "factor").unique().height == 4
    assert (tmp_path / "sweeps.svg").stat().st_size > 1000


def test_code_that_changes_a_layer_changes_later_layers_within_its_span(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, encoder = code_and_encoder("Change a layer", tiny("whisper"), tmp_path)
    write_audio(tmp_path / "voice.wav", (0.3 * np.sin(np.arange(12_000) / 9)).astype(np.float32), 16_000)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"otoscope": otoscope}
    exec(code.replace("sae, 3,", "sae, 2,").replace("[4]", "[3]"), names)  # the tiny model has three blocks
    assert not torch.allclose(names["before"], names["after"], atol=1e-4)
    (changed,) = names["louder"].encode([names["wave"]], layers=[2]).layers[2]
    (frames,) = encoder.encode([names["wave"]], layers=[2]).layers[2]
    start_s = encoder.frames(12_000).start_s
    outside = (start_s < 0.18) | (start_s >= 0.4)
    assert torch.equal(changed[outside], frames[outside])


def test_code_that_splices_a_layer_restores_it_with_the_error_term(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, encoder = code_and_encoder("Put the reconstruction in the place of a layer", tiny("whisper"), tmp_path)
    write_audio(tmp_path / "voice.wav", (0.3 * np.sin(np.arange(12_000) / 9)).astype(np.float32), 16_000)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"otoscope": otoscope}
    exec(code.replace("sae, 3", "sae, 2").replace("[4]", "[3]"), names)
    untouched = encoder.encode([names["wave"]], layers=[3]).layers[3]
    assert torch.equal(names["exact"], untouched)
    assert not torch.allclose(names["rebuilt"], untouched, atol=1e-3)


def test_code_that_describes_a_latent_scores_its_card_on_another_voice(
    tiny: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("opensmile")
    code, _ = code_and_encoder("When a latent fires", tiny("whisper"), tmp_path)
    times_s = np.arange(24_000) / 16_000
    for number, name in enumerate(re.findall(r'"(\w+\.wav)"', code)):
        swell = np.abs(np.sin(2 * np.pi * (1 + 0.2 * number) * times_s))
        write_audio(tmp_path / name, (0.5 * swell * np.sin(2 * np.pi * 220 * times_s)).astype(np.float32), 16_000)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"otoscope": otoscope, "np": np}
    exec(code.replace("layers=[3]).layers[3]", "layers=[2]).layers[2]"), names)
    assert names["card"].description.sentence.startswith("Fires in ")
    assert set(names["frames"].groups) == {"ann", "bob"}
    assert names["card"].score.rows == (names["frames"].groups == "bob").sum()
    assert capsys.readouterr().out.startswith("Fires in ")
