"""Every kind of corpus and several families of model go the same way; so do runs that ask for less."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from otoscope.config import load_config
from otoscope.corpus.synth.dataset import SynthCorpus, render_corpus
from otoscope.corpus.table import Corpus
from otoscope.pipeline.run import run
from tests.support.small_runs import FOLDER, SUNG, Tiny, write_config, write_voices
from tests.support.vocalset_tree import write_vocalset_tree

ONE: dict[str, Any] = {"train": {"sparsities": [0.75], "layers": [1]}}


def folder(root: Path) -> dict[str, Any]:
    write_voices(root / "voices")
    return FOLDER


def manifest(root: Path) -> dict[str, Any]:
    render_corpus(SynthCorpus.model_validate({**SUNG, "singers": 4}), root / "sung")
    return {"kind": "manifest", "table": "sung/clips.parquet"}


def vocalset(root: Path) -> dict[str, Any]:
    spec = SynthCorpus.model_validate({**SUNG, "singers": 9, "takes": 1, "techniques": ["straight", "vibrato"]})
    write_vocalset_tree(root / "VocalSet", spec, layout="train_test", irregular=True)
    return {"kind": "vocalset", "root": "VocalSet"}


def fsdd(root: Path) -> dict[str, Any]:
    write_voices(root / "voices")
    (root / "digits").mkdir()
    for path in sorted(root.glob("voices/*/*.wav")):
        digit = {"low": 0, "high": 1}[path.parent.name]
        path.rename(root / "digits" / f"{digit}_{path.name}")
    return {"kind": "fsdd", "root": "digits"}


def synth(_: Path) -> dict[str, Any]:
    return {**SUNG, "singers": 4, "takes": 1}


KINDS = {
    "folder": (folder, {"class"}, "voices"),
    "manifest": (manifest, {"technique", "vowel", "context", "gender"}, "clips"),
    "vocalset": (vocalset, {"technique", "vowel", "context"}, "VocalSet"),
    "fsdd": (fsdd, {"digit"}, "fsdd"),
    "synth": (synth, {"technique", "vowel", "context"}, "synth"),
}
"""By kind: what writes the corpus and gives its settings, labels that are there, and its name."""


def results_of(config: Path, *overrides: str, out: Path, until: str = "evaluate") -> pl.DataFrame:
    summary = run(load_config(config, overrides), out, until=until)
    assert summary.results is not None
    return pl.read_parquet(summary.results)


@pytest.mark.parametrize("kind", KINDS)
def test_run_works_with_every_kind_of_corpus(kind: str, tmp_path: Path, tiny: Tiny) -> None:
    write, labels, _ = KINDS[kind]
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), write(tmp_path), **ONE)
    results = results_of(config, out=tmp_path / "out")
    corpus = Corpus.load(tmp_path / "out" / "corpus.parquet")
    assert corpus.set_aside.is_empty()
    assert labels <= set(corpus.labels)
    assert corpus.clips.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert set(results["representation"]) == {"dense", "sae", "logmel", "pca"}
    probed = set(results.filter(pl.col("metric") == "probe_accuracy")["target"])
    assert probed <= set(corpus.labels)
    assert probed
    assert ("factor_r2" in set(results["metric"])) == (kind in ("manifest", "synth"))


def test_vocalset_keeps_the_published_test_singers(tmp_path: Path, tiny: Tiny) -> None:
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), vocalset(tmp_path), **ONE)
    run(load_config(config), tmp_path / "out", until="corpus")
    clips = pl.read_parquet(tmp_path / "out" / "corpus.parquet")
    assert set(clips.filter(pl.col("split") == "test")["group"]) == {"female2", "male3"}


@pytest.mark.parametrize(("family", "layers"), [("ast", 4), ("mert", 4), ("wav2vec2", 4)])
def test_run_works_with_every_encoder_family(family: str, layers: int, tmp_path: Path, tiny: Tiny) -> None:
    config = write_config(tmp_path / "mine.yaml", tiny(family), folder(tmp_path), **ONE)
    results = results_of(config, out=tmp_path / "out")
    assert set(results["encoder"]) == {str(tiny(family))}
    assert set(results["layer"]) == set(range(layers))
    variance = results.filter((pl.col("metric") == "explained_variance") & (pl.col("split") == "test"))
    assert variance["value"].is_finite().all()


def test_run_predicts_an_octave_from_every_layer_and_sae(tmp_path: Path, tiny: Tiny) -> None:
    """Even random weights on a spectrogram tell low from high: sound, labels and splits meet in the right rows."""
    config = write_config(tmp_path / "mine.yaml", tiny("whisper"), folder(tmp_path), **ONE)
    probes = results_of(config, out=tmp_path / "out").filter(pl.col("metric") == "probe_accuracy")
    # four layers, one dictionary, and log-mel statistics
    assert probes["value"].to_list() == [1.0] * 6
    assert probes["null_mean"].mean() < 0.75


@pytest.mark.parametrize(
    ("overrides", "metrics"),
    [
        (["extract.layers=[2]", "train.layers=all"], {"probe_accuracy", "factor_r2", "explained_variance"}),
        (["train.poolings=[pool_then_encode]"], {"probe_accuracy", "factor_r2", "explained_variance"}),
        (["factors.truth=false"], {"probe_accuracy", "explained_variance"}),
        (["evaluate.labels=[]"], {"factor_r2", "explained_variance"}),
        (["evaluate.labels=[]", "factors.truth=false"], {"explained_variance"}),
        pytest.param(
            ["train.seeds=[0, 1]"],
            {"probe_accuracy", "factor_r2", "explained_variance"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["extract.dtype=float16"],
            {"probe_accuracy", "factor_r2", "explained_variance"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_run_accepts_reduced_and_extended_settings(
    overrides: list[str], metrics: set[str], tmp_path: Path, tiny: Tiny
) -> None:
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), synth(tmp_path), **ONE)
    results = results_of(config, *overrides, out=tmp_path / "out", until="explain")
    asked = {"probe_accuracy", "factor_r2", "explained_variance"}
    assert set(results["metric"]) & asked == metrics
    codes = results.filter(pl.col("representation") == "sae")
    assert set(codes["pooling"]) == {"pool_then_encode" if "poolings" in overrides[0] else "encode_then_pool"}
    assert set(codes["seed"]) == ({0, 1} if "seeds" in overrides[0] else {0})
    assert set(codes["layer"]) == ({2} if "extract" in overrides[0] and "dtype" not in overrides[0] else {1})


@pytest.mark.parametrize(
    "overrides",
    [
        ["evaluate.labels=[]", "factors.truth=false", "extract.layers=[1]"],
        ["train.poolings=[pool_then_encode]", "train.seeds=[0, 1]"],
    ],
    ids=["nothing known", "paper's order"],
)
def test_report_is_written_for_reduced_and_extended_settings(overrides: list[str], tmp_path: Path, tiny: Tiny) -> None:
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), synth(tmp_path), **ONE)
    summary = run(load_config(config, overrides), tmp_path / "out")
    assert summary.report is not None
    assert "<html" in summary.report.read_text(encoding="utf-8")


def test_factors_of_a_user_table_depend_on_its_content(tmp_path: Path, tiny: Tiny) -> None:
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), folder(tmp_path), **ONE)
    paths = sorted(str(p.relative_to(tmp_path / "voices")) for p in (tmp_path / "voices").rglob("*.wav"))
    own = pl.DataFrame({"path": paths, "height": [float("high" in path) + 0.01 * i for i, path in enumerate(paths)]})
    own.write_csv(tmp_path / "own.csv")
    before = results_of(config, f"factors.table={tmp_path / 'own.csv'}", out=tmp_path / "out")
    assert set(before.filter(pl.col("metric") == "factor_r2")["target"]) == {"height"}
    own.with_columns(height=-(pl.col("height") ** 2)).write_csv(tmp_path / "own.csv")
    after = results_of(config, f"factors.table={tmp_path / 'own.csv'}", out=tmp_path / "out")
    assert not before.equals(after)


def test_factors_include_egemaps(tmp_path: Path, tiny: Tiny) -> None:
    pytest.importorskip("opensmile")
    settings = {**ONE, "factors": {"egemaps": True}}
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), {**FOLDER, **folder(tmp_path)}, **settings)
    run(load_config(config), tmp_path / "out", until="factors")
    table = pl.read_parquet(tmp_path / "out" / "factors.parquet")
    assert table.width == 1 + 88
    low = table.filter(pl.col("clip_id").str.starts_with("low"))["F0semitoneFrom27.5Hz_sma3nz_amean"].mean()
    high = table.filter(pl.col("clip_id").str.starts_with("high"))["F0semitoneFrom27.5Hz_sma3nz_amean"].mean()
    assert high - low == pytest.approx(12.0, abs=1.0)


def test_corpus_decodes_changed_files_only(tmp_path: Path, tiny: Tiny) -> None:
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), folder(tmp_path), **ONE)
    before = results_of(config, out=tmp_path / "out")
    path = tmp_path / "voices" / "low" / "ann_0.wav"
    path.write_bytes((tmp_path / "voices" / "high" / "bob_1.wav").read_bytes())
    assert not results_of(config, out=tmp_path / "out").equals(before)
