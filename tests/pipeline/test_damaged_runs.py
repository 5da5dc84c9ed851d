"""Damage to any artifact of a run: the next run restores the same bytes, or ends with one of our errors."""

import json
import os
import random
import shutil
from pathlib import Path

import polars as pl
import pytest

from otoscope.config import load_config
from otoscope.errors import ConfigError, OtoscopeError
from otoscope.pipeline.run import run
from tests.support.damaged_files import SECRET, Change, change_for, remove
from tests.support.small_runs import Tiny, write_config, write_voices

TRIALS = int(os.environ.get("OTOSCOPE_FUZZ", "150"))
"""Trials with the marker `slow`."""
PARTS = 4
"""Tests among which these trials are divided."""

VOLATILE = ("log.jsonl", ".lock")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """A folder with recordings, a configuration, a finished run in `out`, and what does not belong to it."""
    root = tmp_path_factory.mktemp("damage")
    voices = write_voices(root / "voices", takes=2)
    paths = sorted(path.relative_to(voices).as_posix() for path in voices.rglob("*.wav"))
    columns = {
        "path": paths,
        "group": [Path(path).name.split("_")[0] for path in paths],
        "label_octave": [path.split("/")[0] for path in paths],
        "factor_pitch_hz": [220.0 * (1 + path.startswith("high")) + 3 * n for n, path in enumerate(paths)],
    }
    pl.DataFrame(columns).write_csv(voices / "clips.csv")
    (root / "secret.txt").write_text(SECRET)
    train = {"layers": [1], "sparsities": [0.9]}
    corpus = {"kind": "manifest", "table": "voices/clips.csv"}
    config = write_config(root / "mine.yaml", tiny("wavlm"), corpus, train=train, extract={"layers": [1]})
    run(load_config(config), root / "out")
    assert (root / "out" / "explain" / "top_clips.parquet").is_file()
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder; links, pipes and the like by what they are."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            found[name] = b"no file"
        elif path.is_file() and path.name not in VOLATILE and "tensorboard" not in path.parts:
            found[name] = path.read_bytes()
    return found


def same(before: bytes | None, after: bytes | None) -> bool:
    """Return true for equal files, and for cards of stages that differ only in facts that nothing reads."""
    if before == after:
        return True
    try:
        cards = [json.loads(content or b"") for content in (before, after)]
        return all({"inputs", "outputs"} <= card.keys() for card in cards) and all(
            cards[0][key] == cards[1][key] for key in ("inputs", "outputs")
        )
    except (ValueError, AttributeError, RecursionError):
        return False


def folder_removed(path: Path, rng: random.Random) -> None:
    shutil.rmtree(path.parent)


def file_instead_of_folder(path: Path, rng: random.Random) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("mine")


def folder_linked_out(path: Path, rng: random.Random) -> None:
    """Put a link to a folder outside in the place of a folder: with other files of these names, or with none."""
    root = next(parent for parent in path.parents if (parent / "secret.txt").is_file())
    names = [other.name for other in path.parent.iterdir()]
    shutil.rmtree(path.parent)
    elsewhere = root / rng.choice(["elsewhere", "voices"])
    elsewhere.mkdir(exist_ok=True)
    for name in names if elsewhere.name == "elsewhere" else ():
        (elsewhere / name).write_text(SECRET)
    path.parent.symlink_to(elsewhere, target_is_directory=True)


FOLDERS: tuple[Change, ...] = (folder_removed, file_instead_of_folder, folder_linked_out)
"""Changes of the folder of a file, unless it is the run itself."""


def damage(out: Path, seed: int) -> str:
    """Damage one to three files of a run; return what was done."""
    rng, done = random.Random(seed), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        paths = [p for p in sorted(out.rglob("*")) if p.is_file() and not p.is_symlink() and p.name not in VOLATILE]
        path = rng.choice([p for p in paths if "tensorboard" not in p.parts])
        change = change_for(path, rng)
        if path.parent != out and rng.random() < 0.1:
            change = rng.choice(FOLDERS)
        try:
            change(path, rng)
        except (ValueError, pl.exceptions.PolarsError):  # damaged already
            remove(path, rng)
        done.append(f"{change.__name__} {path.relative_to(out)}")
    return f"seed {seed}: {', '.join(done)}"


def _require(expected: bool, text: str) -> None:
    assert expected, text


def _outside(finished: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(finished).items() if not name.startswith(("out/", "kept/"))}


def check(finished: Path, seed: int) -> None:
    whole = contents(finished / "out")
    shutil.copytree(finished / "out", finished / "kept")
    try:
        done = damage(finished / "out", seed)
        outside = _outside(finished)
        try:
            run(load_config(finished / "mine.yaml"), finished / "out")
        except BaseException as error:  # noqa: BLE001  a panic of Rust is no Exception
            expected = isinstance(error, OtoscopeError) and not isinstance(error, ConfigError)
            _require(expected, f"{done}: {type(error).__name__}: {error}")
        else:
            now = {name: data for name, data in contents(finished / "out").items() if not name.endswith("mine.txt")}
            changed = sorted(name for name in whole.keys() | now.keys() if not same(whole.get(name), now.get(name)))
            assert not changed, f"{done}: {changed}"
        pages = [data for name, data in contents(finished / "out").items() if name.endswith(".html")]
        assert not any(SECRET.encode() in page for page in pages), done
        assert _outside(finished) == outside, done
    finally:
        shutil.rmtree(finished / "elsewhere", ignore_errors=True)
        shutil.rmtree(finished / "out")
        (finished / "kept").rename(finished / "out")


@pytest.mark.parametrize("seed", [*range(6), 2288])  # 2288: a folder where a file was, and a damaged card
def test_run_restores_damaged_artifacts_or_refuses_them(finished: Path, seed: int) -> None:
    check(finished, seed)


@pytest.mark.slow
@pytest.mark.timeout(20_000)
@pytest.mark.parametrize("part", range(PARTS))
def test_run_restores_many_damaged_artifacts_or_refuses_them(finished: Path, part: int) -> None:
    for seed in range(1000 + part, 1000 + TRIALS, PARTS):
        check(finished, seed)
