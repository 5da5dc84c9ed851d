"""Paths that a user writes: home folders, control characters, and machines without a home."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import otoscope
from otoscope.activations.segments import Segments
from otoscope.activations.storage import open_storage
from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, read_json, read_table
from otoscope.config import load_config
from otoscope.corpus.table import Corpus
from otoscope.encoders import load_encoder
from otoscope.errors import ArtifactError, AudioError, ConfigError, OtoscopeError
from otoscope.factors.table import FactorTable
from otoscope.paths import cache_folder, ensure_home, open_regular, user_path
from otoscope.report import write_report
from otoscope.runs.folder import RunFolder
from otoscope.tables import read_text_table


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose user id no table lists, as in a container."""

    def unknown(uid: int) -> object:
        raise KeyError(f"uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("OTOSCOPE_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_user_path_refuses_what_names_no_file() -> None:
    for path in ("a\0b", "a\nb", "a\x1bb", os.fsdecode(b"caf\xe9")):
        with pytest.raises(ConfigError, match="contains a control character, or a name that is not UTF-8"):
            user_path(path)
    with pytest.raises(ConfigError, match="'~nosuchuser/x': no home folder is known for '~nosuchuser'"):
        user_path("~nosuchuser/x")


def test_user_path_without_a_home_is_refused_not_guessed(no_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):  # without HOME, and with its stand-in
        with pytest.raises(ConfigError, match="no home folder is known for '~'; write the whole path, or set HOME"):
            user_path("~/runs")
        with pytest.raises(ConfigError, match="set OTOSCOPE_CACHE to a folder"):
            cache_folder()
        ensure_home()
        assert Path.home().is_absolute()
    monkeypatch.setenv("OTOSCOPE_CACHE", "/cache")
    assert cache_folder() == Path("/cache")


@pytest.mark.timeout(20)
def test_open_regular_and_every_reader_refuse_a_pipe_at_once(tmp_path: Path) -> None:
    """A reader of a pipe without a writer waits for ever."""
    names = ("a.json", "a.csv", "a.parquet", "a.yaml", "manifest.json", "config.json")
    pipe, table, parquet, config, *_ = paths = [tmp_path / name for name in names]
    for path in paths:
        os.mkfifo(path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(OSError, match="it is a pipe"):
        open_regular(pipe)
    with pytest.raises(OSError, match="it is a pipe"):
        digest(pipe)
    for read in (
        lambda: read_json(pipe),
        lambda: read_table(parquet),
        lambda: read_text_table(table),
        lambda: read_text_table(parquet),
        lambda: load_config(config),
        lambda: ActivationStore.open(tmp_path),
        lambda: load_encoder(str(tmp_path)),
    ):
        with pytest.raises(OtoscopeError):
            read()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: otoscope.load_config("~/c.yaml"), ConfigError),
        (lambda: otoscope.load_audio("~/a.wav", rate_hz=16_000), AudioError),
        (lambda: otoscope.load_results("~/runs/x"), ArtifactError),
        (lambda: otoscope.load_sae("~/sae"), ArtifactError),
        (lambda: otoscope.ActivationStore.open("~/store"), ArtifactError),
        (lambda: Corpus.load(Path("~/corpus.parquet")), ArtifactError),
        (lambda: FactorTable.load(Path("~/factors.parquet")), ArtifactError),
        (lambda: Segments.read(Path("~/segments.csv")), ConfigError),
        (lambda: write_report(Path("~/run")), ArtifactError),
    ],
)
def test_every_reader_expands_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], error: type[Exception]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        call()
    assert str(tmp_path) in str(caught.value) or error is AudioError
    assert not (tmp_path / "~").exists()


def test_every_writer_expands_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sae = otoscope.SparseAutoencoder(width=4, latents=8, sparsifier=otoscope.TopK(2))
    sae.save_pretrained("~/sae")
    assert otoscope.load_sae("~/sae").sae.encode(np.ones((1, 4), np.float32)).shape == (1, 8)
    assert RunFolder(Path("~/runs/x")).root == tmp_path / "runs" / "x"
    assert open_storage("~/acts").address == str(tmp_path / "acts")
    assert not (tmp_path / "~").exists()
