import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from typing_extensions import TypedDict

from otoscope.artifacts import (
    atomic,
    canonical_json,
    digest,
    environment,
    fingerprint,
    is_full,
    parse_json_as,
    read_json,
    read_json_as,
    read_table,
    read_tensors,
    require_fingerprint,
    resolve_inside,
    write_json,
    write_table,
    write_tensors,
)
from otoscope.errors import ArtifactError, DamagedArtifact, IncompleteArtifact, StaleArtifact, StorageFull

TABLE = pl.DataFrame({"a": np.random.default_rng(0).random(20_000)})
WRITERS = {
    "json": lambda path: write_json(path, {"a": list(range(5000))}),
    "table": lambda path: write_table(path, TABLE),
    "tensors": lambda path: write_tensors(path, {"a": np.ones(20_000)}),
}


@pytest.fixture
def little_room():
    """Let no file of this process grow beyond 1000 bytes: the nearest to a full disk that needs no privileges."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_writers_refuse_a_folder_in_the_place_of_their_file(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(ArtifactError, match="is a folder, where a file is written; remove it"):
        write(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("kind", sorted(WRITERS))
@pytest.mark.usefixtures("little_room")
def test_no_room_is_one_error_and_leaves_the_old_file(tmp_path: Path, kind: str):
    path = tmp_path / "artifact"
    path.write_text("old")
    with pytest.raises(StorageFull, match=r"no room left to write .*artifact; free some space and run again"):
        WRITERS[kind](path)
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_table_of_which_a_share_fits_is_one_error(tmp_path: Path, share: float):
    """Polars reports it as a fault of the file system or of the format, depending on the share."""
    columns = {f"factor {column}": np.random.default_rng(column).normal(size=30) for column in range(25)}
    table = pl.DataFrame({"clip_id": [f"singer/clip{row}.wav" for row in range(30)], **columns})
    write_table(tmp_path / "whole.parquet", table)
    room = int((tmp_path / "whole.parquet").stat().st_size * share)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(StorageFull):
            write_table(tmp_path / "cut.parquet", table)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.parquet"]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (pl.exceptions.ComputeError("underlying IO error: No space left on device (os error 28)"), True),
        (pl.exceptions.ComputeError("wrong dtype"), False),
    ],
)
def test_what_counts_as_full(error: Exception, full: bool):
    assert is_full(error) is full


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A folder that may be read only; to root nothing is forbidden, so root is somebody else while the test runs."""
    root = os.geteuid() == 0
    with TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        if root:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_one_error(forbidden: Path):
    with pytest.raises(ArtifactError, match=r"a\.json cannot be written \(Permission denied\)"):
        write_json(forbidden / "a.json", {})


def test_a_file_in_the_way_of_a_folder_is_one_error(tmp_path: Path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(ArtifactError, match=r"a\.json cannot be written"):
        write_json(tmp_path / "folder" / "deeper" / "a.json", {})


def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "artifact"
    path.write_text("old")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"artifact": "old"}


def test_the_same_content_gives_the_same_bytes(tmp_path: Path):
    for kind, write in WRITERS.items():
        write(tmp_path / f"{kind}-1")
        write(tmp_path / f"{kind}-2")
        assert digest(tmp_path / f"{kind}-1") == digest(tmp_path / f"{kind}-2")


def test_what_is_written_is_read_back(tmp_path: Path):
    write_json(tmp_path / "a.json", {"é": [1, None, 0.1]})
    assert read_json(tmp_path / "a.json") == {"é": [1, None, 0.1]}
    write_table(tmp_path / "a.parquet", TABLE)
    assert read_table(tmp_path / "a.parquet").equals(TABLE)
    tensors = {"row": np.arange(6.0).reshape(2, 3).T, "scalar": np.float32(3.0)[()]}
    write_tensors(tmp_path / "a.safetensors", {k: np.asarray(v) for k, v in tensors.items()})
    for name, values in read_tensors(tmp_path / "a.safetensors").items():
        np.testing.assert_array_equal(values, tensors[name])
        assert values.shape == np.shape(tensors[name])


@pytest.mark.parametrize("read", [read_json, read_table, read_tensors])
def test_missing_and_malformed_files_are_named(tmp_path: Path, read):
    with pytest.raises(IncompleteArtifact, match="gone is missing; run the stage that writes it"):
        read(tmp_path / "gone")
    (tmp_path / "bad").write_bytes(b"\xff\xfe not what it should be")
    with pytest.raises(DamagedArtifact, match=r"bad is not .*; delete it and run the stage again"):
        read(tmp_path / "bad")


