"""Bad rows and impossible settings are named before work starts."""

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


def test_names_the_clip_and_the_layer_of_what_is_not_finite():
    with pytest.raises(TrainingError, match=r'training row 17 \(clip "take 17.wav" at layer 3\) holds NaN or Inf'):
        fit(labelled(17), planted(1), QUICK, latents=96, k=6)
    with pytest.raises(TrainingError, match=r'validation row 9 \(clip "take 9.wav" at layer 3\) holds NaN or Inf'):
        fit(planted(1), labelled(9), QUICK, latents=96, k=6)
    with pytest.raises(TrainingError, match=r'training row 17 \(clip "take 17.wav" at layer 3\) holds NaN or Inf'):
        fit(labelled(17), planted(1), QUICK, latents=96, k=6, statistics=compute_statistics(planted(0)))
    with pytest.raises(TrainingError, match=r'training row 17 \(clip "take 17.wav" at layer 3\) holds NaN or Inf'):
        Bank(labelled(17), planted(1), [BankMember(name="one", latents=96, k=6, preset=QUICK)])


def test_rows_need_a_label_each():
    with pytest.raises(TrainingError, match=r"2 labels for 3 rows"):
        ArrayRows(np.zeros((3, 2), np.float32), labels=["a", "b"])


def test_prefixes_that_name_the_same_latents_twice_are_refused():
    config = QUICK.model_copy(update={"prefixes": (0.001, 0.002, 1.0)})
    with pytest.raises(ConfigError, match=r"two prefixes have the same number of latents"):
        fit(planted(0), planted(1), config, latents=96, k=6)


def test_rows_that_are_too_many_are_not_kept():
    class Rows:
        height, width = 1 << 40, 4

        def take(self, indices: np.ndarray) -> np.ndarray:
            pytest.fail(f"{len(indices)} rows were read")

    rows = Rows()
    assert cache_rows(rows, 1 << 30) is rows


def with_outlier(rows: ArrayRows, seed: int) -> ArrayRows:
    """Let one dimension, which has nothing to do with the others, carry 99 % of the variance."""
    rest = rows.array.var(axis=0).sum()
    column = np.random.default_rng(seed).normal(scale=np.sqrt(99 * rest), size=(rows.height, 1))
    return ArrayRows(np.concatenate([rows.array, column.astype(np.float32)], axis=1))


def test_an_outlier_dimension_is_told_and_handled():
    """Left alone it kills latents and hides the other dimensions; scaled by dimension, all live and explain again."""
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
    (line,) = warned
    assert line.startswith("dimension 24 carries 99 % of the variance")
    assert 'scaling: "dimensions"' in line
    assert hurt_error > 2 * plain_error
    assert hurt_error - error > 2 / 3 * (hurt_error - plain_error)  # a code of the six goes to the outlier itself
    assert hurt_dead > 0.3
    assert dead <= plain_dead + 0.02


def test_the_default_scales_an_outlier_dimension_by_itself():
    """Every dimension counts alike then: nothing dies that lived without the outlier, and the others stay explained."""
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
    assert summaries["rows"]["valid_dead_fraction"] > summaries["auto"]["valid_dead_fraction"] + 0.1
    assert summaries["auto"]["valid_dead_fraction"] <= plain["valid_dead_fraction"] + 0.02
    # in the encoder's own units the outlier is nearly all there is; with every dimension alike it is one of 25
    standardised = {name: found["valid_standardised_explained_variance"] for name, found in summaries.items()}
    assert standardised["auto"] > standardised["rows"] + 0.2
    assert summaries["rows"]["valid_explained_variance"] > 0.9
    assert plain["valid_standardised_explained_variance"] > 0.3


def test_constant_dimensions_are_told():
    array = np.concatenate([planted(0).array, np.ones((400, 2), np.float32)], axis=1)
    assert compute_statistics(ArrayRows(array)).warnings("rows") == [
        "2 of 26 dimensions do not vary; they are centred only"
    ]


def test_the_remedy_fits_what_the_rows_are():
    """Rows of an extraction know their clip; an array of one's own has none to set aside."""
    values = planted(0).array.copy()
    values[17, 3] = np.nan
    with pytest.raises(TrainingError, match=r"training row 17 holds NaN or Inf .*; remove the row$"):
        fit(values, planted(1), latents=96, k=6)
    named = ArrayRows(values, [f"clip {i}" for i in range(len(values))])
    with pytest.raises(TrainingError, match=r"set its clip aside and extract again$"):
        fit(named, planted(1), latents=96, k=6)
