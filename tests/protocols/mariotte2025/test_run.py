"""The study's protocol in an ordinary run, together with other protocols."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.artifacts import read_table
from otoscope.config import load_config
from otoscope.errors import ConfigError
from otoscope.metrics.robust_factors import PITCH
from otoscope.pipeline.run import run
from tests.support.small_runs import FOLDER, Tiny, write_config, write_voices

POOLED = {"poolings": ["encode_then_pool", "pool_then_encode"], "layers": [1], "sparsities": [0.75, 0.9]}
ASKED = {"protocols": ["held_out", "mariotte2025"], "mariotte2025": {"probe_epochs": 30}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("compat")
    write_voices(folder / "voices")
    (folder / "factors.csv").write_text(factor_table(folder / "voices"))
    config = write_config(
        folder / "own.yaml",
        tiny("wavlm"),
        FOLDER,
        train=POOLED,
        evaluate=ASKED,
        factors={"table": str(folder / "factors.csv")},
    )
    run(load_config(config), folder / "run", until="evaluate")
    return read_table(folder / "run" / "results.parquet")


def factor_table(voices: Path) -> str:
    """Return the factors of each file: its take, which differs only in noise, its octave, and a pitch.

    The pitch is 0 in the first take, which is what openSMILE writes for a clip without voice.
    """
    files = sorted(voices.rglob("*.wav"))
    high = ["high" in path.parts for path in files]
    lines = [
        f"{path.relative_to(voices).as_posix()},{path.stem[-1]},{int(h)},{(24 + 12 * h) * (path.stem[-1] != '0')}"
        for path, h in zip(files, high, strict=True)
    ]
    return "\n".join([f"path,take,octave,{PITCH}", *lines]) + "\n"


def of(results: pl.DataFrame, **keys: object) -> pl.DataFrame:
    return results.filter(*(pl.col(name) == value for name, value in keys.items()))


def test_plan_covers_every_layer_and_only_pooled_saes(results: pl.DataFrame) -> None:
    rows = of(results, protocol="mariotte2025")
    assert set(of(rows, representation="dense")["layer"]) == {0, 1, 2, 3}
    codes = of(rows, representation="sae")
    assert set(codes["pooling"]) == {"pool_then_encode"}
    assert codes.select("layer", "sparsity").unique().sort("sparsity").rows() == [(1, 0.75), (1, 0.9)]
    for metric in ("probe_accuracy", "mse", "top_r2_in_sample", "top_completeness", "category_count", "completeness"):
        assert of(codes, metric=metric).height, metric


def test_plan_measures_the_same_error_as_held_out(results: pl.DataFrame) -> None:
    pooled = of(results, metric="mse", split="test", pooling="pool_then_encode")
    one, two = (of(pooled, protocol=p).sort("sparsity")["value"].to_list() for p in ("held_out", "mariotte2025"))
    assert one == pytest.approx(two, rel=1e-5)


def test_plan_probes_the_same_clips_as_held_out(results: pl.DataFrame) -> None:
    probes = of(results, metric="probe_accuracy", split="test", representation="dense", layer=1)
    assert sorted(probes["protocol"]) == ["held_out", "mariotte2025"]
    assert probes["n"].n_unique() == probes["groups"].n_unique() == 1


def test_plan_alone_reads_the_pitch_of_unvoiced_clips_as_a_value(results: pl.DataFrame) -> None:
    clips = of(results, metric="probe_accuracy", split="test", protocol="held_out")["n"][0]
    counted = of(results, target=PITCH, representation="dense", layer=1, split="test")
    assert set(of(counted, metric="factor_r2_in_sample")["n"]) == {clips}
    assert set(of(counted, metric="factor_r2")["n"]) == {clips * 2 // 3}


def test_plan_without_pooled_saes_is_rejected_early(tmp_path: Path, tiny: Tiny) -> None:
    config = write_config(tmp_path / "own.yaml", tiny("wavlm"), FOLDER, evaluate={"protocols": ["mariotte2025"]})
    with pytest.raises(
        ConfigError, match=r"mariotte2025 evaluates pooled clips; add pool_then_encode to train\.poolings"
    ):
        load_config(config)


@pytest.mark.parametrize(("value", "spelled"), [(1, "1"), ("nan", "nan")])
def test_plan_reads_switches_from_the_configuration(tmp_path: Path, tiny: Tiny, value: object, spelled: str) -> None:
    evaluate = {"mariotte2025": {"completeness_of_unpredicted": value}}
    config = write_config(tmp_path / "own.yaml", tiny("wavlm"), FOLDER, evaluate=evaluate)
    assert load_config(config).evaluate.mariotte2025.completeness_of_unpredicted == spelled
