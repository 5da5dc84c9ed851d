"""Reading a run for its page: JSON of another shape is one of our errors, whatever file it is in."""

import polars as pl
import pytest

from otoscope.artifacts import read_table, write_table
from otoscope.errors import DamagedArtifact
from otoscope.report.run_data import read_run
from otoscope.runs.cards import write_card
from tests.support.finished_run import make_run


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "3", "[" * 5000 + "]" * 5000, "{", ""])
@pytest.mark.parametrize("name", ["corpus.json", "factors.json", "activations/manifest.json", "explain/card.json"])
def test_read_run_refuses_json_of_another_shape(tmp_path, name, content):
    folder = make_run(tmp_path / "run", layers=(0, 1), sae_layers=(1,))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    with pytest.raises(DamagedArtifact):
        read_run(folder)


def test_read_run_refuses_a_card_of_an_sae_of_another_shape(tmp_path):
    folder = make_run(tmp_path / "run", layers=(0, 1), sae_layers=(1,))
    card = next(folder.glob("saes/*/card.json"))
    card.write_text("[]")
    with pytest.raises(DamagedArtifact, match=r"card\.json is damaged"):
        read_run(folder)


def test_read_run_refuses_a_file_that_differs_from_the_card_of_its_stage(tmp_path):
    folder = make_run(tmp_path / "run", layers=(0, 1), sae_layers=(1,))
    card, results = folder / "stages" / "evaluate.json", folder / "results.parquet"
    write_card(card, inputs="x", root=folder, outputs=[results, folder / "corpus.json"])
    (folder / "corpus.json").unlink()
    read_run(folder)
    rows = read_table(results)
    write_table(results, rows.with_columns(value=pl.col("value") + 1))
    with pytest.raises(DamagedArtifact, match=r"results\.parquet is damaged: it differs from its checksum"):
        read_run(folder)


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ("corpus: {kind: folder}", "openai/whisper-tiny.en on birds"),
        ("corpus: {kind: fsdd}", "openai/whisper-tiny.en on sound"),
        ("report: {title: Mine}", "Mine"),
    ],
)
def test_title_names_the_run_instead_of_a_folder_of_sound(tmp_path, settings, title):
    folder = make_run(tmp_path / "run", layers=(0, 1), sae_layers=(1,))
    (folder / "corpus.json").write_text('{"name": "sound"}')
    (folder / "config.yaml").write_text(f"name: birds\n{settings}\n")
    assert read_run(folder).title == title
