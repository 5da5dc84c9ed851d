import itertools
import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from otoscope.artifacts import read_table, write_table
from otoscope.errors import DamagedArtifact, IncompleteArtifact
from otoscope.report import write_report
from tests.report.conftest import Made, report
from tests.support.finished_run import SPARSITIES, make_run
from tests.support.page_reader import read_page

FIGURES = (
    "probe-by-layer",
    "probe-against-sparsity",
    "classes-1",
    "explained-variance",
    "factor-r2",
    "effective-latents",
    "categories-by-layer",
)


def test_the_page_is_well_formed_and_has_one_of_each_id(made: Made) -> None:
    assert made.reading.mistakes == []
    ids = [t.attributes["id"] for t in made.reading.tags if "id" in t.attributes]
    assert len(ids) == len(set(ids))


def test_headings_never_skip_a_level(made: Made) -> None:
    levels = [int(t.name[1]) for t in made.reading.tags if re.fullmatch(r"h[1-6]", t.name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_nothing_is_loaded_from_outside_the_page(made: Made) -> None:
    loading = {"src", "srcset", "poster", "data", "action", "background"}
    for tag in made.reading.tags:
        for name in loading & tag.attributes.keys():
            assert (tag.attributes[name] or "").startswith("data:"), (tag.name, name)
        assert tag.name not in {"link", "iframe", "object", "embed", "base"}
        if "href" in tag.attributes:
            assert re.match(r"#|data:text/csv|data:application/gzip|figures/", tag.attributes["href"] or ""), tag
    assert "url(" not in made.reading.all("style")[0].text
    assert "@import" not in made.reading.all("style")[0].text
    (policy,) = made.reading.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in (policy.attributes["content"] or "")
    assert "http" not in (policy.attributes["content"] or "")


def test_the_page_stays_small(made: Made) -> None:
    assert 1_000_000 < made.page.stat().st_size < 15_000_000


def test_every_chart_stands_on_the_page_and_beside_it(made: Made) -> None:
    shown = {t.attributes["data-chart"] for t in made.reading.tags if "data-chart" in t.attributes}
    assert shown == made.reading.specs.keys()
    for name in FIGURES:
        assert f"{name}-0" in shown
        assert made.reading.all("figure", id=f"figure-{name}")
        for kind in ("svg", "pdf"):
            assert made.reading.all("a", href=f"figures/{name}.{kind}")
            assert (made.page.parent / "figures" / f"{name}.{kind}").is_file()


def test_links_inside_the_page_lead_somewhere(made: Made) -> None:
    ids = {t.attributes.get("id") for t in made.reading.tags}
    inside = [t.attributes["href"] or "" for t in made.reading.all("a") if (t.attributes["href"] or "").startswith("#")]
    assert len(inside) > 8
    assert all(link[1:] in ids for link in inside)


def test_charts_are_as_wide_as_their_container(made: Made) -> None:
    assert all(spec["width"] == "container" for spec in made.reading.specs.values())


def test_every_colour_of_a_chart_has_a_dark_form(made: Made) -> None:
    import json

    swap = json.loads(made.reading.all("script", id="themes")[0].text)["swap"]
    found = set(re.findall(r'"(#[0-9a-f]{6})"', json.dumps(made.reading.specs)))
    assert found
    assert found <= swap.keys()
    assert len(set(swap.values())) == len(swap)


def test_all_results_can_be_taken_from_the_page_to_the_last_digit(made: Made) -> None:
    results = read_table(made.folder / "results.parquet")
    taken = made.reading.csv("results")
    assert taken.height == results.height
    for column in ("value", "low", "high", "null_mean", "null_high"):
        expected = [None if v != v else v for v in results[column]]
        assert [None if v is None or v != v else v for v in taken[column].cast(pl.Float64)] == expected


@pytest.mark.parametrize(("metric", "name"), [("factor_r2", "factor-r2"), ("effective_latents", "effective-latents")])
def test_the_table_of_factors_holds_the_values_of_the_results(made: Made, metric: str, name: str) -> None:
    rows = read_table(made.folder / "results.parquet").filter((pl.col("metric") == metric) & (pl.col("layer") == 3))
    table = made.reading.csv(name)
    for place, representation, sparsity in [("dense", "dense", None), ("90\u00a0%", "sae", 0.9)]:
        want = rows.filter(pl.col("representation") == representation, pl.col("sparsity").eq_missing(sparsity))
        found = dict(zip(table["factor"], table[place], strict=True))
        assert len(found) == 88
        for target, value in want.select("target", "value").iter_rows():
            assert found[target] == value or (value != value and found[target] != found[target])


def test_a_charts_points_are_the_results(made: Made) -> None:
    rows = read_table(made.folder / "results.parquet")
    want = rows.filter(metric="explained_variance").sort("layer", "sparsity")["value"].to_list()
    spec = made.reading.specs["explained-variance-0"]
    (points,) = spec["datasets"].values()
    assert [p["value"] for p in sorted(points, key=lambda p: (p["layer"], p["sparsity"]))] == want


def test_tables_show_what_their_download_holds(made: Made) -> None:
    exact = {float(t.attributes["value"] or "nan") for t in made.reading.all("data")}
    held = made.reading.csv("explained-variance")["value"].to_list()
    assert set(held) <= exact


def test_the_summary_says_the_numbers_of_the_results(made: Made) -> None:
    rows = read_table(made.folder / "results.parquet").filter(metric="probe_accuracy", split="test", layer=3)
    dense = rows.filter(representation="dense").row(0, named=True)
    codes = rows.filter(representation="sae", pooling="encode_then_pool", sparsity=0.95).row(0, named=True)
    said = made.reading.section("summary").replace("\u00a0", " ")
    assert f"layer 3 reaches an accuracy of {100 * dense['value']:.1f} %" in said
    assert f"{100 * dense['low']:.1f} % to {100 * dense['high']:.1f} %" in said
    assert "null 10.0 %, up to 13.5 %; 480 clips of 6 groups" in said
    assert f"At 95 % sparsity (k=102) the codes of layer 3 reach {100 * codes['value']:.1f} %" in said
    change = 100 * (dense["value"] - codes["value"])
    layer = f"layer 3 ({100 * dense['value']:.1f} %)"
    assert f"not distinguishable from {layer}: {change:.1f} points less (95" in said
    assert "on the validation groups" in said


def test_the_summary_counts_predicted_factors_as_the_rule_says(made: Made) -> None:
    r2 = read_table(made.folder / "results.parquet").filter(metric="factor_r2", layer=3, representation="dense")
    known = sum(v >= 0.1 and v > n for v, n in r2.select("value", "null_high").iter_rows())
    assert f"{known} of 88 factors are predicted from the dense activations" in made.reading.section("summary")


def test_methods_and_provenance_name_every_setting(made: Made) -> None:
    methods = made.reading.section("methods").replace("\u00a0", " ")
    for text in (
        "openai/whisper-tiny.en",
        "2048 latents",
        "99 % (k=20)",
        "72 clips of 4 groups to train",
        "eGeMAPSv02",
    ):
        assert text in methods
    assert "extract.layers" in methods
    assert "model.sparsifier.k" in methods
    provenance = made.reading.section("provenance")
    for text in ("CC0", "a4b1c2", "versions.numpy", "corpus.fingerprint"):
        assert text in provenance


def test_files_set_aside_are_listed_with_their_reason(made: Made) -> None:
    assert "2 files could not be used and are excluded" in made.reading.section("set-aside")
    assert "bad/<b>.wav" in made.reading.section("set-aside")
    assert not made.reading.all("table b")


def test_suspects_are_listed_beside_the_files_set_aside(tmp_path: Path) -> None:
    made = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 2})
    found = {"clip_id": ["a.wav", None], "finding": ["loud", "cut"], "detail": ["1.20", "60 of 72 clips"]}
    write_table(made / "suspects.parquet", pl.DataFrame(found))
    said = read_page(write_report(made, figures=False).read_text("utf-8")).section("set-aside")
    assert "Suspect: 1 clip with a peak above full scale" in said
    assert "60 of 72 clips with no fade at the end" in said


