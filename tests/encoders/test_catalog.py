"""Untrained encoders, and the encoder of an SAE's training."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from otoscope.activations.format import store_spec
from otoscope.encoders.base import Encoder
from otoscope.encoders.batched import ContextMode
from otoscope.encoders.catalog import load_encoder, reinitialise
from otoscope.errors import ConfigError, EncoderError
from tests.support.tiny import write_tiny_checkpoint

WAVE = [torch.sin(torch.arange(8000) / 9.0)]


@pytest.mark.parametrize("family", ["whisper", "hubert", "wavlm"])
def test_same_shape_other_weights_repeatable(tiny: Callable[[str], Path], family: str):
    trained = load_encoder(tiny(family))
    fresh, again, other = (load_encoder(tiny(family), untrained=True, seed=seed) for seed in (0, 0, 1))
    assert fresh.layers == trained.layers
    assert fresh.frames(8000).start_s.tolist() == trained.frames(8000).start_s.tolist()
    a, b, c, d = (e.encode(WAVE, [2]).layers[2] for e in (trained, fresh, again, other))
    assert a.shape == b.shape
    assert torch.equal(b, c)
    assert not torch.allclose(a, b)
    assert not torch.allclose(b, d)
    assert fresh.revision != other.revision != trained.revision


def test_drawing_weights_leaves_the_callers_randomness_alone(tiny: Callable[[str], Path]):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_encoder(tiny("whisper"), untrained=True, seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_an_encoder_without_a_model_is_refused():
    @dataclass(frozen=True)
    class Bare:
        name: str = "bare"

    with pytest.raises(EncoderError, match="bare has no model configuration"):
        reinitialise(Bare(), seed=0)  # pyright: ignore[reportArgumentType]


@dataclass
class Trained:
    """An SAE, of which an encoder reads only the card."""

    card: dict[str, Any]


def trained_on(encoder: Encoder) -> Trained:
    spec = store_spec(encoder, layers=[1])
    return Trained({"layer": 1, "encoder": json.loads(json.dumps(spec["encoder"]))})


@pytest.mark.parametrize("context", ["exact", "short"])
def test_load_encoder_for_an_sae_gives_the_encoder_of_its_training(tmp_path: Path, context: ContextMode):
    folder = write_tiny_checkpoint("whisper", tmp_path)
    encoder = load_encoder(folder, context=context)
    wave = np.random.default_rng(0).normal(scale=0.1, size=8000).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_encoder(for_=trained_on(encoder))
    assert (again.name, again.revision) == (encoder.name, encoder.revision)
    states, expected = (e.encode([wave], layers=[1]).layers[1] for e in (again, encoder))
    np.testing.assert_array_equal(states.numpy(), expected.numpy())


def test_load_encoder_warns_of_another_context_or_model_than_the_training(tmp_path: Path):
    one, other = (write_tiny_checkpoint("whisper", tmp_path / name) for name in ("one", "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "dropout": 0.25}))
    sae = trained_on(load_encoder(one, context="short"))
    with pytest.warns(UserWarning, match="context exact, trained on short"):
        load_encoder(for_=sae, context="exact")
    with pytest.warns(UserWarning, match=r"revision \w+, trained on \w+"):
        load_encoder(other, for_=sae)


def test_load_encoder_for_an_sae_of_an_untrained_encoder_draws_the_same_weights(tmp_path: Path):
    folder = write_tiny_checkpoint("hubert", tmp_path)
    encoder = load_encoder(folder, untrained=True, seed=3)
    again = load_encoder(for_=trained_on(encoder))
    assert (again.name, again.revision) == (encoder.name, encoder.revision)
    wave = np.random.default_rng(0).normal(scale=0.1, size=8000).astype(np.float32)
    states, expected = (e.encode([wave], layers=[1]).layers[1] for e in (again, encoder))
    np.testing.assert_array_equal(states.numpy(), expected.numpy())


@pytest.mark.parametrize("card", [{}, {"encoder": None}, {"encoder": {}}, {"encoder": {"name": 3}}, {"encoder": []}])
def test_load_encoder_for_an_sae_without_an_encoder_says_what_to_do(card: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"names no encoder; name the model .*load_encoder\(MODEL\)"):
        load_encoder(for_=Trained(card))
    with pytest.raises(ConfigError, match="name a model, or give the SAE"):
        load_encoder()
