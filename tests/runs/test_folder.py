"""The run folder: nothing outside it is written, whatever links stand in it."""

from pathlib import Path

import pytest

from otoscope.artifacts import write_json
from otoscope.errors import ArtifactError
from otoscope.runs.folder import FOLDERS, RunFolder


def a_run(root: Path) -> RunFolder:
    with RunFolder(root).locked():
        pass
    return RunFolder(root)


@pytest.mark.parametrize("name", [*FOLDERS, "saes/one", "explain/index/one"])
def test_locked_refuses_a_link_out_of_the_run_in_the_place_of_a_folder(tmp_path: Path, name: str) -> None:
    folder = a_run(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
    (folder.root / name).symlink_to(tmp_path / "mine", target_is_directory=True)
    with pytest.raises(ArtifactError, match="is a link out of the run; remove it"), folder.locked():
        pass


def test_locked_accepts_links_within_the_run_a_linked_run_and_folders_of_others(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    (folder.root / "saes" / "one").mkdir(parents=True)
    (folder.root / "saes" / "two").symlink_to("one", target_is_directory=True)
    (folder.root / "notes").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link").symlink_to(folder.root, target_is_directory=True)
    with RunFolder(tmp_path / "link").locked():
        pass


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["file", "dangling link"])
def test_locked_refuses_what_is_no_folder(tmp_path: Path, make) -> None:
    folder = a_run(tmp_path / "run")
    make(folder.root / "saes")
    with pytest.raises(ArtifactError, match="saes is no folder; move it away"), folder.locked():
        pass


def test_writers_refuse_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "saes").touch()
    with pytest.raises(ArtifactError, match="saes is no folder, but a folder is needed there"):
        write_json(tmp_path / "saes" / "card.json", {})


@pytest.mark.parametrize("name", ["log.jsonl", ".lock"])
def test_log_and_lock_never_change_the_file_behind_a_link(tmp_path: Path, name: str) -> None:
    folder = a_run(tmp_path / "run")
    (tmp_path / "thesis.txt").write_text("mine")
    (folder.root / name).unlink(missing_ok=True)
    (folder.root / name).symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(ArtifactError, match=r"log\.jsonl is not a file|cannot write"), folder.locked():
        folder.log("started")
    assert (tmp_path / "thesis.txt").read_text() == "mine"
