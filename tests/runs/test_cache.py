"""Stages run again exactly when inputs, code or outputs changed."""

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
