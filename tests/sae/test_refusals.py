"""Errors and warnings about rows and settings before training."""

import numpy as np
import pytest
import torch

from otoscope import ArrayRows, Bank, TrainConfig, fit
from otoscope.errors import ConfigError, TrainingError
from otoscope.sae.bank import BankMember
from otoscope.sae.config import DEFAULT
from otoscope.sae.data import cache_rows
from otoscope.sae.statistics import compute_statistics
from tests.support.planted import planted

QUICK = TrainConfig(batch=128, epochs=4, learning_rate=3e-3)


def labelled(bad: int | None) -> ArrayRows:
    array = planted(0).array.copy()
    if bad is not None:
        array[bad, 3] = np.inf
    return ArrayRows(array, labels=[f'clip "take {i}.wav" at layer 3' for i in range(len(array))])


def test_fit_non_finite_error_names_clip_and_layer():
    with pytest.raises(TrainingError, match=r'training row 17 \(clip "take 17.wav" at layer 3\) holds NaN or Inf'):
        fit(labelled(17), planted(1), QUICK, latents=96, k=6)
    with pytest.raises(TrainingError, match=r'validation row 9 \(clip "take 9.wav" at layer 3\) holds NaN or Inf'):
        fit(planted(1), labelled(9), QUICK, latents=96, k=6)
    with pytest.raises(TrainingError, match=r'training row 17 \(clip "take 17.wav" at layer 3\) holds NaN or Inf'):
        fit(labelled(17), planted(1), QUICK, latents=96, k=6, statistics=compute_statistics(planted(0)))
    with pytest.raises(TrainingError, match=r'training row 17 \(clip "take 17.wav" at layer 3\) holds NaN or Inf'):
        Bank(labelled(17), planted(1), [BankMember(name="one", latents=96, k=6, preset=QUICK)])


def test_array_rows_label_count_error():
    with pytest.raises(TrainingError, match=r"2 labels for 3 rows"):
        ArrayRows(np.zeros((3, 2), np.float32), labels=["a", "b"])


def test_fit_equal_prefixes_error():
    config = QUICK.model_copy(update={"prefixes": (0.001, 0.002, 1.0)})
    with pytest.raises(ConfigError, match=r"two prefixes have the same number of latents"):
        fit(planted(0), planted(1), config, latents=96, k=6)


def test_cache_rows_leaves_large_sources_on_disk():
    class Rows:
        height, width = 1 << 40, 4

        def take(self, indices: np.ndarray) -> np.ndarray:
            pytest.fail(f"{len(indices)} rows were read")

    rows = Rows()
    assert cache_rows(rows, 1 << 30) is rows


def with_outlier(rows: ArrayRows, seed: int) -> ArrayRows:
    """Append an independent dimension with 99 % of the variance."""
    rest = rows.array.var(axis=0).sum()
    column = np.random.default_rng(seed).normal(scale=np.sqrt(99 * rest), size=(rows.height, 1))
    return ArrayRows(np.concatenate([rows.array, column.astype(np.float32)], axis=1))


def test_fit_outlier_dimension_warning_and_scaling():
    """Unscaled it kills latents and hides other dimensions; scaling per dimension restores both."""
    train, valid = planted(0, 1, 2), planted(3)
    config = TrainConfig(batch=128, epochs=15, learning_rate=3e-3)

    def unexplained(config: TrainConfig, *, outlier: bool) -> tuple[float, float, list[str]]:
        rows, held_out = (with_outlier(train, 0), with_outlier(valid, 1)) if outlier else (train, valid)
        trained = fit(rows, held_out, config, latents=96, k=6)
        rebuilt = trained.sae(torch.from_numpy(held_out.array)).reconstruction.detach().numpy()[:, :24]
        error = ((rebuilt - valid.array) ** 2).sum() / ((valid.array - train.array.mean(axis=0)) ** 2).sum()
        return error, trained.summary["valid_dead_fraction"], trained.summary["warnings"]

    plain_error, plain_dead, nothing = unexplained(config, outlier=False)
    hurt_error, hurt_dead, warned = unexplained(config, outlier=True)
    scaled = config.model_copy(update={"scaling": "dimensions"})
    error, dead, silent = unexplained(scaled, outlier=True)
    assert nothing == silent == []
    line, dead_latents, unchanged = warned
    assert unchanged.startswith("initial atoms, hardly changed")
    assert line.startswith("dimension 24 carries 99 % of the variance")
    assert "never active" in dead_latents or "dead" in dead_latents
    assert 'scaling: "dimensions"' in line
    assert hurt_error > 2 * plain_error
    assert hurt_error - error > 2 / 3 * (hurt_error - plain_error)  # one of the six codes serves the outlier
    assert hurt_dead > 0.3
    assert dead <= plain_dead + 0.02


def test_default_preset_scales_an_outlier_dimension():
    """With equal weights no more latents die than without the outlier, and other dimensions stay explained."""
    train, valid = planted(0, 1, 2), planted(3)
    config = DEFAULT.model_copy(update={"epochs": 15.0, "init": "tied", "patience": None})
    summaries = {
        scaling: fit(
            with_outlier(train, 0),
            with_outlier(valid, 1),
            config.model_copy(update={"scaling": scaling}),
            latents=96,
            k=6,
        ).summary
        for scaling in ("auto", "rows")
    }
    plain = fit(train, valid, config, latents=96, k=6).summary
    assert (summaries["auto"]["scaling"], plain["scaling"]) == ("dimensions", "rows")
    # rounding decides on a few latents: 0.09 more are dead with AVX2, above 0.1 with AVX-512
    assert summaries["rows"]["valid_dead_fraction"] > summaries["auto"]["valid_dead_fraction"] + 0.05
    assert summaries["auto"]["valid_dead_fraction"] <= plain["valid_dead_fraction"] + 0.02
    # in the encoder's units the outlier dominates; with equal weights it is one of 25 dimensions
    standardised = {name: actual["valid_standardised_explained_variance"] for name, actual in summaries.items()}
    assert standardised["auto"] > standardised["rows"] + 0.2
    assert summaries["rows"]["valid_explained_variance"] > 0.9
    assert plain["valid_standardised_explained_variance"] > 0.3


def test_warnings_name_constant_dimensions():
    array = np.concatenate([planted(0).array, np.ones((400, 2), np.float32)], axis=1)
    assert compute_statistics(ArrayRows(array)).warnings("rows") == [
        "2 of 26 dimensions do not vary; they are centred only"
    ]


def test_row_remedy_depends_on_labels():
    """Rows of an extraction have a clip to set aside; rows of an array have none."""
    values = planted(0).array.copy()
    values[17, 3] = np.nan
    with pytest.raises(TrainingError, match=r"training row 17 holds NaN or Inf .*; remove the row$"):
        fit(values, planted(1), latents=96, k=6)
    named = ArrayRows(values, [f"clip {i}" for i in range(len(values))])
    with pytest.raises(TrainingError, match=r"set its clip aside and extract again$"):
        fit(named, planted(1), latents=96, k=6)