def test_fingerprints_know_content_not_spelling():
    assert fingerprint({"a": 1, "b": (2.0,)}) == fingerprint({"b": [2.0], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert canonical_json({"é": 1}) == '{"é":1}'


def test_another_fingerprint_is_stale(tmp_path: Path):
    require_fingerprint(tmp_path, "abc", "abc")
    with pytest.raises(StaleArtifact, match=r"made from other inputs \(fingerprint abc, expected abd\)"):
        require_fingerprint(tmp_path, "abc", "abd")


def test_the_environment_names_what_is_installed():
    assert environment()["numpy"] == np.__version__


class Card(TypedDict):
    clips: int
    files: dict[str, str]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"null", b'"x"', b"3", b"{}", b'{"clips": "3", "files": {}}', b'{"clips": 3.5, "files": {}}',
        b'{"clips": 3, "files": []}', b'{"clips": 3, "files": {"a": 1}}', b"[" * 100_000, b'{"clips": ' + b"9" * 5000,
        b"\xff\xfe", b'{"clips": 3, "files": {"a": "\xff"}}', b'{"clips": 3',
    ],
)  # fmt: skip
def test_read_json_as_refuses_other_content(tmp_path: Path, content: bytes):
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(DamagedArtifact, match=r"card\.json is damaged: .*; delete it and run its stage again"):
        read_json_as(tmp_path / "card.json", Card)


def test_read_json_as_returns_what_was_written(tmp_path: Path):
    write_json(tmp_path / "card.json", {"clips": 3, "files": {"a": "\u00e9"}})
    assert read_json_as(tmp_path / "card.json", Card) == {"clips": 3, "files": {"a": "\u00e9"}}


def test_read_json_as_refuses_absent_file_and_folder(tmp_path: Path):
    (tmp_path / "card.json").mkdir()
    with pytest.raises(DamagedArtifact, match="Is a directory"):
        read_json_as(tmp_path / "card.json", Card)
    with pytest.raises(IncompleteArtifact, match="is missing"):
        read_json_as(tmp_path / "absent" / "card.json", Card)


def test_read_json_refuses_deep_nesting_and_long_numbers(tmp_path: Path):
    for text in ("[" * 100_000 + "]" * 100_000, "9" * 5000):
        (tmp_path / "card.json").write_text(text)
        with pytest.raises(DamagedArtifact, match="not valid JSON"):
            read_json(tmp_path / "card.json")


def test_parse_json_as_names_the_first_wrong_entry():
    with pytest.raises(DamagedArtifact, match=r"files\.a is 1; Input should be a valid string, and 1 more"):
        parse_json_as(b'{"clips": 1, "files": {"a": 1, "b": 2}}', Card, name="card")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/../../b", "/etc/passwd", "a/..", "a\0b", None, 3, [], "link/a", "file"]
)
def test_resolve_inside_refuses_names_that_lead_out(tmp_path: Path, name: object):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "other")
    (folder / "file").symlink_to(tmp_path / "other" / "a")
    with pytest.raises(DamagedArtifact, match="neither read nor written"):
        resolve_inside(folder, name)


def test_resolve_inside_follows_links_on_request_and_links_inside(tmp_path: Path):
    folder = tmp_path / "run"
    (folder / "data").mkdir(parents=True)
    (folder / "near").symlink_to(folder / "data")
    (folder / "far").symlink_to(tmp_path)
    assert resolve_inside(folder, "near/a.bin") == folder / "near" / "a.bin"
    assert resolve_inside(folder, "far/a.bin", follow_links=True) == folder / "far" / "a.bin"
    with pytest.raises(DamagedArtifact):
        resolve_inside(folder, "../a.bin", follow_links=True)


def test_read_table_refuses_every_flipped_bit(tmp_path: Path):
    path = tmp_path / "table.parquet"
    write_table(path, pl.DataFrame({"clip_id": [f"c{i}" for i in range(40)], "offset": range(40)}))
    whole = path.read_bytes()
    for position in np.random.default_rng(0).integers(0, 8 * len(whole), 100).tolist():
        changed = bytearray(whole)
        changed[position // 8] ^= 1 << position % 8
        path.write_bytes(changed)
        with suppress(DamagedArtifact):  # a flipped bit of the data gives another table
            read_table(path)
