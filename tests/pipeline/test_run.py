"""A run from a configuration to a report, and what a second one does."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, read_json
from otoscope.config import RunConfig, load_config
from otoscope.config.run import ExplainSettings, ReportSettings
from otoscope.errors import ConfigError, CorpusError
from otoscope.explain import SWEPT, ActivationIndex
from otoscope.factors import AnnotationFolder
from otoscope.metrics.record import SCHEMA
from otoscope.metrics.registry import METRICS
from otoscope.pipeline.explain import step_inputs
from otoscope.pipeline.explained_run import prepare
from otoscope.pipeline.run import RunSummary, external_inputs, run
from otoscope.pipeline.splice import annotated_strings
from otoscope.pipeline.stages import STAGES, stages_until
from otoscope.runs.context import Context, LazyEncoder
from otoscope.runs.folder import RunFolder, load_corpus
from otoscope.runs.progress import SilentReporter
from otoscope.sae import SparseAutoencoder
from tests.pipeline.test_extract import Heard
from tests.support.small_runs import SUNG, Tiny, stages_of_last_run, write_config

CLIPS = 5 * 3 * 2


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    return write_config(tmp_path_factory.mktemp("run") / "sung.yaml", tiny("wavlm"), SUNG)


@pytest.fixture(scope="module")
def summary(path: Path) -> RunSummary:
    """A whole run, which tests may bring up to date again but never change for good."""
    return run(load_config(path), path.parent / "out")


def again(summary: RunSummary, path: Path, *overrides: str, until: str = "report") -> tuple[list[str], list[str]]:
    run(load_config(path, overrides), summary.run, until=until)
    return stages_of_last_run(summary.run)


@pytest.fixture(scope="module")
def results(summary: RunSummary) -> pl.DataFrame:
    assert summary.results is not None
    return pl.read_parquet(summary.results)


def test_a_run_that_is_up_to_date_repeats_the_lines_on_its_training(summary: RunSummary, path: Path) -> None:
    repeated = run(load_config(path), summary.run).notes["train"]
    assert repeated == summary.notes["train"]
    assert repeated[0].startswith("  validation groups: ")


def test_run_writes_every_artifact(summary: RunSummary) -> None:
    for name in (
        "config.yaml",
        "corpus.parquet",
        "corpus.json",
        "set_aside.parquet",
        "suspects.parquet",
        "factors.parquet",
        "factors.json",
        "activations/manifest.json",
        "saes/index.json",
        "predictions.parquet",
        "results.parquet",
        "explain/card.json",
        "report/index.html",
        "log.jsonl",
    ):
        assert (summary.run / name).is_file(), name
    assert len(list(summary.run.glob("report/figures/*.svg"))) >= 5
    wanted = [f"layer{layer:02d}-frames-default-m64-k{k}-seed0" for layer in (1, 3) for k in (16, 6)]
    assert read_json(summary.run / "saes" / "index.json")["saes"] == wanted
    assert sorted(path.name for path in summary.run.glob("saes/*/")) == sorted(wanted)
    assert not list(summary.run.rglob("*.part"))
    assert not list(summary.run.rglob("progress.safetensors"))


def test_run_summary_has_clips_report_time_and_memory(summary: RunSummary) -> None:
    assert (summary.clips, summary.set_aside) == (CLIPS, 0)
    assert summary.report == summary.run / "report" / "index.html"
    assert 0 < summary.seconds < 300
    assert 100 < summary.peak_rss_mb < 4000


def test_results_have_the_schema_and_every_metric(results: pl.DataFrame) -> None:
    assert dict(results.schema) == SCHEMA
    asked = {
        "factor_r2",
        "factor_r2_within",
        "factor_r2_given",
        "completeness",
        "effective_latents",
        "disentanglement",
        "explained_variance",
        "mse",
        "cosine",
    }
    asked |= {
        "l0",
        "dead_fraction",
        "always_on_fraction",
        "probe_accuracy",
        "probe_balanced_accuracy",
        "probe_macro_f1",
    }
    assert set(results["metric"]) == asked <= set(METRICS)
    assert set(results["layer"]) == {0, 1, 2, 3}
    assert set(results.filter(pl.col("representation") == "sae")["layer"]) == {1, 3}
    assert (
        results.select("layer", "representation", "sae_id", "k", "metric", "target", "split").is_duplicated().sum() == 0
    )


def test_results_are_within_their_bounds(results: pl.DataFrame) -> None:
    known = results.filter(pl.col("value").is_not_nan())
    shares = known.filter(pl.col("metric").str.starts_with("probe_") | pl.col("metric").str.ends_with("_fraction"))
    assert shares["value"].is_between(0.0, 1.0).all()
    assert known.filter(pl.col("unit") == "fraction")["value"].max() <= 1.0
    assert known.filter(pl.col("metric") == "mse")["value"].min() >= 0.0
    assert known.filter(pl.col("metric") == "cosine")["value"].is_between(-1.0, 1.0).all()
    assert (known.filter(pl.col("metric") == "effective_latents")["value"] >= 1.0).all()
    assert (known.filter(pl.col("metric") == "l0").select(pl.col("value") <= pl.col("k") + 1e-9)).to_series().all()


def test_results_on_test_groups_have_interval_null_and_counts(results: pl.DataFrame) -> None:
    probes = results.filter((pl.col("metric") == "probe_accuracy") & (pl.col("split") == "test"))
    assert set(probes["target"]) == {"technique", "vowel", "context", "gender"}
    assert (probes["groups"] == 2).all()
    assert (probes["n"] == 2 * 3 * 2).all()
    assert probes.select((pl.col("low") <= pl.col("value")) & (pl.col("value") <= pl.col("high"))).to_series().all()
    # two singers of different gender cannot be exchanged
    tested = probes.filter(pl.col("target") != "gender")
    assert tested["null_mean"].is_between(0.0, 1.0).all()
    assert (tested["null_high"] >= tested["null_mean"]).all()
    assert (probes.filter(pl.col("target") == "gender")["null_high"] == 1).all()


def test_results_have_fewer_active_latents_for_sparser_saes(results: pl.DataFrame) -> None:
    fired = results.filter((pl.col("metric") == "l0") & (pl.col("split") == "test")).sort("layer", "k")
    assert fired["k"].to_list() == [6, 16, 6, 16]
    values = fired["value"].to_numpy().reshape(2, 2)
    assert (values[:, 0] < values[:, 1]).all()


def test_run_skips_everything_the_second_time(summary: RunSummary, path: Path) -> None:
    before = {p: digest(p) for p in (summary.run / "results.parquet", summary.run / "report" / "index.html")}
    second = run(load_config(path), summary.run)
    assert stages_of_last_run(summary.run) == ([], list(STAGES))
    assert second.seconds < 0.5 * summary.seconds
    assert {p: digest(p) for p in before} == before


def test_run_rewrites_only_the_page_for_another_title(summary: RunSummary, path: Path) -> None:
    done, _ = again(summary, path, "report.title=Another one")
    assert done == ["report"]
    assert summary.report is not None
    assert "Another one" in summary.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("override", "redone"),
    [
        ("evaluate.labels=[technique]", ["evaluate"]),
        ("train.latents=32", ["train", "evaluate"]),
        pytest.param("train.seeds=[0, 1]", ["train", "evaluate"], marks=pytest.mark.slow),
        pytest.param("extract.layers=[1, 3]", ["extract", "evaluate"], marks=pytest.mark.slow),
        pytest.param("splits.seed=1", ["corpus", "factors", "extract", "train", "evaluate"], marks=pytest.mark.slow),
        ("max_set_aside=0.5", ["corpus"]),
    ],
)
def test_run_repeats_the_stages_that_depend_on_a_setting(
    summary: RunSummary, path: Path, override: str, redone: list[str]
) -> None:
    again(summary, path, until="evaluate")
    whole = digest(summary.run / "results.parquet")
    done, skipped = again(summary, path, override, until="evaluate")
    assert done == redone
    assert skipped == [name for name in stages_until("evaluate") if name not in redone]
    again(summary, path, until="evaluate")
    assert digest(summary.run / "results.parquet") == whole


def test_train_keeps_saes_that_stay_in_the_grid(summary: RunSummary, path: Path) -> None:
    again(summary, path, until="train")
    made = {p: p.stat().st_mtime_ns for p in summary.run.glob("saes/*-m64-k16-seed0/sae.safetensors")}
    again(summary, path, "train.sparsities=[0.75, 0.5]", until="train")
    assert len(made) == 2
    assert {p: p.stat().st_mtime_ns for p in made} == made


@pytest.mark.parametrize(
    ("lost", "redone"),
    [
        ("saes/layer01-frames-default-m64-k6-seed0/sae.safetensors", ["train"]),
        ("activations/layer_02/frames-00000.safetensors", ["extract"]),
        ("factors.json", ["factors"]),
        ("explain/card.json", ["explain"]),
        ("stages/evaluate.json", ["evaluate"]),
    ],
)
def test_run_restores_only_a_lost_artifact(summary: RunSummary, path: Path, lost: str, redone: list[str]) -> None:
    again(summary, path)
    results = digest(summary.run / "results.parquet")
    (summary.run / lost).unlink()
    done, _ = again(summary, path)
    assert done == redone
    assert digest(summary.run / "results.parquet") == results


def test_train_repeats_damaged_weights(summary: RunSummary, path: Path) -> None:
    weights = summary.run / "saes/layer01-frames-default-m64-k6-seed0/sae.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + b"\0" * 8)
    again(summary, path, until="train")
    assert weights.read_bytes() == whole


def test_evaluate_recomputes_a_part_that_differs_from_its_card(summary: RunSummary, path: Path) -> None:
    """Killed between a part's table and its card, and then asked for the older settings once more."""
    again(summary, path, until="evaluate")
    whole = digest(summary.run / "results.parquet")
    part = summary.run / "parts" / "layer01-dense.parquet"
    pl.read_parquet(part).with_columns(value=pl.lit(0.5)).write_parquet(part)
    (summary.run / "results.parquet").unlink()
    again(summary, path, until="evaluate")
    assert digest(summary.run / "results.parquet") == whole


