"""A module of one's own as an encoder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from otoscope.activations.extract import extract
from otoscope.encoders.base import Encoder
from otoscope.encoders.custom import wrap_encoder
from otoscope.errors import EncoderError, UnknownLayer
from tests.support.activations import write_corpus
from tests.support.sounds import noise


class Small(nn.Module):
    """Two convolutions, 40 samples apart, and a block over their frames."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(1, 6, 16, stride=8), nn.GELU(), nn.Conv1d(6, 6, 5, stride=5))
        self.block = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)

    def forward(self, sound: Tensor) -> Tensor:
        return self.block(self.front(sound[:, None]).transpose(1, 2))


GEOMETRY = {"name": "small", "rate_hz": 16000, "hop_samples": 40, "field_samples": 16 + 4 * 8}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return wrap_encoder(Small(), ["front.2", "block"], **GEOMETRY)


def test_it_is_an_encoder_and_gives_what_the_module_gives(encoder):
    assert isinstance(encoder, Encoder)
    waves = noise(4000, 777, 4000)
    encoded = encoder.encode(waves, [0, 1])
    for clip, wave in enumerate(waves):
        with torch.inference_mode():
            front = encoder.model.front(wave[None, None])[0].T
            whole = encoder.model(wave[None])[0]
        torch.testing.assert_close(encoded.layers[0][clip][encoded.mask[clip]], front)
        torch.testing.assert_close(encoded.layers[1][clip][encoded.mask[clip]], whole)
        assert len(encoder.frames(len(wave)).start_s) == len(whole)


def test_a_click_moves_the_frames_over_it_alone(encoder):
    wave = torch.zeros(4000)
    click = wave.clone()
    click[2000] = 1.0
    plain, touched = (encoder.encode([w], [0]).layers[0][0] for w in (wave, click))
    moved = torch.nonzero((plain - touched).abs().amax(-1) > 1e-6).flatten().tolist()
    layer, centre_s = encoder.layers[0], 2000 / 16000
    for frame in moved:
        assert abs(layer.offset_s + frame / layer.rate_hz - centre_s) <= layer.receptive_field_s / 2 + 1e-9


def test_extraction_runs_on_it(encoder, tmp_path: Path):
    corpus = write_corpus(tmp_path / "sound", [0.4, 0.7])
    store = extract(corpus, encoder, tmp_path / "store", layers=[0, 1])
    assert list(store.layers) == [0, 1]
    assert np.isfinite(store.frames_of(1, "clip001.wav")).all()


def test_its_revision_is_that_of_its_weights(encoder):
    torch.manual_seed(0)
    again = wrap_encoder(Small(), ["block"], **GEOMETRY)
    assert again.revision == encoder.revision
    torch.manual_seed(1)
    assert wrap_encoder(Small(), ["block"], **GEOMETRY).revision != encoder.revision


def test_a_wrong_geometry_or_point_is_refused():
    with pytest.raises(EncoderError, match=r"front.2 gives \(1, 399, 6\) for 16000 samples, expected .*\(1, 798, 6\)"):
        wrap_encoder(Small(), ["front.2"], **{**GEOMETRY, "hop_samples": 20})
    with pytest.raises(UnknownLayer, match=r"did you mean front\.2"):
        wrap_encoder(Small(), ["fronts.2"], **GEOMETRY)


def test_it_takes_arrays_and_tells_of_slips_as_every_encoder_does(encoder):
    (wave,) = noise(4000)
    assert encoder.encode([wave.numpy()], [0]).layers[0].equal(encoder.encode([wave], [0]).layers[0])
    with pytest.raises(EncoderError, match=r"got one tensor of shape \(4000,\); give a list of clips"):
        encoder.encode(wave, [0])


class Normed(nn.Module):
    """A convolution with a batch norm (its counter has no dimensions), a scalar gain, and an empty buffer."""

    def __init__(self, gain: float = 0.5, counted: int = 3) -> None:
        super().__init__()
        self.front, self.norm = nn.Conv1d(1, 4, 16, stride=8), nn.BatchNorm1d(4)
        self.gain = nn.Parameter(torch.tensor(gain))
        self.norm.num_batches_tracked.fill_(counted)
        self.register_buffer("unused", torch.zeros(0))

    def forward(self, sound: Tensor) -> Tensor:
        return self.gain * self.norm(self.front(sound[:, None])).transpose(1, 2)


def test_wrap_encoder_accepts_scalars_and_covers_them_by_the_revision():
    def revision(**values: float) -> str:
        torch.manual_seed(0)
        geometry = {"name": "normed", "rate_hz": 16000, "hop_samples": 8, "field_samples": 16}
        return wrap_encoder(Normed(**values), ["norm"], **geometry).revision

    assert revision() == revision()
    assert len({revision(), revision(gain=0.25), revision(counted=4)}) == 3
