"""Plan of a reproduction: counted sizes, rough times, and the check of the disk."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.errors import StorageFull
from otoscope.protocols.mariotte2025.published import choose_models
from otoscope.reproduce.mariotte2025 import estimate
from otoscope.reproduce.mariotte2025.estimate import (
    CHECKPOINT_BYTES,
    free_bytes,
    grid_bytes,
    plan,
    require_disk_space,
    sae_bytes,
    store_bytes,
)


def made_corpus(train: int = 20, test: int = 5, seconds: float = 12.0) -> Corpus:
    rows = [
        {"clip_id": p, "path": p, "start_s": 0.0, "duration_s": seconds, "rate_hz": 16000, "group": p.split("/")[0]}
        | {"split": "test" if p.startswith("t") else "train", "digest": p, "label_technique": "belt"}
        for p in [f"s{i % 4}/{i}.wav" for i in range(train)] + [f"t/{i}.wav" for i in range(test)]
    ]
    schema = {**COLUMNS, "label_technique": pl.String()}
    return Corpus("made", Path(), pl.DataFrame(rows, schema=schema), pl.DataFrame({"path": [], "reason": []}))


@pytest.fixture
def fixed_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 1e9 operations per second, and a corpus of 25 files."""
    monkeypatch.setattr(estimate, "list_vocalset", lambda *_: made_corpus())
    monkeypatch.setattr(estimate, "flop_per_s", lambda: 1e9)


@pytest.mark.usefixtures("fixed_rate")
def test_plan_counts_audio_steps_and_bytes(tmp_path: Path) -> None:
    settings = ReproductionSettings(crops=3, sae_epochs=10, probe_epochs=7)
    found = plan(Path("vocalset"), tmp_path, models=choose_models(only=["HuBERT"]), settings=settings)
    encode, train, probes = found.steps
    # 16 training files in 3 crops, 4 validation and 5 test files in one, and 5 whole files of 12 s
    assert encode.seconds == pytest.approx(2 * 95e6 * 50 * (57 * 5 + 60) / 1e9)
    assert encode.bytes == store_bytes(57 + 5, 13, 768) + CHECKPOINT_BYTES
    # 12 SAEs of 2048 latents, 16 files, 10 epochs, forward and backward
    assert train.seconds == pytest.approx(12 * 16 * 10 * 6 * 2 * 2048 * 768 / 1e9)
    assert train.bytes == grid_bytes(settings, 768, 2)
    assert train.amount == "12 of 2,048 latents, 10 steps each"
    assert probes.bytes == 0
    assert found.as_json()["seconds"] == found.seconds == encode.seconds + train.seconds + probes.seconds


@pytest.mark.usefixtures("fixed_rate")
def test_plan_encodes_crops_of_mert_twice_for_mixed_rates(tmp_path: Path) -> None:
    mixed, fixed = (
        plan(
            Path("v"), tmp_path, models=choose_models(only=["MERT"]), settings=ReproductionSettings(mert_rate=rate)
        ).steps[0]
        for rate in ("mixed", "fix")
    )
    whole_s = 2 * 95e6 * 50 * 60 / 1e9
    assert mixed.seconds - whole_s == pytest.approx(2 * (fixed.seconds - whole_s))
    assert mixed.bytes > fixed.bytes


@pytest.mark.usefixtures("fixed_rate")
def test_plan_refuses_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = choose_models(only=["HuBERT"])
    plan(Path("v"), tmp_path, models=models, settings=ReproductionSettings()).require_disk_space()
    monkeypatch.setattr(estimate, "free_bytes", lambda _: 0.1e9)
    with pytest.raises(StorageFull, match=r"needs about \d\.\d GB, 0\.1 GB are free; choose another --out"):
        plan(Path("v"), tmp_path, models=models, settings=ReproductionSettings()).require_disk_space()


def test_sae_bytes_is_the_size_of_its_file() -> None:
    # 2 x 2048 x 768 weights and 2048 biases of four bytes
    assert sae_bytes(ReproductionSettings(), 768) == 4 * (2 * 2048 * 768 + 2048)
    assert store_bytes(10, 13, 768) == 10 * 13 * 768 * 4


def test_require_disk_space_subtracts_existing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_bytes(tmp_path / "not" / "there") > 0
    require_disk_space(tmp_path / "not" / "there", 1000.0)
    (tmp_path / "store").write_bytes(b"0" * 5000)
    monkeypatch.setattr(estimate, "free_bytes", lambda _: 0.0)
    require_disk_space(tmp_path, 5000.0)
    with pytest.raises(StorageFull, match="free some space"):
        require_disk_space(tmp_path, 6000.0)
