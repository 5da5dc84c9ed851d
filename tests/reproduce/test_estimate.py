"""What the study would cost: sizes that can be counted, rates that are multiplied, and a disk that is too small."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.errors import StorageFull
from otoscope.protocols.mariotte2025.models import choose_models
from otoscope.reproduce.mariotte2025 import estimate as estimates
from otoscope.reproduce.mariotte2025.corpus import takes
from otoscope.reproduce.mariotte2025.estimate import (
    dictionary_bytes,
    estimate,
    grid_bytes,
    require_room,
    sizes_of,
    store_bytes,
)
from otoscope.reproduce.mariotte2025.timing import Forward
from otoscope.runs.progress import SilentReporter

GB = 1e9


def made_corpus(train: int = 20, test: int = 5, seconds: float = 12.0) -> Corpus:
    rows = [
        {"clip_id": p, "path": p, "start_s": 0.0, "duration_s": seconds, "rate_hz": 16000, "group": p.split("/")[0]}
        | {"split": "test" if p.startswith("t") else "train", "digest": p, "label_technique": "belt"}
        for p in [f"s{i % 4}/{i}.wav" for i in range(train)] + [f"t/{i}.wav" for i in range(test)]
    ]
    schema = {**COLUMNS, "label_technique": pl.String()}
    return Corpus("made", Path(), pl.DataFrame(rows, schema=schema), pl.DataFrame({"path": [], "reason": []}))


@pytest.fixture
def known_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes a second for everything."""
    speed = estimates.speed
    monkeypatch.setattr(estimate, "glance", lambda *_: made_corpus())
    monkeypatch.setattr(speed, "forward", lambda *_: Forward(1.0, 0.5, 768, 13, 50.0, here=False))
    for name in ("training_step_s", "probe_epoch_s", "lasso_s", "strict_reading_s"):
        monkeypatch.setattr(speed, name, lambda *_: 1.0)
    monkeypatch.setattr(speed, "egemaps_per_s", lambda: 1.0)
    monkeypatch.setattr(speed, "decoding_per_s", lambda _: 1.0)
    monkeypatch.setattr(estimates.os, "sched_getaffinity", lambda _: {0})


def test_sizes_are_what_takes_come_to() -> None:
    found = sizes_of(takes(made_corpus(), ReproductionSettings(crops=3)))
    assert (found.files, found.train_files, found.test_files) == (25, 16, 5)
    assert found.training_crops == 16 * 3
    assert found.crops == 16 * 3 + 4 + 5
    assert (found.whole_s, found.all_s) == (60.0, 300.0)


@pytest.mark.usefixtures("known_rates")
def test_rates_are_multiplied_out(tmp_path: Path) -> None:
    settings = ReproductionSettings(crops=3, sae_epochs=10, probe_epochs=7)
    found = estimate(Path("vocalset"), tmp_path, models=choose_models(only=["HuBERT"]), settings=settings)
    seconds = {cost.step: cost.seconds for cost in found.costs}
    assert seconds == {
        "check recordings": 300.0,
        "eGeMAPS": 60.0,
        # crops, and half a second for each second of whole test files
        "HuBERT: encode (to fetch)": 57 + 30.0,
        # 16 files in one batch of 16, 10 epochs, two layers
        "train dictionaries": 20.0,
        "probes": 13 * 7 + 12 * 7,
        "regressions": 2 * 88 + 12 * 88,
    }
    assert all(cost.strict_seconds >= cost.seconds for cost in found.costs if "encode" not in cost.step)
    bytes_ = sum(cost.bytes for cost in found.costs)
    wanted = store_bytes(57 + 5, 13, 768) + estimates.CHECKPOINT_BYTES + grid_bytes(settings, 768, 2)
    assert bytes_ == found.bytes == pytest.approx(wanted)
    assert found.as_json()["seconds"] == found.seconds


