"""A stage is done again exactly when something it rests on changed."""

from pathlib import Path

import pytest

from otoscope.errors import ArtifactError
from otoscope.runs.cache import run_stage
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


def test_work_is_done_once_for_the_same_inputs(folder: RunFolder) -> None:
    assert run(folder, "a")
    assert not run(folder, "a")


def test_other_inputs_do_it_again(folder: RunFolder) -> None:
    run(folder, "a")
    assert run(folder, "b")
    assert run(folder, "a")


def test_a_missing_or_changed_output_does_it_again(folder: RunFolder) -> None:
    run(folder, "a")
    (folder.root / "out.txt").unlink()
    assert run(folder, "a")
    (folder.root / "out.txt").write_text("touched by hand")
    assert run(folder, "a")


def test_a_stage_that_failed_counts_as_not_done(folder: RunFolder) -> None:
    run(folder, "a")

    def fail() -> None:
        raise ArtifactError("disk on fire")

    with pytest.raises(ArtifactError, match="on fire"):
        run_stage(folder, "s", inputs="b", outputs=[folder.root / "out.txt"], work=fail, progress=SilentReporter())
    assert run(folder, "a")


def test_a_damaged_card_counts_as_not_done(folder: RunFolder) -> None:
    run(folder, "a")
    folder.card("s").write_text("{", encoding="utf-8")
    assert run(folder, "a")


def test_two_runs_in_one_folder_are_refused(folder: RunFolder) -> None:
    with folder.locked(), pytest.raises(ArtifactError, match="another run is at work"), folder.locked():
        pass
    with folder.locked():
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ArtifactError, match=r"cannot write .*Not a directory; choose another --out"),
        RunFolder(tmp_path / "file" / "x").locked(),
    ):
        pass
