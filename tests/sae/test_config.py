from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from otoscope import BatchTopK, TrainConfig, load_sae
from otoscope.errors import ConfigError, TrainingError
from otoscope.sae.config import DEFAULT, MARIOTTE2025, PRESETS, find_preset
from otoscope.sae.plan import Plan


def plan(config: TrainConfig, height: int, latents: int = 2048) -> Plan:
    return Plan.derive(config, height=height, latents=latents, k=20, seed=0)


def test_mariotte2025_preset_matches_the_paper():
    actual = plan(MARIOTTE2025, 970)
    assert (actual.shuffle.batch, actual.shuffle.steps_per_epoch, actual.steps) == (16, 61, 6100)
    assert {actual.learning_rate(step) for step in (0, 1, 3000, 6099)} == {1e-3}
    assert not actual.validates_after(60)
    assert actual.validates_after(61)


def test_plan_learning_rate_scales_with_latents():
    assert plan(DEFAULT, 10_000, latents=2**14).peak_rate == pytest.approx(2e-3)
    assert plan(DEFAULT, 10_000, latents=2048).peak_rate == pytest.approx(5.657e-3, rel=1e-3)


@pytest.mark.parametrize("height", [2, 700, 20_000, 3_000_000])
def test_plan_learning_rate_warms_up_and_decays(height: int):
    actual = plan(DEFAULT, height)
    rates = [actual.learning_rate(step) for step in range(actual.steps)]
    top = rates.index(max(rates))
    assert max(rates) <= actual.peak_rate
    assert max(rates) >= 0.5 * actual.peak_rate
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] <= actual.peak_rate / (actual.decay_steps + 1) + 1e-12


@pytest.mark.parametrize("height", [2, 63, 700, 970, 20_000, 3_000_000, 10**9])
def test_plan_steps_are_bounded(height: int):
    actual = plan(DEFAULT, height)
    assert 1 <= actual.shuffle.batch <= min(DEFAULT.batch, height)
    epochs = actual.steps / actual.shuffle.steps_per_epoch
    assert 1 <= epochs <= DEFAULT.max_epochs
    assert actual.validate_steps * actual.shuffle.batch <= max(DEFAULT.validate_rows, actual.shuffle.batch)
    assert actual.validates_after(actual.steps)


def test_plan_few_rows_make_several_steps_per_epoch():
    assert plan(DEFAULT, 700).shuffle.steps_per_epoch >= 8


def test_plan_patience_applies_to_few_rows_only():
    assert plan(DEFAULT, 700).patience_steps == 80
    assert plan(DEFAULT, 2047).patience_steps is not None
    assert plan(DEFAULT, 2048).patience_steps is None
    assert plan(DEFAULT.model_copy(update={"patient_from": None}), 20_000).patience_steps is not None
    assert plan(MARIOTTE2025, 700).patience_steps is None


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, 1_000),  # an average latent, 20 of 2,048, fires 10 times in an epoch
        ({"dead_window_firings": None}, 1_000),
        ({"dead_window_firings": 5.0}, 512),
        ({"dead_window_rows": 300}, 300),
        ({"dead_window_epochs": 2.5}, 2_500),
        ({"dead_window_epochs": 0.01}, 63),  # at least a batch: counters are updated once per batch
    ],
)
def test_dead_window_in_rows_epochs_or_firings(changes: dict[str, Any], rows: int):
    config = TrainConfig.preset("default", **{"batch": 63 if "dead_window_epochs" in changes else 512, **changes})
    assert plan(config, 1_000).dead_window_rows == rows


def test_train_config_dump_round_trips():
    for config in (DEFAULT, TrainConfig.preset("default", dead_window_epochs=2, sparsifier="relu")):
        assert TrainConfig.model_validate(config.model_dump(mode="json")) == config


def test_find_preset_suggests_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no training preset 'mariotte'; did you mean mariotte2025\?"):
        find_preset("mariotte")
    assert find_preset("default") is PRESETS["default"]


def test_train_config_unknown_sparsifier_error():
    with pytest.raises(ConfigError, match=r"no sparsifier 'gate'; did you mean gated\?"):
        TrainConfig(sparsifier="gate")


@pytest.mark.parametrize("wrong", [{"leaning_rate": 1e-3}, {"batch": 0}, {"warmup": 1.5}, {"scaling": "all"}])
def test_train_config_unknown_keys_and_range_errors(wrong: dict[str, object]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainConfig.model_validate(wrong)


def test_plan_single_row_error():
    with pytest.raises(TrainingError, match=r"1 training row"):
        plan(DEFAULT, 1)


def test_train_config_preset_applies_changes():
    mine = TrainConfig.preset("default", sparsifier="batch_topk", prefixes=(0.5, 1.0))
    assert mine == DEFAULT.model_copy(update={"sparsifier": "batch_topk", "prefixes": (0.5, 1.0)})
    assert TrainConfig.preset("mariotte2025") == MARIOTTE2025


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsifer": "topk"}, r"no training setting 'sparsifer'; did you mean sparsifier\?"),
        ({"prefixes": (0.5,)}, r"^prefixes: got \(0.5,\); prefixes must rise from above 0 to 1"),
        ({"base_rate": -1.0}, r"^base_rate: got -1.0; .* greater than 0"),
        (
            {"sparsifier": "batchtopk"},
            r"^no sparsifier 'batchtopk'; did you mean batch_topk\? Known: batch_topk, gated",
        ),
        ({"init": "random"}, r"^init: got 'random'; known: linear, points, principal, tied$"),
        ({"init": "principle"}, r"^init: got 'principle'; did you mean principal\? Known: linear"),
        ({"scaling": None}, r"^scaling: got nothing; did you mean none\? Known: auto, dimensions, none, rows$"),
        ({"dictionary": "archetypel"}, r"^dictionary: got 'archetypel'; did you mean archetypal\?"),
    ],
)
def test_train_config_preset_errors(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.preset("default", **changes)


def test_choose_a_preset_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "choose-a-preset.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    loaded = load_sae(tmp_path / "my-sae")
    assert isinstance(loaded.sae.sparsifier, BatchTopK)
    names["otoscope"].fit(names["train"], names["valid"], names["agreeing"], latents=64, k=4)