def test_the_gallery_plays_and_describes_every_clip(made: Made) -> None:
    clips = made.reading.all("figure", class_="clip")
    sounds = made.reading.all("audio")
    pictures = made.reading.all("img")
    assert len(clips) == len(sounds) == len(pictures) == 15 + 3  # three of them also at the top
    assert all((s.attributes["src"] or "").startswith("data:audio/flac;base64,") for s in sounds)
    assert all(s.attributes["preload"] == "none" and "controls" in s.attributes for s in sounds)
    assert all("latent" in (p.attributes["alt"] or "") for p in pictures)
    assert "Also the best single latent for pitch factor 2 and pitch factor 3" in made.reading.section("gallery")
    assert "chance |r| up to 0.20" in made.reading.section("gallery")


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    def bytes_of(folder: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix in (".html", ".svg")}

    made = make_run(tmp_path, layers=(2, 3), sae_layers=(2, 3), sizes={"pitch": 2, "rhythm": 1})
    before = bytes_of(write_report(made).parent)
    assert len(before) == 9
    assert bytes_of(write_report(made).parent) == before


HOSTILE = "<script>alert(\"1\")</script> & '$title' </style>"


def test_names_are_shown_and_never_run(tmp_path: Path) -> None:
    page = report(tmp_path, labels=[HOSTILE], sizes={HOSTILE: 2}, layers=(3,), sae_layers=(3,))
    assert page.reading.mistakes == []
    assert HOSTILE in page.reading.section("layers")
    assert HOSTILE in page.reading.section("factors")
    assert len(page.reading.all("script")) == 4
    assert all("alert" not in t.text or t.attributes.get("id") == "specs" for t in page.reading.all("script"))