def test_run_until_a_stage_runs_only_its_inputs(path: Path, tmp_path: Path) -> None:
    for until in ("factors", "extract", "train"):
        made = run(load_config(path), tmp_path / until, until=until)
        done, _ = stages_of_last_run(tmp_path / until)
        assert done == stages_until(until)
        assert (made.report, made.results) == (None, None)
    assert stages_until("train") == ["corpus", "extract", "train"]
    assert stages_until("report") == list(STAGES)
    with pytest.raises(ConfigError, match="no stage 'tran'; did you mean train"):
        run(load_config(path), tmp_path / "x", until="tran")


def test_run_summary_omits_the_report_of_an_earlier_run(summary: RunSummary, path: Path) -> None:
    made = run(load_config(path), summary.run, until="train")
    assert (made.report, made.results) == (None, None)
    assert (summary.run / "report" / "index.html").is_file()


def test_report_names_only_saes_of_its_results(summary: RunSummary, path: Path) -> None:
    again(summary, path, "train.latents=16", "train.sparsities=[0.5]", until="train")
    again(summary, path)
    assert list(summary.run.glob("saes/*-m16-*"))
    assert summary.report is not None
    page = summary.report.read_text(encoding="utf-8")
    assert "-m64-k6-" in page
    assert "-m16-" not in page


