"""Which dictionary the gallery shows, and what a run says of a test split that carries no claim."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.config import RunConfig, load_config
from otoscope.metrics.record import Record, to_table
from otoscope.pipeline.explain import unavailable_reason
from otoscope.pipeline.explained_run import annotation_files, choose_member
from otoscope.pipeline.run import run
from otoscope.report.results import Results
from otoscope.runs.training import GridMember, training_grid
from tests.pipeline.test_extract import Heard
from tests.support.small_runs import FOLDER, Tiny, write_config, write_voices


def grid_of(**train: object) -> list[GridMember]:
    settings = {"latents": 64, "sparsities": [0.75, 0.9], "layers": [1, 3], **train}
    corpus = {"kind": "synth"}
    return training_grid(RunConfig.model_validate({"name": "grid", "corpus": corpus, "train": settings}), [1, 3])


def judged(grid: list[GridMember], score: dict[str, float]) -> pl.DataFrame:
    """Return results in the grid's order, scored on validation groups by recipe and layer."""
    rows = [
        Record(
            metric="probe_balanced_accuracy",
            value=score[f"{member.preset}{member.layer}"],
            split=split,
            representation="sae",
            layer=member.layer,
            target="x",
            protocol="held_out",
            **member.columns(),
        )
        for member in grid
        for split in ("valid", "test")
    ]
    return to_table(rows)


@pytest.mark.parametrize("first", ["default", "bt"])
def test_the_gallery_shows_the_recipe_and_layer_of_the_charts(first: str) -> None:
    presets = {"bt": {"epochs": 2}}
    other = {"default": "bt", "bt": "default"}[first]
    grid = grid_of(preset=[first, other], presets=presets)
    # the other recipe does best, and yet the charts show the first
    results = judged(grid, {f"{first}1": 0.7, f"{first}3": 0.6, f"{other}1": 0.8, f"{other}3": 0.9})
    member = choose_member(results, grid)
    charts = Results(results)
    assert (member.preset, member.layer, member.sparsity) == (first, 1, 0.9)
    assert (charts.preset, charts.codes_layer.layer, charts.reference_sparsity) == (first, 1, 0.9)
    assert member.sae_id in set(charts.of("probe_balanced_accuracy", "sae", sparsity=0.9)["sae_id"])


def test_the_gallery_has_frames_where_the_charts_show_pooled_clips() -> None:
    grid = grid_of(poolings=["pool_then_encode", "encode_then_pool"])
    scores = {"default1": 0.5, "default3": 0.6}
    pooled = judged([member for member in grid if member.pooling == "pool_then_encode"], scores)
    assert choose_member(pooled, grid).pooling == "encode_then_pool"


def test_a_run_on_one_test_group_warns_at_the_end_of_the_corpus_stage(tiny: Tiny, tmp_path: Path) -> None:
    write_voices(tmp_path / "voices", ("ann", "bob", "cy"), takes=1)
    heard = Heard()
    run(load_config(write_config(tmp_path / "v.yaml", tiny("whisper"), FOLDER)), tmp_path / "run", until="corpus",
        progress=heard)  # fmt: skip
    (said,) = [line for line in heard.lines if "supports no claim" in line]
    assert said.startswith("warning: a test split of 2 clips of 1 group supports no claim")
    assert "at least 3 groups and about 20 clips are needed" in said


def test_steps_on_request_name_what_a_dictionary_lacks() -> None:
    frames, pooled = grid_of(poolings=["encode_then_pool", "pool_then_encode"], layers=[3], sparsities=[0.9])
    for step in ("splice", "interventions", "erasure"):
        assert unavailable_reason(step, frames, [0, 3, 4]) is None
        assert "layer 3 is the last that was extracted" in str(unavailable_reason(step, frames, [0, 3]))
        assert "encodes pooled clips" in str(unavailable_reason(step, pooled, [0, 3, 4]))
    assert unavailable_reason("attribution", frames, [3]) is None
    assert "encodes pooled clips" in str(unavailable_reason("lens", pooled, [3]))
    assert unavailable_reason("cards", frames, [3]) is None


def test_explain_names_the_steps_that_it_skips(tiny: Tiny, tmp_path: Path) -> None:
    write_voices(tmp_path / "voices", ("ann", "bob", "cy"), takes=1)
    train = {"poolings": ["pool_then_encode"], "sparsities": [0.9], "layers": [1]}
    path, heard = write_config(tmp_path / "v.yaml", tiny("whisper"), FOLDER, train=train), Heard()
    run(load_config(path), tmp_path / "run", until="explain", progress=heard)
    (line,) = [line for line in heard.lines if line.startswith("explain skips")]
    assert line.startswith("explain skips cards and splice: needs a dictionary of frames, and layer01-pooled")
    run(load_config(path, ["explain.only=[annotations]"]), tmp_path / "run", until="explain", progress=heard)
    assert heard.lines.count("explain skips annotations: needs corpus.annotations, the folder of the annotations") == 1


def test_annotation_files_do_not_depend_on_the_place_of_their_folder(tmp_path: Path) -> None:
    for root in ("one", "two"):
        (tmp_path / root / "below").mkdir(parents=True)
        (tmp_path / root / "below" / "clip.txt").write_text("0.0\t0.5\ta\n", encoding="utf-8")
    one, two = (annotation_files(tmp_path / root) for root in ("one", "two"))
    assert one == two
    assert [name for name, _ in one] == ["below/clip.txt"]
    assert annotation_files(None) == []