def test_a_long_name_stays_inside_its_box(tmp_path: Path) -> None:
    name = "F0semitoneFrom27.5Hz_" * 12
    page = report(tmp_path, labels=[name], sizes={name: 1}, layers=(3,), sae_layers=(), gallery=False)
    assert page.reading.mistakes == []
    assert "overflow-wrap: anywhere" in page.reading.all("style")[0].text
    assert all(len(t.attributes["id"] or "") < 100 for t in page.reading.all("figure") if "id" in t.attributes)


@pytest.mark.parametrize(
    ("missing", "section", "sentence"),
    [
        ({"labels": ()}, "layers", "No probes"),
        ({"labels": ()}, "sparsity", "No probes on codes"),
        ({"sae_layers": ()}, "reconstruction", "No dictionaries"),
        ({"sae_layers": ()}, "gallery", "No gallery"),
        ({"sizes": {}}, "factors", "No factors"),
        ({"sizes": {}}, "categories", "No factors"),
        ({"gallery": False}, "gallery", "No gallery"),
    ],
)
def test_a_missing_part_leaves_a_sentence(
    tmp_path: Path, missing: dict[str, object], section: str, sentence: str
) -> None:
    small = {"layers": (2, 3), "sae_layers": (3,), "sizes": {"pitch": 2}, **missing}
    page = report(tmp_path, **small)
    assert page.reading.mistakes == []
    assert sentence in page.reading.section(section)


@pytest.mark.parametrize(
    "parts",
    [
        {"layers": (3,), "sae_layers": (3,), "sizes": {"pitch": 1}},
        {"layers": (0, 1), "sae_layers": (1,), "sizes": {"pitch": 1}, "poolings": ("pool_then_encode",)},
        {"layers": (0,), "sae_layers": (), "sizes": {}, "labels": ()},
        {"layers": tuple(range(25)), "sae_layers": (24,), "sizes": {"pitch": 1}},
        {"layers": (1,), "sae_layers": (1,), "sizes": {"pitch": 1}, "labels": ("digit", "speaker", "größe")},
    ],
)
def test_other_shapes_of_runs_give_whole_pages(tmp_path: Path, parts: dict[str, object]) -> None:
    page = report(tmp_path, **parts)
    assert page.reading.mistakes == []
    ids = [t.attributes["id"] for t in page.reading.tags if "id" in t.attributes]
    assert len(ids) == len(set(ids))
    assert "nan" not in page.reading.section("summary").lower()


def test_a_run_folder_with_results_alone_is_enough(tmp_path: Path) -> None:
    source = make_run(tmp_path / "whole", layers=(3,), sae_layers=(3,), sizes={"pitch": 2}, gallery=False)
    write_table(tmp_path / "bare" / "results.parquet", read_table(source / "results.parquet"))
    page = write_report(tmp_path / "bare", figures=False)
    assert "holds no table of clips" in page.read_text(encoding="utf-8")