@pytest.mark.usefixtures("known_rates")
def test_the_strict_form_counts_five_seeds_and_every_null(tmp_path: Path) -> None:
    settings = ReproductionSettings(crops=3, sae_epochs=10, probe_epochs=7)
    found = estimate(Path("vocalset"), tmp_path, models=choose_models(only=["HuBERT"]), settings=settings)
    seconds = {cost.step: cost.strict_seconds for cost in found.costs}
    # of two layers: the layer, six sparsities of five seeds, and eleven baselines
    asked = 2 * (1 + 6 * 5 + 11)
    # five seeds, the untrained encoder, random atoms, and six sparsities of two recipes for the limit
    rounds = 5 + 2 + 2 * 6 / 6
    assert seconds == {
        "check recordings": 300.0,
        "eGeMAPS": 300.0,
        # whole files, trained and untrained
        "HuBERT: encode (to fetch)": 2 * 300 * 0.5,
        "train dictionaries": 20.0 * rounds,
        "probes": asked * 7.0,
        # ten permutations beside the factors themselves
        "regressions": asked * 88 * (1 + 10),
    }
    (trained,) = [cost for cost in found.costs if cost.step == "train dictionaries"]
    assert trained.strict_amount == "108: 5 seeds, nulls, limits"
    assert trained.strict_bytes == pytest.approx(trained.bytes + 12 * (rounds - 1) * dictionary_bytes(settings, 768))
    assert found.as_json()["strict_seconds"] == sum(seconds.values())


@pytest.mark.usefixtures("known_rates")
def test_mert_is_encoded_twice_while_its_rates_are_mixed(tmp_path: Path) -> None:
    both = [
        estimate(
            Path("v"), tmp_path, models=choose_models(only=["MERT"]), settings=ReproductionSettings(mert_rate=rate)
        )
        for rate in ("mixed", "fix")
    ]
    mixed, fixed = ({cost.step: cost for cost in found.costs}["MERT: encode (to fetch)"] for found in both)
    assert mixed.seconds - 30 == 2 * (fixed.seconds - 30)
    assert mixed.bytes > fixed.bytes


@pytest.mark.usefixtures("known_rates")
def test_a_plan_for_a_disk_that_is_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = choose_models(only=["HuBERT"])
    estimate(Path("v"), tmp_path, models=models, settings=ReproductionSettings()).require_room()
    monkeypatch.setattr(estimate, "free", lambda _: 0.1 * GB)
    with pytest.raises(StorageFull, match=r"needs about \d\.\d GB, 0\.1 GB are free; choose another --out"):
        estimate(Path("v"), tmp_path, models=models, settings=ReproductionSettings()).require_room()


def test_a_dictionary_is_as_large_as_its_file(tmp_path: Path) -> None:
    # 2 x 2048 x 768 weights and 2048 biases of four bytes
    assert dictionary_bytes(ReproductionSettings(), 768) == 4 * (2 * 2048 * 768 + 2048)
    assert store_bytes(10, 13, 768) == 10 * 13 * 768 * 4


def test_what_is_there_already_needs_no_room(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"0" * 5000)
    require_room(tmp_path, 5000.0, 0.0)
    with pytest.raises(StorageFull, match="free some space"):
        require_room(tmp_path, 6000.0, 0.0)
    require_room(tmp_path / "not" / "there", 1000.0)
    assert estimates.free(tmp_path / "not" / "there") > 0


@pytest.mark.usefixtures("known_rates")
def test_it_says_which_architecture_is_being_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    watch = SilentReporter()
    monkeypatch.setattr(watch, "say", said.append)
    models = choose_models(folder=None, overrides=(), only=("AST", "HuBERT"))
    estimate(tmp_path, tmp_path, models=models, settings=ReproductionSettings(), progress=watch)
    assert said[0] == "measuring 2 architectures on this machine: a few minutes"
    assert [line.split(":")[0].strip() for line in said[1:3]] == [model.name for model in models]