def test_run_keeps_one_order_of_clips_in_all_artifacts(summary: RunSummary) -> None:
    corpus = pl.read_parquet(summary.run / "corpus.parquet")["clip_id"].to_list()
    factors = pl.read_parquet(summary.run / "factors.parquet")["clip_id"].to_list()
    stored = pl.read_parquet(summary.run / "activations" / "clips.parquet")["clip_id"].to_list()
    assert corpus == factors == stored
    assert np.unique(corpus).size == CLIPS


def test_run_gives_the_same_bytes_in_another_folder(summary: RunSummary, path: Path, tmp_path: Path) -> None:
    again(summary, path, until="evaluate")
    run(load_config(path), tmp_path / "other", until="evaluate")
    assert digest(tmp_path / "other" / "results.parquet") == digest(summary.run / "results.parquet")


def test_run_accepts_a_configuration_from_python(summary: RunSummary, path: Path) -> None:
    again(summary, path)
    config = RunConfig.model_validate(load_config(path).model_dump() | {"name": "sung"})
    assert config == load_config(path)
    assert replace(run(config, summary.run), seconds=0.0, peak_rss_mb=0.0) == replace(
        summary, seconds=0.0, peak_rss_mb=0.0
    )


def test_explain_indexes_the_dictionary_shown_and_writes_when_latents_fire(summary: RunSummary, path: Path) -> None:
    again(summary, path, until="explain")
    explained = summary.run / "explain"
    sae_id = read_json(explained / "card.json")["sae_id"]
    index = ActivationIndex.open(explained / "index" / sae_id)
    store = ActivationStore.open(summary.run)
    sae = SparseAutoencoder.from_pretrained(summary.run / "saes" / sae_id)
    clip = store.clip_ids[3]
    codes = sae.encode(store.frames_of(index.card["layer"], clip))
    assert index.codes_of(clip) == pytest.approx(codes, rel=2e-3, abs=1e-4)
    examples = pl.read_parquet(explained / "examples.parquet")
    gallery = pl.read_parquet(explained / "top_clips.parquet")
    assert set(examples["latent"]) == set(gallery["latent"])
    for row in examples.head(20).iter_rows(named=True):
        assert index.codes_of(row["clip_id"])[row["row"], row["latent"]] == pytest.approx(row["activation"])
        assert row["start_s"] == pytest.approx(store.times_of(row["clip_id"]).start_s[row["row"]])
    firing = pl.read_parquet(explained / "firing.parquet")
    assert set(firing["by"]) == {"group", "technique", "vowel", "context", "gender"}
    assert firing["rate"].is_between(0, 1).all()


