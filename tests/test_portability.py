import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import without_posix
from tests.support.small_runs import FOLDER, Tiny, write_config, write_voices

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_portability_run_and_store_commands_work_without_posix(tiny: Tiny, tmp_path: Path) -> None:
    root = tmp_path / "Aufnahmen für Chöre (1)"
    write_voices(root / "voices", takes=2)
    config = write_config(root / "study.yaml", tiny("wav2vec2"), {**FOLDER, "root": str(root / "voices")})
    run = str(root / "läufe" / "erster Lauf")
    commands = [["run", str(config), "--out", run], ["store", "verify", f"{run}/activations"], ["--help"]]
    done = subprocess.run(
        [sys.executable, str(Path(without_posix.__file__)), json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(run) / "report" / "index.html").is_file()


def test_portability_reduced_os_has_no_posix_function() -> None:
    reduced = without_posix.reduced_os()
    assert not hasattr(reduced, "fork")
    assert reduced.getcwd() == str(Path.cwd())
