"""An untrained encoder: the same architecture, weights that learned nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from otoscope.encoders.catalog import load_encoder, reinitialise
from otoscope.errors import EncoderError

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