def test_explain_writes_a_card_with_its_controls_for_each_latent(summary: RunSummary, path: Path) -> None:
    again(summary, path, until="explain")
    explained = summary.run / "explain"
    cards = pl.read_parquet(explained / "cards.parquet")
    assert set(cards["latent"]) == set(pl.read_parquet(explained / "top_clips.parquet")["latent"])
    assert cards["sentence"].str.starts_with("Fires in ").all()
    for name in ("auroc", "permuted_high", "others", "level", "intruder_logmel", "embedding_descriptors"):
        assert cards[name].drop_nans().is_between(0, 1).all(), name
    assert cards["groups"].to_list() == [2] * cards.height
    responses = pl.read_parquet(explained / "responses.parquet")
    measurements = pl.read_parquet(explained / "measurements.parquet")
    assert {"f1_hz", "f2_hz", "f3_hz"} <= set(measurements["descriptor"])
    unreliable = set(measurements.filter(pl.col("r") < 0.5)["descriptor"])
    assert set(measurements.filter(~pl.col("names_latents"))["descriptor"]) == unreliable
    assert {"level_db", "f0_semitones"} - unreliable <= set(responses["descriptor"])
    assert not unreliable & set(responses["descriptor"])
    assert responses.filter(pl.col("bin") == 0)["groups"].unique().to_list() == [3]  # validation and test
    assert pl.read_parquet(explained / "near_misses.parquet")["activation"].unique().to_list() in ([], [0.0])


def test_explain_scores_splices_at_every_sparsity_of_the_dictionary_shown(summary: RunSummary, path: Path) -> None:
    changed = ("explain.only=[splice]", "explain.dictionaries=all", "train.layers=[1]")
    again(summary, path, *changed, until="explain")
    table = pl.read_parquet(summary.run / "explain" / "splice.parquet")
    assert set(table["quantity"]) == {"cosine", "probe_accuracy"}
    assert (table["groups"] == 2).all()
    cosine = table.filter(pl.col("quantity") == "cosine")
    assert (cosine["untouched"] == 1.0).all()
    assert (cosine["ablated"] < 0.9).all()
    value = {(name, k): value for name, k, value in cosine.select("substitute", "k", "value").iter_rows()}
    shown, *_ = cosine["k"]
    assert value.pop(("sae_with_error", shown)) == pytest.approx(1.0, abs=1e-5)
    assert set(value) == {(name, k) for name in ("sae", "principal_components", "random_atoms") for k in (6, 16)}
    assert min(value["sae", k] for k in (6, 16)) > max(value["random_atoms", 6], cosine["ablated"][0])
    assert table["value"].is_between(-1, 1).all()


