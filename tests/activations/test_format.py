"""Stores and files of others: what is refused, what is left alone, and names that lead out of a store."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from otoscope.activations.format import foreign_files, remove_store, require_store
from otoscope.activations.maintain import collect_garbage, compact_store, merge_stores, store_info, verify_store
from otoscope.activations.storage import LocalStorage, open_storage, write_redirect
from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest
from otoscope.errors import ArtifactError, DamagedArtifact, OtoscopeError
from tests.activations.test_extract import LENGTHS_S, steps, store_of
from tests.support.activations import contents, corpus_of, write_corpus


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "sound", LENGTHS_S)
    return tmp_path / "sound"


@pytest.mark.parametrize(
    "name", ["thesis.txt", "clips.parquet", "card.json", "photos/a.png", ".hidden", "manifest.json"]
)
def test_extract_refuses_a_folder_of_others_before_it_writes(sound: Path, tmp_path: Path, name: str):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"model": "mine"}')
    before = sorted((tmp_path / "mine").rglob("*"))
    with pytest.raises(ArtifactError, match="is not empty and holds no activations of otoscope"):
        steps(corpus_of(sound), tmp_path / "mine")
    with pytest.raises(ArtifactError, match="is not empty and holds no activations of otoscope"):
        merge_stores(tmp_path / "mine", [tmp_path / "none"])
    assert sorted((tmp_path / "mine").rglob("*")) == before
    assert path.read_text() == '{"model": "mine"}'


def test_extract_accepts_what_a_file_manager_or_a_killed_writer_left(sound: Path, tmp_path: Path):
    folder = tmp_path / "new"
    folder.mkdir()
    for name in (".DS_Store", ".lock", ".card.json.0123abcd.part"):
        (folder / name).touch()
    assert len(store_of(corpus_of(sound), folder).clip_ids) == len(LENGTHS_S)
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [".DS_Store", ".lock"]


def test_require_store_refuses_objects_of_others_at_an_address():
    address = f"memory://{uuid4().hex}/mine"
    storage = open_storage(address)
    require_store(storage)
    with storage.publish("clips.parquet") as temporary:
        temporary.write_text("mine")
    with pytest.raises(ArtifactError, match=r"is not empty .*\('clips.parquet'\)"):
        require_store(storage)


@pytest.mark.parametrize("damage", [b"", b"[]", b"null", b'"x"', b"[" * 100_000, b'{"fingerprint": 1}'])
def test_extract_restores_a_damaged_card(sound: Path, tmp_path: Path, damage: bytes):
    steps(corpus_of(sound), tmp_path / "store")
    before = contents(tmp_path / "store")
    (tmp_path / "store" / "card.json").write_bytes(damage)
    steps(corpus_of(sound), tmp_path / "store")
    assert contents(tmp_path / "store") == before


@pytest.mark.parametrize("name", ["manifest.json", "shards/00000.json", "damaged.json", "redirect.json"])
@pytest.mark.parametrize("damage", [b"[]", b"null", b'"x"', b"[" * 100_000, b'{"shards": 1, "address": 1, "a": {}}'])
def test_json_of_another_shape_is_an_error_of_ours_or_repaired(sound: Path, tmp_path: Path, name: str, damage: bytes):
    folder = tmp_path / "store"
    steps(corpus_of(sound), folder)
    (folder / name).write_bytes(damage)
    for work in (store_info, verify_store, collect_garbage, compact_store, ActivationStore.open):
        try:
            work(folder)
        except OtoscopeError as error:
            assert name in str(error) or "is damaged" in str(error)  # noqa: PT017
    try:
        steps(corpus_of(sound), folder)
        assert verify_store(folder) == []
    except DamagedArtifact as error:
        assert name in str(error)  # noqa: PT017


def test_a_redirect_that_leads_round_in_a_circle_is_an_error(tmp_path: Path):
    write_redirect(tmp_path / "a", str(tmp_path / "b"))
    write_redirect(tmp_path / "b", str(tmp_path / "a"))
    with pytest.raises(DamagedArtifact, match="circle"):
        open_storage(tmp_path / "a")


@pytest.mark.parametrize("address", ["file:{}", "file://{}"])
def test_open_storage_reads_file_addresses(tmp_path: Path, address: str):
    assert open_storage(address.format(tmp_path)) == LocalStorage(tmp_path)


def test_gc_lists_and_removes_only_names_of_a_store(sound: Path, tmp_path: Path):
    folder = tmp_path / "store"
    steps(corpus_of(sound), folder)
    others = ["thesis.txt", ".hidden", "layer_00/notes.txt", "index/mine.parquet", "shards/00000.json.bak", "a/b.part"]
    leftover = "layer_00/frames-00077.safetensors"
    for name in [*others, leftover]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    report = collect_garbage(folder)
    assert report.files == [leftover]
    assert report.foreign == sorted(others)
    assert all((folder / name).read_text() == "mine" for name in others)
    assert verify_store(folder) == []


def test_remove_store_leaves_files_of_others(sound: Path, tmp_path: Path):
    for name in ("one", "two"):
        steps(corpus_of(sound), tmp_path / name)
    (tmp_path / "one" / "layer_00" / "notes.txt").touch()
    for name in ("one", "two"):
        remove_store(LocalStorage(tmp_path / name))
    assert list(contents(tmp_path / "one")) == ["layer_00/notes.txt"]
    assert foreign_files(LocalStorage(tmp_path / "one")) == ["layer_00/notes.txt"]
    assert not (tmp_path / "two").exists()


def rename_in_manifest(folder: Path, old: str, new: str) -> None:
    """Replace a file name in the cards of a store, with the checksums that follow."""
    shard, manifest = folder / "shards" / "00000.json", folder / "manifest.json"
    content = json.loads(shard.read_text())
    content["files"] = {new if name == old else name: record for name, record in content["files"].items()}
    shard.write_text(json.dumps(content))
    listed = json.loads(manifest.read_text())
    first = listed["shards"][0]
    first["files"] = {new if name == old else name: record for name, record in first["files"].items()}
    first["card"] = {"bytes": shard.stat().st_size, "sha256": digest(shard)}
    if old == "clips.parquet":
        listed["tables"]["clips"]["file"] = new
    manifest.write_text(json.dumps(listed))


@pytest.mark.parametrize("old", ["layer_00/frames-00000.safetensors", "index/00000.parquet", "clips.parquet"])
@pytest.mark.parametrize("new", ["../../secret", "/{}/secret", "link/secret", "layer_00/../../../secret", "", "."])
def test_names_in_manifests_stay_inside_the_store(sound: Path, tmp_path: Path, old: str, new: str):
    folder = tmp_path / "deep" / "store"
    steps(corpus_of(sound), folder)
    secret = tmp_path / "secret"
    secret.write_bytes((folder / old).read_bytes())
    (folder / "link").symlink_to(tmp_path)
    rename_in_manifest(folder, old, new.format(tmp_path))
    before = contents(tmp_path / "deep")
    readers: list[Callable[[Any], Any]] = [
        lambda f: ActivationStore.open(f).frames_of(0, "clip000.wav"),
        lambda f: ActivationStore.open(f).index,
        lambda f: ActivationStore.open(f, verify=True),
        lambda f: merge_stores(tmp_path / "deep" / "merged", [f]),
    ]
    refused = 0
    for read in readers:
        try:
            read(folder)
        except DamagedArtifact:
            refused += 1
    assert refused >= 2
    assert any("secret" in line or "damaged" in line or "inside" in line for line in _verified(folder))
    assert {path.name for path in tmp_path.iterdir()} == {"sound", "deep", "secret"}
    assert {name: data for name, data in contents(tmp_path / "deep").items() if name in before} == before


def _verified(folder: Path) -> list[str]:
    try:
        return verify_store(folder)
    except DamagedArtifact as error:
        return [str(error)]


def test_a_link_out_of_a_store_is_neither_read_nor_written(sound: Path, tmp_path: Path):
    folder = tmp_path / "store"
    steps(corpus_of(sound), folder)
    (folder / "layer_00").rename(tmp_path / "elsewhere")
    (folder / "layer_00").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedArtifact, match="is a link out of"):
        ActivationStore.open(folder).frames_of(0, "clip000.wav")
    (tmp_path / "linked").symlink_to(folder)
    (folder / "layer_00").unlink()
    (tmp_path / "elsewhere").rename(folder / "layer_00")
    assert ActivationStore.open(tmp_path / "linked").frames_of(0, "clip000.wav").size, "the user's own link is followed"


def test_a_killed_merge_is_repeated_in_the_same_folder(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    steps(corpus_of(sound), tmp_path / "one")
    steps(corpus_of(sound), tmp_path / "two", layers=[0, 1])
    with monkeypatch.context() as patched:
        patched.setattr(
            "otoscope.activations.maintain._copy_shard", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            merge_stores(tmp_path / "both", [tmp_path / "one"])
    with pytest.raises(ArtifactError, match="holds another store, begun and not finished"):
        merge_stores(tmp_path / "both", [tmp_path / "two"])
    assert merge_stores(tmp_path / "both", [tmp_path / "one"]).clip_ids == [f"clip{i:03d}.wav" for i in range(6)]
