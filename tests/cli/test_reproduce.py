"""Command `reproduce`."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from otoscope.corpus.synth.dataset import SynthCorpus
from otoscope.protocols.mariotte2025.published import published
from tests.support.calling import call, fails
from tests.support.reproductions import SMALL
from tests.support.small_runs import Tiny
from tests.support.vocalset_tree import write_vocalset_tree


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocalset")
    write_vocalset_tree(folder, SynthCorpus(singers=6, takes=1, duration_s=0.5, techniques=("straight", "breathy")))
    return folder


@pytest.fixture(scope="module")
def arguments(data: Path, tiny: Tiny) -> list[str]:
    settings = [argument for setting in SMALL for argument in ("--set", setting)]
    model = f"HuBERT={tiny('hubert')}@1,3"
    return ["reproduce", "mariotte2025", "--data", str(data), "--model", model, "--only", "hubert", *settings]


def test_reproduce_prints_every_published_number_of_the_model(
    capsys: pytest.CaptureFixture[str], arguments: list[str], tmp_path: Path
) -> None:
    done = call(capsys, *arguments, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    for wanted in ("Probe accuracy", "Reconstruction error", "completeness", "Categories", "standard error of the"):
        assert wanted in done.out
    said = " ".join(done.out.split())
    asked = published().filter(pl.col("model") == "HuBERT").height
    assert f"of {asked} published numbers have a number of this run" in said
    assert f"Not reproduced here: AST, WavLM and MERT ({316 - asked} published numbers)." in said
    assert said.count("MERT") == 1, "models that were not asked for have no rows"
    again = call(capsys, *arguments, "--out", tmp_path / "run", "--json")
    told = json.loads(again.out)
    table = pl.read_csv(told["comparison"])
    assert (told["published"], told["compared"]) == (asked, table["here"].is_not_null().sum())
    page = Path(told["page"]).read_text(encoding="utf-8")
    assert "Not reproduced here: AST, WavLM and MERT" in page
    assert "HuBERT 3" in page
    assert "MERT 4" not in page
    assert "AST 6" not in page
    heads = [name.split()[0] for name in re.findall(r'<th scope="col">([^<]+)</th>', page)]
    at = heads.index("75")
    assert heads[at - 1 : at + 6] == ["dense", "75", "80", "85", "90", "95", "99"]


def test_reproduce_plan_writes_nothing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], tmp_path: Path
) -> None:
    done = call(capsys, *arguments, "--out", tmp_path / "run", "--plan")
    assert done.code == 0, done.err
    for wanted in ("HuBERT: encode", "train SAEs", "probes", "total"):
        assert wanted in done.out
    assert not (tmp_path / "run").exists()
    told = json.loads(call(capsys, *arguments, "--out", tmp_path / "run", "--plan", "--json").out)
    assert told["seconds"] == pytest.approx(sum(step["seconds"] for step in told["steps"]))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--set", "vibrado=keep"], "mariotte2025.vibrado: Input should be 'drop' or 'fix'"),
        (["--only", "Whisper"], "the study has no model 'Whisper'; known: AST, HuBERT, MERT, WavLM"),
        (["--models", "nowhere", "--only", "AST"], "nowhere holds no checkpoint of AST"),
    ],
)
def test_reproduce_reports_invalid_options(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, more: list[str], told: str
) -> None:
    command = ["reproduce", "mariotte2025", "--data", data, "--out", tmp_path / "run"]
    assert told in fails(capsys, *command, *more)


def test_reproduce_refuses_unknown_study_and_empty_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no study 'mariotte'; did you mean mariotte2025?" in fails(
        capsys, "reproduce", "mariotte", "--data", tmp_path
    )
    absent = tmp_path / "nowhere"
    assert f"--data: {absent} does not exist" in fails(capsys, "reproduce", "mariotte2025", "--data", absent)
    (tmp_path / "empty").mkdir()
    command = ["reproduce", "mariotte2025", "--data", tmp_path / "empty", "--out", tmp_path / "run"]
    assert "no audio under" in fails(capsys, *command)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--only", "Whisper"], "the study has no model 'Whisper'; known: AST, HuBERT, MERT, WavLM"),
        (["--set", "vibrado=keep"], "mariotte2025.vibrado: Input should be 'drop' or 'fix'"),
        (["--model", "HuBERT=starter@3"], "'HuBERT=starter@3' must name two layers in place of the study's"),
    ],
)
def test_reproduce_checks_options_before_the_recordings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: list[str], told: str
) -> None:
    assert told in fails(capsys, "reproduce", "mariotte2025", "--data", tmp_path / "nowhere", *more)
