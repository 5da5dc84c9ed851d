"""Causal response curves of units whose tuning to pitch and level is planted in an encoder of sound."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
import torch

from otoscope.encoders.base import Encoded, Frames, Layer, Wave, frame_spans
from otoscope.errors import EncoderError, EvaluationError
from otoscope.explain import SWEPT, SweepTables, causal_curves, number_of_clips, sweep_latents
from otoscope.explain.swept_voices import crossed_settings, sing, swept_settings
from otoscope.sae import SparseAutoencoder, TopK

FRAME = 1600
"""100 ms at 16 kHz: eight periods of the lowest pitch."""
CENTRE, WIDTH = 35.0, 8.0
"""Planted tuning to pitch, in semitones."""
BELL, LOUD, BOTH, CONSTANT, SILENT = range(5)


class PlantedEncoder:
    """Measures pitch (autocorrelation) and level of each frame; its units are functions of both."""

    name, revision, rate_hz, window_s, min_samples = "planted", "0", 16_000, None, FRAME
    layers = (Layer(0, 5, 10.0, 0.1, 0.05, attends=False),)

    def frames(self, samples: int) -> Frames:
        return frame_spans(samples // FRAME, rate_hz=10.0, offset_s=0.05)

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:  # noqa: ARG002
        count = min(map(len, waves)) // FRAME
        frames = np.stack([np.asarray(wave)[: count * FRAME].reshape(count, FRAME) for wave in waves])
        pitch, level = semitones(frames), 20 * np.log10(np.sqrt(np.square(frames).mean(axis=-1)) + 1e-9)
        bell = np.exp(-4 * np.log(2) * ((pitch - CENTRE) / WIDTH) ** 2)
        loud = np.clip((level + 48) / 24, 0, 1)
        units = np.stack([bell, loud, bell * loud, np.ones_like(bell), np.zeros_like(bell)], axis=-1)
        mask = torch.ones(len(waves), count, dtype=torch.bool)
        return Encoded({0: torch.from_numpy(units.astype(np.float32))}, mask, {})


def semitones(frames: np.ndarray) -> np.ndarray:
    """Return the pitch of frames: the first lag at which the autocorrelation nearly reaches its maximum."""
    power = np.abs(np.fft.rfft(frames, 2 * FRAME)) ** 2
    correlation = np.fft.irfft(power)[..., :FRAME] / (1 - np.arange(FRAME) / FRAME)
    correlation[..., : 16_000 // 800] = -np.inf
    correlation[..., 16_000 // 75 :] = -np.inf
    first = (correlation >= 0.9 * correlation.max(axis=-1, keepdims=True)).argmax(axis=-1)
    window = first[..., None] + np.arange(12)  # the top of the first peak
    lag = first + np.take_along_axis(correlation, window, axis=-1).argmax(axis=-1)
    return 12 * np.log2(16_000 / lag / 27.5)


def axis_sae(**card: object) -> SparseAutoencoder:
    sae = SparseAutoencoder(5, 5, TopK(5))
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(5))
        sae.decoder.copy_(torch.eye(5))
    sae.card = card
    return sae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tables() -> SweepTables:
    return sweep_latents(
        PlantedEncoder(), axis_sae(), 0, range(5), factors=("f0", "breathiness", "level"), singers=3,
        crossed_clips=150, duration_s=0.5, permutations=199,
    )  # fmt: skip


def facts(tables: SweepTables, latent: int, factor: str) -> dict[str, float]:
    return tables.sweeps.filter((pl.col("latent") == latent) & (pl.col("factor") == factor)).row(0, named=True)


def share(tables: SweepTables, latent: int, factor: str, other: str | None = None) -> float:
    rows = tables.sweep_shares.filter((pl.col("latent") == latent) & (pl.col("factor") == factor))
    return rows.filter(pl.col("other").eq_missing(other))["share"].item()


def test_sweep_latents_recovers_the_tuning_of_a_planted_unit(tables: SweepTables) -> None:
    bell = facts(tables, BELL, "f0")
    assert bell["responds"]
    assert bell["centre"] == pytest.approx(CENTRE, abs=1.0)
    assert bell["width"] == pytest.approx(WIDTH, abs=1.5)
    assert bell["r2"] > 0.9
    loud = tables.sweeps.filter((pl.col("latent") == LOUD) & (pl.col("factor") == "level"))
    expected = np.clip((loud["value"].to_numpy() + 48) / 24, 0, 1)
    assert np.abs(loud["mean"].to_numpy() - expected).max() < 0.12  # attack and release are softer than the clip
    assert facts(tables, LOUD, "level")["selectivity"] < bell["selectivity"]


def test_sweep_latents_finds_no_response_to_factors_that_a_unit_does_not_read(tables: SweepTables) -> None:
    for latent, factor in ((BELL, "level"), (LOUD, "f0"), (CONSTANT, "f0"), (SILENT, "f0"), (SILENT, "level")):
        assert not facts(tables, latent, factor)["responds"], (latent, factor)
    assert np.isnan(facts(tables, SILENT, "f0")["p_value"])


def test_sweep_shares_separate_factors_and_their_interaction(tables: SweepTables) -> None:
    assert share(tables, BELL, "f0") > 0.8
    assert share(tables, LOUD, "level") > 0.8
    assert max(share(tables, BELL, "level"), share(tables, LOUD, "f0")) < 0.1
    alone = share(tables, BOTH, "f0") + share(tables, BOTH, "level")
    assert share(tables, BOTH, "f0", "level") > max(share(tables, BOTH, "f0"), share(tables, BOTH, "level")) + 0.1
    assert alone < 0.9
    assert np.isnan(share(tables, SILENT, "f0"))
    assert share(tables, BELL, "mel_band") < share(tables, BELL, "f0") - 0.2


def test_causal_curves_of_unrelated_latents_rarely_respond() -> None:
    """20 families of 5 latents and two factors without relation: one in twenty has a response by chance."""
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        offsets = rng.normal(size=(6, 1, 5))  # singers differ
        responses = {name: offsets + rng.exponential(size=(6, len(SWEPT[name].values), 5)) for name in ("f0", "level")}
        found += any(curve.responds for curve in causal_curves(responses, permutations=99, seed=seed).values())
    assert found <= 4  # at most 4 of 20 with a probability of 99.7 %


def test_swept_clips_change_the_factor_and_nothing_else() -> None:
    level = [sing(row, rate_hz=16_000, duration_s=0.5) for row in swept_settings(["level"], 1)["level"][0]]
    steps = [20 * np.log10(np.sqrt(np.square(wave, dtype=float).mean())) for wave in level]
    assert steps == pytest.approx(SWEPT["level"].values, abs=0.1)
    scaled = level[0] * 10 ** ((steps[-1] - steps[0]) / 20)
    assert np.abs(scaled - level[-1]).max() < 1e-3 * np.abs(level[-1]).max()


def test_crossed_settings_vary_all_factors_evenly_and_independently() -> None:
    settings = crossed_settings(("f0", "level"), 4, 240)
    values = np.array([setting.values for setting in settings])
    names = list(SWEPT)
    assert np.unique(values[:, names.index("level")], return_counts=True)[1].tolist() in ([35, 35, 34, 34, 34, 34, 34],)
    assert abs(np.corrcoef(values[:, names.index("f0")], values[:, names.index("level")])[0, 1]) < 0.15
    assert len(np.unique(values[:, names.index("vowel")])) == 1
    assert number_of_clips(factors=("vowel",), singers=3, crossed_clips=0) == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": ("pitch",)}, "no factor 'pitch' is swept"),
        ({"factors": ()}, "name at least one"),
        ({"latents": [7]}, "latent 7 does not exist; the SAE has latents 0 to 4"),
        ({"singers": 1}, "singers is 1; give 2 or more"),
    ],
)
def test_sweep_latents_names_what_is_wrong(changes: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"latents": [0], "factors": ("level",), "crossed_clips": 0, "singers": 2}
    latents = (given | changes).pop("latents")
    given = {name: value for name, value in (given | changes).items() if name != "latents"}
    with pytest.raises(EvaluationError, match=message):
        sweep_latents(PlantedEncoder(), axis_sae(), 0, latents, **given)  # type: ignore[arg-type]


def test_sweep_latents_refuses_the_sae_of_another_layer_or_of_pooled_clips() -> None:
    with pytest.raises(EncoderError, match="trained on layer 3, not on layer 0"):
        sweep_latents(PlantedEncoder(), axis_sae(layer=3), 0, [0])
    with pytest.raises(EncoderError, match="encodes pooled clips"):
        sweep_latents(PlantedEncoder(), axis_sae(pooling="pool_then_encode"), 0, [0])