def test_empty_results_still_give_a_page(tmp_path: Path) -> None:
    source = make_run(tmp_path / "whole", layers=(3,), sae_layers=(), sizes={}, labels=("digit",), gallery=False)
    write_table(tmp_path / "bare" / "results.parquet", read_table(source / "results.parquet").head(0))
    assert "hold no number" in write_report(tmp_path / "bare", figures=False).read_text(encoding="utf-8")


def test_without_results_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(IncompleteArtifact, match=r"results\.parquet is missing"):
        write_report(tmp_path)


def test_results_of_another_shape_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "results.parquet", pl.DataFrame({"metric": ["mse"]}))
    with pytest.raises(DamagedArtifact, match="lacks the columns"):
        write_report(tmp_path)


def test_the_sparsities_stand_in_their_order(made: Made) -> None:
    spec = made.reading.specs["explained-variance-0"]
    (axis,) = {str(layer["encoding"]["x"]["scale"]["domain"]) for layer in spec["layer"]}
    assert axis == str([f"{100 * s:.4g}\u00a0%" for s in SPARSITIES])


def test_labels_after_the_first_share_one_figure_at_the_codes_layer(tmp_path: Path) -> None:
    page = report(tmp_path, labels=("digit", "speaker", "accent"), layers=(1, 2), sae_layers=(1, 2), sizes={})
    shown = [t.attributes["data-chart"] or "" for t in page.reading.tags if "data-chart" in t.attributes]
    assert [s for s in shown if "by-layer" in s] == [f"probe-by-layer-{i}" for i in range(3)]
    assert [s for s in shown if "others" in s] == [f"probe-against-sparsity-others-{i}" for i in range(2)]
    targets = page.reading.csv("probe-against-sparsity-others")["target"].unique().to_list()
    assert sorted(targets) == ["accent", "speaker"]
    assert "The speaker. Layer 2, chosen because it has" in page.reading.section("summary")


def test_the_tiles_say_how_their_layers_were_chosen_and_what_they_count(made: Made) -> None:
    said = [" ".join(tag.text.split()) for tag in made.reading.all("dl", class_="tiles")]
    assert len(said) == 1
    assert "layer chosen on validation groups" in said[0]
    assert "dense layer 3 itself:" in said[0]
    assert "chance 10.0 %, up to 13.5 %" in said[0].replace("\u00a0", " ")
    assert "480 clips of 6 groups" in said[0]
    assert "null" not in said[0]


def test_the_terms_of_the_page_are_explained_before_its_numbers(made: Made) -> None:
    said = made.reading.section("summary")
    for term in ("A group is", "Codes are", "sparsity is", "Chance, or the null, is"):
        assert term in said
        assert said.index(term) < said.index("A linear probe")


def test_a_note_on_nulls_stands_only_under_a_table_that_has_them(made: Made) -> None:
    for name in ("factor-r2", "effective-latents"):
        (figure,) = made.reading.all("figure", id=f"figure-{name}")
        held = any(column.endswith(" null") for column in made.reading.csv(name).columns)
        assert ("In the table, “null”" in figure.text) == held == (name == "factor-r2")


def test_settings_of_protocols_that_did_not_run_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 1})
    evaluate = {
        "protocols": ["held_out", "strict"],
        "completeness_min_r2": 0.17,
        "strict": {"seeds": 5},
        "mariotte2025": {"x": 1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "made", "evaluate": evaluate}), encoding="utf-8")
    methods = read_page(write_report(folder, figures=False).read_text(encoding="utf-8")).section("methods")
    assert "evaluate.completeness_min_r2" in methods
    assert "evaluate.strict.seeds" in methods
    assert "evaluate.mariotte2025" not in methods


def test_a_sparsity_is_not_said_to_be_the_nearest_to_itself(made: Made) -> None:
    methods = made.reading.section("methods").replace("\u00a0", " ")
    assert "Where a single sparsity is shown, it is 90 %." in methods
    assert "nearest trained to 90 %" not in methods
