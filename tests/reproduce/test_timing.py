"""The measurements behind a plan run on every part, and come out above nothing."""

from pathlib import Path

import pytest

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.protocols.mariotte2025.models import choose_models
from otoscope.reproduce.mariotte2025 import timing as speed
from tests.support.small_runs import Tiny, write_voices

SMALL = ReproductionSettings(latents=64, sparsities=(0.75, 0.9))


@pytest.mark.parametrize(("name", "family"), [("AST", "ast"), ("WavLM", "wavlm"), ("MERT", "mert")])
def test_a_checkpoint_at_hand_is_timed_itself(tiny: Tiny, name: str, family: str) -> None:
    (model,) = choose_models(overrides=[f"{name}={tiny(family)}@1,3"], only=[name])
    found = speed.forward(model, SMALL, "cpu")
    assert (found.here, found.width, found.layers) == (True, 16, 4)
    assert found.crop_s > 0
    assert found.per_s > 0
    assert found.frames_per_s == {"AST": 100 / 10 * 12, "WavLM": 50, "MERT": 75}[name]


def test_every_rate_is_measured(tmp_path: Path) -> None:
    assert speed.training_step_s(SMALL, 16) > 0
    assert speed.probe_epoch_s(64, 16) > 0
    assert speed.lasso_s(16, 0.1) > 0
    assert speed.strict_reading_s(32, 120) > 0
    assert speed.egemaps_per_s() >= 0
    files = sorted(write_voices(tmp_path).rglob("*.wav"))
    assert speed.decoding_per_s(files) > 0
    assert speed.decoding_per_s([tmp_path / "none.wav"]) == 0
