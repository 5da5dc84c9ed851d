"""Stages run again exactly when inputs, code or outputs changed."""

import os
from pathlib import Path

import pytest

from otoscope.artifacts import digest, read_json, write_json
from otoscope.errors import ArtifactError
from otoscope.runs.cache import run_stage
from otoscope.runs.cards import LARGE_BYTES, is_current, write_card
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import SilentReporter


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def run(folder: RunFolder, inputs: str, text: str = "made") -> bool:
    output = folder.root / "out.txt"
    return run_stage(
        folder, "s", inputs=inputs, outputs=[output], work=lambda: output.write_text(text), progress=SilentReporter()
    )


def test_run_stage_skips_unchanged_inputs(folder: RunFolder) -> None:
    assert run(folder, "a")
    assert not run(folder, "a")


def test_run_stage_runs_again_for_other_inputs(folder: RunFolder) -> None:
    run(folder, "a")
    assert run(folder, "b")
    assert run(folder, "a")


def test_run_stage_runs_again_for_a_missing_or_changed_output(folder: RunFolder) -> None:
    run(folder, "a")
    (folder.root / "out.txt").unlink()
    assert run(folder, "a")
    (folder.root / "out.txt").write_text("touched by hand")
    assert run(folder, "a")


def test_run_stage_runs_again_after_a_failure(folder: RunFolder) -> None:
    run(folder, "a")

    def fail() -> None:
        raise ArtifactError("disk on fire")

    with pytest.raises(ArtifactError, match="on fire"):
        run_stage(folder, "s", inputs="b", outputs=[folder.root / "out.txt"], work=fail, progress=SilentReporter())
    assert run(folder, "a")


def test_run_stage_runs_again_for_a_damaged_card(folder: RunFolder) -> None:
    run(folder, "a")
    folder.card("s").write_text("{", encoding="utf-8")
    assert run(folder, "a")


@pytest.mark.parametrize(
    "text", ["[]", "null", '"x"', "[" * 100_000, '{"inputs": 3, "outputs": {}}', '{"outputs": []}']
)
def test_run_stage_runs_again_for_a_card_of_another_shape(folder: RunFolder, text: str) -> None:
    run(folder, "a")
    folder.card("s").write_text(text, encoding="utf-8")
    assert run(folder, "a")
    assert not run(folder, "a")


@pytest.mark.parametrize("entry", ["inputs", "outputs", "checksum", "times"])
def test_run_stage_runs_again_for_a_card_that_lost_an_entry(folder: RunFolder, entry: str) -> None:
    run(folder, "a")
    whole = folder.card("s").read_bytes()
    write_json(folder.card("s"), {key: value for key, value in read_json(folder.card("s")).items() if key != entry})
    assert run(folder, "a")
    assert folder.card("s").read_bytes() == whole


def test_run_stage_neither_trusts_nor_removes_files_that_a_card_names_outside(
    folder: RunFolder, tmp_path: Path
) -> None:
    inside = RunFolder(tmp_path / "run")
    inside.root.mkdir()
    run_stage(inside, "s", inputs="a", outputs=[], work=lambda: None, progress=SilentReporter())
    secret = tmp_path / "secret"
    secret.write_text("x")
    card = read_json(inside.card("s"))
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    (tmp_path / "run" / "file").symlink_to(secret)
    for name in ("", ".", "../secret", str(secret), "link/secret", "file"):
        for sha in (digest(secret), "0" * 64):
            write_json(inside.card("s"), {**card, "outputs": {name: sha}})
            assert run_stage(inside, "s", inputs="a", outputs=[], work=lambda: None, progress=SilentReporter()), name
            assert secret.read_text() == "x"


def test_run_stage_removes_damaged_outputs_before_it_works(folder: RunFolder) -> None:
    def work() -> None:
        for name in ("one", "two"):
            if not (folder.root / name).exists():  # as a stage that keeps finished parts does
                (folder.root / name).write_text(name)

    def update() -> bool:
        outputs = [folder.root / "one", folder.root / "two"]
        return run_stage(folder, "s", inputs="a", outputs=lambda: outputs, work=work, progress=SilentReporter())

    assert update()
    (folder.root / "two").write_text("damaged")
    made = (folder.root / "one").stat().st_mtime_ns
    assert update()
    assert (folder.root / "two").read_text() == "two"
    assert (folder.root / "one").stat().st_mtime_ns == made
    assert not update()


def test_run_stage_names_a_folder_in_the_place_of_a_file(folder: RunFolder) -> None:
    run(folder, "a")
    (folder.root / "out.txt").unlink()
    (folder.root / "out.txt").mkdir()
    (folder.root / "out.txt" / "mine").write_text("mine")
    with pytest.raises(ArtifactError, match=r"out\.txt is a folder where a file of otoscope belongs; move it away"):
        run(folder, "a")
    assert (folder.root / "out.txt" / "mine").is_file()


def test_is_current_hashes_large_files_only_if_size_or_time_changed(folder: RunFolder) -> None:
    large, card = folder.root / "large", folder.root / "card.json"
    large.write_bytes(b"a" * (LARGE_BYTES + 1))
    write_card(card, inputs="i", root=folder.root, outputs=[large])
    times = large.stat().st_atime_ns, large.stat().st_mtime_ns
    large.write_bytes(b"b" * (LARGE_BYTES + 1))
    assert not is_current(card, inputs="i", root=folder.root)
    os.utime(large, ns=times)
    assert is_current(card, inputs="i", root=folder.root)
    large.write_bytes(b"a" * (LARGE_BYTES + 1))
    assert is_current(card, inputs="i", root=folder.root)


FOREIGN = ("config.yaml", "thesis.txt", ".hidden", "moments/mine.txt", "log.jsonl")


@pytest.mark.parametrize("name", FOREIGN)
def test_run_folder_refuses_a_folder_of_others(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(ArtifactError, match=r"holds files that are not of a run \(.*\); give a new or an empty folder"),
        RunFolder(tmp_path).locked(),
    ):
        pass
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("left", [None, ".lock", ".DS_Store"])
def test_run_folder_takes_a_new_or_an_empty_folder(tmp_path: Path, left: str | None) -> None:
    if left:
        (tmp_path / left).write_text("")
    with RunFolder(tmp_path).locked():
        (tmp_path / "notes.txt").write_text("mine")
    with RunFolder(tmp_path).locked():
        assert (tmp_path / "notes.txt").read_text() == "mine"


def test_run_folder_refuses_a_second_run(folder: RunFolder) -> None:
    with folder.locked(), pytest.raises(ArtifactError, match="another run is using"), folder.locked():
        pass
    with folder.locked():
        pass


def test_run_folder_reports_that_it_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ArtifactError, match=r"cannot write .*Not a directory; choose another --out"),
        RunFolder(tmp_path / "file" / "x").locked(),
    ):
        pass