def test_annotated_strings_are_clips_of_test_groups_with_their_words(
    summary: RunSummary, path: Path, tmp_path: Path
) -> None:
    again(summary, path, until="explain")
    config = load_config(path, ["explain.splice_clips=3"])
    layer = prepare(Context(config, RunFolder(summary.run), SilentReporter(), LazyEncoder(config))).changed_layer
    clips = layer.corpus.clips
    names = [Path(name).stem for name in clips["path"]]
    lines = [f"{name} 1 0.25 0.1 two\n{name} 1 0.1 0.1 one" for name in names]
    (tmp_path / "words.ctm").write_text("\n".join(lines))
    strings, groups = annotated_strings(layer, AnnotationFolder(tmp_path))
    assert [spoken.words for spoken in strings] == [("one", "two")] * 3
    assert strings[0].spans_s == (pytest.approx((0.1, 0.2)), pytest.approx((0.25, 0.35)))
    assert set(groups) == set(clips.filter(pl.col("split") == "test")["group"])  # two, so that one has a second
    assert all(len(spoken.wave) == layer.encoder.rate_hz // 2 for spoken in strings)
    for name in names:
        (tmp_path / f"{name}.phn").write_text("0 1600 one\n")
    (tmp_path / "words.ctm").unlink()
    assert annotated_strings(layer, AnnotationFolder(tmp_path)) == ([], [])  # phones are no words


def test_explain_tests_interventions_beside_rivals_of_equal_norm(summary: RunSummary, path: Path) -> None:
    changed = ("explain.only=[interventions]", "explain.concepts=1", "explain.intervention_clips=2")
    again(summary, path, *changed, "train.layers=[1]", until="explain")
    table = pl.read_parquet(summary.run / "explain" / "interventions.parquet")
    assert table["target"].n_unique() == 1
    added = table.filter(pl.col("operation") == "add")
    assert added.group_by("technique").agg(pl.col("dose").n_unique())["dose"].to_list() == [5] * 6
    ablated = table.filter(pl.col("operation") == "ablate")
    assert {"leace", "random_latent", "difference_of_means"} < set(ablated["technique"])
    own = table.filter(pl.col("readout") == pl.col("target"))
    assert own.height == 6 * 5 + 5 + 5 + 6
    assert (table["readout_r"] >= 0.3).all()
    assert table["effect"].is_finite().all()
    latents = dict(own.filter(pl.col("latent").is_not_null()).select("technique", "latent").iter_rows())
    assert set(latents) == {"latent_by_activation", "latent_by_output"}


def test_explain_erases_concepts_and_swaps_them_between_clips(summary: RunSummary, path: Path) -> None:
    changed = (
        "explain.only=[erasure]",
        "explain.concepts=1",
        "explain.intervention_clips=2",
        "explain.erasure_clips=6",
    )
    again(summary, path, *changed, "train.layers=[1]", until="explain")
    explained = summary.run / "explain"
    effects = pl.read_parquet(explained / "erasure.parquet")
    assert set(effects["technique"]) == {"latents", "random_latents", "leace"}
    assert (effects.filter(pl.col("readout") != "group: all")["gain"] >= 0.2).all()  # unread concepts are left out
    own = effects.filter(pl.col("own"))
    assert own.height == effects.select("erased", "technique").unique().height
    assert effects["lost"].is_finite().all()
    concepts = pl.read_parquet(explained / "erasure_concepts.parquet")
    assert set(effects["erased"]) == set(concepts.filter(pl.col("erased"))["concept"])
    assert set(effects["readout"]) == set(concepts.filter(pl.col("read") | (pl.col("kind") == "group"))["concept"])
    assert concepts.filter(pl.col("kind") == "group").height == 1
    dominance = pl.read_parquet(explained / "erasure_dominance.parquet")
    assert set(dominance["groups"]) <= {2}
    swaps = pl.read_parquet(explained / "swaps.parquet")
    assert set(swaps["technique"]) == {"latents", "random_latents", "difference_of_means", "whole_layer"}


def test_explain_leaves_the_table_of_transcripts_empty_for_an_encoder_without_words(
    summary: RunSummary, path: Path
) -> None:
    heard = Heard()
    run(load_config(path, ["explain.only=[lens]"]), summary.run, until="explain", progress=heard)
    assert any("lens: no transcripts, which need Whisper and words" in line for line in heard.lines)
    assert pl.read_parquet(summary.run / "explain" / "lens.parquet").is_empty()


def test_explain_attributes_decisions_and_activations(summary: RunSummary, path: Path) -> None:
    again(summary, path, "explain.only=[attribution]", "report.factors=1", until="explain")
    explained = summary.run / "explain"
    decisions = pl.read_parquet(explained / "decisions.parquet")
    assert set(decisions["label"]) >= {"technique", "vowel"}
    assert decisions["flipped"].mean() > decisions["others"].mean()  # type: ignore[operator]
    curves = pl.read_parquet(explained / "occlusion.parquet")
    assert set(curves["order"]) == {"relevance", "spectrogram", "random"}
    assert curves.height >= 3
    for share, kind in ((0, "deletion"), (1, "insertion")):
        assert curves.filter(pl.col("share") == share)[kind].to_list() == pytest.approx(
            [1.0] * curves.filter(pl.col("share") == share).height, abs=1e-3
        )
    masked = pl.read_parquet(explained / "masked.parquet")
    for name in masked.filter(pl.col("audio") != "")["audio"]:
        assert soundfile.info(explained / name).frames > 0
    means = pl.read_parquet(explained / "attribution.parquet")
    assert {"deletion_lead", "insertion_lead"} <= set(means["quantity"])


def test_explain_sweeps_factors_of_a_voice(summary: RunSummary, path: Path) -> None:
    changed = ("explain.only=[sweeps]", "explain.sweep_clips=24", "report.factors=1", "report.classes=0")
    again(summary, path, *changed, until="explain")
    explained = summary.run / "explain"
    curves, shares = (pl.read_parquet(explained / f"{name}.parquet") for name in ("sweeps", "sweep_shares"))
    assert set(curves["factor"]) == set(SWEPT)
    assert (curves["singers"] == 6).all()
    assert curves.filter(pl.col("factor") == "vowel")["class"].to_list() == ["a", "e", "i", "o", "u"]
    assert shares.filter(pl.col("other").is_null())["factor"].to_list() == [*SWEPT, "mel_band"]
    assert shares.filter(pl.col("other").is_not_null()).height == 7 * 6 // 2


def test_explain_matches_latents_with_the_other_dictionaries(summary: RunSummary, path: Path) -> None:
    again(summary, path, "explain.only=[matching]", until="explain")
    explained = summary.run / "explain"
    assert pl.read_parquet(explained / "matches.parquet").is_empty()
    assert pl.read_parquet(explained / "families.parquet").height > 0
    again(summary, path, "explain.only=[matching]", "explain.dictionaries=all", until="explain")
    matching, matches = (pl.read_parquet(explained / f"{name}.parquet") for name in ("matching", "matches"))
    assert matching["other"].n_unique() == matching.height == 3
    assert matches.group_by("other").len()["len"].to_list() == matching["latents"].to_list()
    assert matching["share"].is_between(0, 1).all()
    twin = shutil.copytree(explained / "index", path.parent / "twin" / "explain" / "index").parents[1]
    again(summary, path, "explain.only=[matching]", f"explain.match_run={twin}", until="explain")
    config = load_config(path, [f"explain.match_run={twin}"])
    assert (
        twin / "explain" / "index" in (external_inputs(config, RunFolder(summary.run), until="explain") or ([], []))[1]
    )
    own = pl.read_parquet(explained / "matching.parquet")
    assert own["other"].to_list() == [f"twin/{folder.name}" for folder in sorted((twin / "explain/index").iterdir())]
    assert own["correlation"].max() == pytest.approx(1.0)  # the dictionary shown, in a run of the same clips
    with pytest.raises(ConfigError, match=r"explain.match_run: .*nowhere has no index of codes"):
        again(summary, path, f"explain.match_run={path.parent}/nowhere", until="explain")
    again(summary, path, until="explain")


def test_explain_scores_latents_on_annotated_labels(summary: RunSummary, path: Path, tmp_path: Path) -> None:
    own = pl.read_parquet(summary.run / "explain" / "annotated_labels.parquet")  # of the synthesiser, not asked for
    assert set(own["tier"]) == {"onset"}
    clips = load_corpus(RunFolder(summary.run)).clips
    for row in clips.iter_rows(named=True):
        file = (tmp_path / row["path"]).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        middle_s = row["duration_s"] / 2
        file.write_text(f"0.0\t{middle_s}\tfirst half\n{middle_s}\t{row['duration_s']}\tsecond half\n")
    with file.open("a") as late:
        late.write(f"{middle_s - 0.1}\t{middle_s + 0.1}\tclick\n{middle_s}\t{middle_s}\tpoint\n0.4\t9.0\tlate\n")
    changed, heard = f"corpus.annotations={tmp_path}", Heard()
    run(load_config(path, [changed]), summary.run, until="explain", progress=heard)
    assert f"{CLIPS} clips of {CLIPS} have annotations" in heard.lines
    late_ones = f"intervals that end after their recordings: 1 of {2 * CLIPS + 3}"
    assert f"warning: {late_ones}; they are cut or left out" in heard.lines
    assert "annotations that overlap others of their tier: 3; frames in several carry each label" in heard.lines
    assert "annotations that are points in time: 1; each marks the nearest frame" in heard.lines
    explained = summary.run / "explain"
    labels = pl.read_parquet(explained / "annotated_labels.parquet")
    assert set(labels.select("label", "unit").iter_rows()) == {
        (half, unit) for half in ("first half", "second half") for unit in ("latent", "dense", "cluster")
    }
    assert labels["f1"].is_between(0, 1).all()
    assert (labels["groups"] == 2).all()
    rare = pl.read_parquet(explained / "annotated_unscored.parquet")
    assert set(rare["label"]) == {"click", "late", "point"}
    assert (rare["events_fit"] + rare["events_test"] == 1).all()
    examples = pl.read_parquet(explained / "annotated_examples.parquet")
    for row in examples.iter_rows(named=True):
        sound = soundfile.info(explained / row["audio"])
        assert 0 < sound.frames / sound.samplerate <= row["end_s"] - row["start_s"] + 0.21
    with pytest.raises(CorpusError, match=r"tier 'words' has no label in any file under .*; .*labels"):
        again(summary, path, changed, "corpus.tiers=[words]", until="explain")
    for other in tmp_path.rglob("*.txt"):
        other.write_text("0.0\t0.1\tonce\n" if other == file else "")
    run(load_config(path, [changed]), summary.run, until="explain", progress=heard)
    assert sum("explain skips annotated labels: no annotated label has 5" in line for line in heard.lines) == 2
    assert pl.read_parquet(explained / "annotated_labels.parquet").is_empty()
    again(summary, path, until="explain")
    assert pl.read_parquet(explained / "annotated_labels.parquet").equals(own)


def test_explain_only_adds_files_and_keeps_current_ones(summary: RunSummary, path: Path) -> None:
    again(summary, path, until="explain")
    explained = summary.run / "explain"
    before = {p: p.stat().st_mtime_ns for p in explained.rglob("*") if p.suffix in (".flac", ".safetensors")}
    index = ActivationIndex.open(explained / "index" / read_json(explained / "card.json")["sae_id"])
    firing = index.statistics.filter(pl.col("rows") > 0)["latent"].to_list()
    latent = next(i for i in firing if i not in set(pl.read_parquet(explained / "examples.parquet")["latent"]))
    done, _ = again(summary, path, "explain.only=[firing]", f"explain.latents=[{latent}]", until="explain")
    assert done == ["explain"]
    assert latent in set(pl.read_parquet(explained / "examples.parquet")["latent"])
    assert before == {p: p.stat().st_mtime_ns for p in explained.rglob("*") if p.suffix in (".flac", ".safetensors")}
    again(summary, path, until="explain")
    assert latent not in set(pl.read_parquet(explained / "examples.parquet")["latent"])
    with pytest.raises(ConfigError, match=r"explain\.latents: 64 does not exist; .* has latents 0 to 63"):
        again(summary, path, "explain.only=[matching]", "explain.latents=[64]", until="explain")  # which reads none
    again(summary, path, until="explain")


READ_BY: dict[str, tuple[str, set[str]]] = {
    "explain.dictionaries": ("all", {"matching", "splice"}),
    "explain.latents": ("[5]", {"firing", "cards", "attribution", "sweeps"}),
    "explain.clips": ("10", {"cards", "annotations"}),
    "explain.splice_clips": ("3", {"splice", "lens"}),
    "explain.concepts": ("2", {"interventions", "erasure"}),
    "explain.intervention_clips": ("3", {"interventions", "erasure"}),
    "explain.erasure_clips": ("5", {"erasure"}),
    "explain.sweep_clips": ("9", {"sweeps"}),
    "explain.examples": ("4", {"firing"}),
    "report.title": ("Other", set()),
    "report.factors": ("3", {"firing", "cards", "top_clips", "attribution", "sweeps"}),
    "report.classes": ("2", {"firing", "cards", "top_clips", "attribution", "sweeps"}),
    "report.clips": ("2", {"top_clips"}),
}
"""Steps of `explain` that read each setting, with another value of it."""


def test_a_setting_outdates_the_steps_of_explain_that_read_it_and_no_others(summary: RunSummary, path: Path) -> None:
    again(summary, path)

    def inputs(*overrides: str) -> dict[str, str]:
        # a dictionary before the last layer, so that splices are possible
        config = load_config(path, ["train.layers=[1]", *overrides])
        return step_inputs(Context(config, RunFolder(summary.run), SilentReporter(), LazyEncoder(config)))

    before = inputs()
    assert {*READ_BY, "explain.only", "explain.match_run"} == {
        f"{section}.{name}"
        for section, kind in (("explain", ExplainSettings), ("report", ReportSettings))
        for name in kind.model_fields
    }
    twin = shutil.copytree(summary.run / "explain" / "index", path.parent / "other" / "explain" / "index").parents[1]
    for setting, (value, readers) in {**READ_BY, "explain.match_run": (str(twin), {"matching"})}.items():
        after = inputs(f"{setting}={value}")
        assert {name for name in before if before[name] != after[name]} == readers, setting


def test_explain_names_latents_that_never_fire(summary: RunSummary, path: Path) -> None:
    again(summary, path, until="explain")
    (index,) = map(ActivationIndex.open, (summary.run / "explain" / "index").iterdir())
    silent = index.statistics.filter(pl.col("rows") == 0)["latent"].to_list()
    fires = index.statistics["rows"].arg_max()
    heard = Heard()
    changed = ("explain.only=[firing,cards]", f"explain.latents=[{silent[0]},{fires}]")
    run(load_config(path, changed), summary.run, until="explain", progress=heard)
    assert f"latents of explain.latents that never fire on this corpus: {silent[0]}" in heard.lines
    cards = pl.read_parquet(summary.run / "explain" / "cards.parquet")
    card = cards.row(cards["latent"].to_list().index(silent[0]), named=True)
    assert card["sentence"].startswith("Fires in 0 % of frames")
    assert np.isnan(card["auroc"])
    again(summary, path, until="explain")


def test_page_on_artifacts_reads_the_index(summary: RunSummary, path: Path) -> None:
    again(summary, path, until="explain")
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "read-artifacts.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "latent_offsets" in block]
    (index,) = (summary.run / "explain" / "index").iterdir()
    names: dict[str, Any] = {}
    exec(re.sub(r'Path\(".*"\)', f"Path({str(index)!r})", code), names)
    firing = ActivationIndex.open(index).firing(17)
    assert names["rows"].tolist() == firing.rows.tolist()
    assert names["codes"].tolist() == firing.activations.tolist()
