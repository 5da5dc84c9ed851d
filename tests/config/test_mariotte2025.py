"""Tests of the reproduction's switches: defaults, documentation and errors."""

import re
from pathlib import Path

import pytest

from otoscope.config.mariotte2025 import (
    ReproductionSettings,
    Switches,
    allowed_choices,
    authors_choices,
    parse_settings,
)
from otoscope.errors import ConfigError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "reproduce-the-paper.md"


@pytest.mark.parametrize("switch", Switches.model_fields)
def test_switch_first_choice_is_the_authors(switch: str) -> None:
    assert allowed_choices(switch)[0] == authors_choices()[switch]
    assert len(allowed_choices(switch)) > 1
    for value in allowed_choices(switch):
        changed = parse_settings([f"{switch}={value}"])
        assert getattr(changed, switch) == value
        assert changed.corrected == ({} if value == allowed_choices(switch)[0] else {switch: value})


@pytest.mark.parametrize("switch", Switches.model_fields)
def test_switch_and_its_choices_are_documented(switch: str) -> None:
    row = next((line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{switch}")), "")
    assert row, f"{DOCS.name} has no row for {switch}"
    assert [c for c in allowed_choices(switch) if f"`{c}`" not in row] == []


def test_parse_settings_accepts_effort() -> None:
    found = parse_settings(["sparsities=[0.75, 0.9]", "crops=100", "seed=7"])
    assert (found.sparsities, found.crops, found.seed) == ((0.75, 0.9), 100, 7)
    assert found.corrected == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vibrado=keep", "mariotte2025.vibrado: Input should be 'drop' or 'fix'; got 'keep'"),
        ("vibrato=fix", "did you mean vibrado"),
        ("vibrado", "--set wants NAME=VALUE, got 'vibrado'"),
        ("crops=0", "mariotte2025.crops: Input should be greater than or equal to 1; got 0"),
        ("sparsities=[", "not valid YAML"),
    ],
)
def test_parse_settings_wrong_setting_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        parse_settings([text])


def test_reproduction_settings_default_to_the_study() -> None:
    settings = ReproductionSettings()
    assert (settings.latents, settings.sae_epochs, settings.probe_epochs, settings.alpha) == (2048, 100, 120, 0.1)
    assert settings.sparsities == (0.75, 0.80, 0.85, 0.90, 0.95, 0.99)
