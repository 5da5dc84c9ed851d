"""The same store on object storage: written through a local S3-compatible server, and through any fsspec address."""

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from otoscope.activations.maintain import collect_garbage, merge_stores, verify_store
from otoscope.activations.segments import Segments
from otoscope.activations.storage import CACHE_VARIABLE, RemoteStorage, open_storage, write_redirect
from otoscope.activations.store import ActivationStore
from otoscope.errors import ArtifactError, ConfigError, DamagedArtifact, IncompleteArtifact, StaleArtifact
from tests.activations.test_append import Counting, add
from tests.activations.test_extract import LENGTHS_S, steps, store_of
from tests.support.activations import contents, corpus_of, write_corpus


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Endpoint of an S3-compatible server in this process."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (extra `s3`)")
    moto = pytest.importorskip("moto.server", reason="moto is not installed (group `dev`)")
    served: Any = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    served.start()
    host, port = served.get_host_and_port()
    yield f"http://{host}:{port}"
    served.stop()


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where nothing lies yet."""
    if request.param == "memory":
        return f"memory://{uuid4().hex}/store"
    import boto3
    import s3fs

    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": request.getfixturevalue("server"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = uuid4().hex
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/deep/store"


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "sound", LENGTHS_S)
    return tmp_path / "sound"


def objects(place: str) -> dict[str, bytes]:
    """Return every object of a store."""
    home = open_storage(place)
    return {name: home.read(name) for name in home.list_files()}


def test_the_bytes_are_those_of_a_folder(sound: Path, tmp_path: Path, place: str):
    options = {"segments": Segments(every_s=0.5), "dtype": "bfloat16"}
    steps(corpus_of(sound), tmp_path / "store", **options)
    remote = store_of(corpus_of(sound), place, **options)  # type: ignore[arg-type]
    assert objects(place) == contents(tmp_path / "store")
    local = ActivationStore.open(tmp_path / "store")
    np.testing.assert_array_equal(remote.pooled(2), local.pooled(2))
    np.testing.assert_array_equal(remote.rows(0).take(np.arange(50)), local.rows(0).take(np.arange(50)))
    np.testing.assert_array_equal(remote.pooled_segments(0), local.pooled_segments(0))
    assert remote.index.equals(local.index)


def test_only_what_is_asked_for_is_fetched_and_only_once(sound: Path, place: str, cache: Path):
    steps(corpus_of(sound), place)  # type: ignore[arg-type]
    store = ActivationStore.open(place)
    before = len(list((cache / "sha256").iterdir()))
    store.frames_of(2, "clip000.wav")
    assert len(list((cache / "sha256").iterdir())) == before + 1
    home = open_storage(place)
    for name in [name for name in home.list_files() if name.startswith("layer_02/frames-00000")]:
        home.remove(name)
    ActivationStore.open(place).frames_of(2, "clip000.wav")  # what was fetched before is read again
    home.remove("layer_00/frames-00000.safetensors")
    with pytest.raises(DamagedArtifact, match=r"layer_00/frames-00000\.safetensors is missing"):
        ActivationStore.open(place).frames_of(0, "clip000.wav")


def test_remote_storage_downloads_a_file_once_for_simultaneous_readers(place: str, cache: Path):
    content = np.random.default_rng(0).bytes(20_000_000)
    storage = open_storage(place)
    with storage.publish("one/file.bin") as path:
        path.write_bytes(content)
    record = storage.file_record("one/file.bin")
    with ThreadPoolExecutor(8) as threads:
        paths = set(threads.map(lambda _: storage.fetch("one/file.bin", record), range(8)))
    assert len(paths) == 1
    assert paths.pop().read_bytes() == content


def test_new_clips_are_appended_and_a_killed_writer_leaves_the_old_store(sound: Path, place: str):
    before = store_of(corpus_of(sound), place)  # type: ignore[arg-type]
    corpus = add(sound, [f"new{i}" for i in range(9)])
    with pytest.raises(KeyboardInterrupt):
        steps(corpus, place, Counting(last=6))  # type: ignore[arg-type]
    assert ActivationStore.open(place).fingerprint == before.fingerprint
    encoder = Counting()
    after = store_of(corpus, place, encoder)  # type: ignore[arg-type]
    assert len(encoder.given) < 9
    assert len(after.clip_ids) == len(LENGTHS_S) + 9


def test_an_object_that_is_damaged_is_found_and_named(sound: Path, place: str):
    steps(corpus_of(sound), place)  # type: ignore[arg-type]
    home = open_storage(place)
    data = bytearray(home.read("layer_02/pooled-00000.safetensors"))
    data[-1] ^= 1
    assert isinstance(home, RemoteStorage)
    home.files.pipe_file(f"{home.root}/layer_02/pooled-00000.safetensors", bytes(data))
    fresh = RemoteStorage.connect(place)
    assert len(verify_store(fresh.address)) == 1
    with pytest.raises(DamagedArtifact, match=r"pooled-00000\.safetensors is damaged: its SHA-256"):
        ActivationStore.open(place).pooled(2)


def test_merge_and_gc_work_there_too(sound: Path, tmp_path: Path, place: str):
    steps(corpus_of(sound), tmp_path / "one")
    merged = merge_stores(place, [tmp_path / "one"])
    home = open_storage(place)
    with home.publish("layer_00/frames-00077.safetensors") as temporary:
        temporary.write_bytes(b"left behind")
    assert collect_garbage(place).files == ["layer_00/frames-00077.safetensors"]
    np.testing.assert_array_equal(merged.pooled(0), ActivationStore.open(tmp_path / "one").pooled(0))


def test_a_writer_that_was_overtaken_by_one_of_another_store_commits_nothing(sound: Path, place: str):
    """No lock keeps writers apart there: the card that lies there at the end decides."""

    class Overtaken(Counting):
        def encode(self, waves: Any, layers: Any) -> Any:
            home = open_storage(place)
            with home.publish("card.json") as temporary:
                temporary.write_text('{"another": "store"}')
            return super().encode(waves, layers)

    with pytest.raises(StaleArtifact, match="another run has begun another store in"):
        steps(corpus_of(sound), place, Overtaken())  # type: ignore[arg-type]
    with pytest.raises(IncompleteArtifact, match="begun but never finished"):
        ActivationStore.open(place)


def test_a_folder_can_point_to_it(sound: Path, tmp_path: Path, place: str):
    store = store_of(corpus_of(sound), place)  # type: ignore[arg-type]
    write_redirect(tmp_path / "here", place)
    assert ActivationStore.open(tmp_path / "here").fingerprint == store.fingerprint


def test_a_home_travels_to_other_processes(place: str):
    home = pickle.loads(pickle.dumps(open_storage(place)))
    with home.publish("a/b.txt") as temporary:
        temporary.write_text("there")
    assert open_storage(place).read("a/b.txt") == b"there"


def test_what_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="nowhere://x is not an address that fsspec supports"):
        open_storage("nowhere://x")
    with pytest.raises(IncompleteArtifact, match="memory://nothing holds no activations"):
        ActivationStore.open("memory://nothing")
    assert open_storage("file:///tmp").address == "/tmp"


def test_a_server_that_is_not_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed (extra `s3`)")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ArtifactError, match=r"s3://bucket/store/manifest\.json cannot be reached"):
        ActivationStore.open("s3://bucket/store")


def test_verify_store_marks_damage_that_extraction_repairs(sound: Path, place: str):
    steps(corpus_of(sound), place)
    before = objects(place)
    name = "layer_00/frames-00000.safetensors"
    with open_storage(place).publish(name) as temporary:
        temporary.write_bytes(before[name][:-4] + bytes(byte ^ 0xFF for byte in before[name][-4:]))
    assert len(verify_store(place)) == 1
    steps(corpus_of(sound), place)
    assert {path: data for path, data in objects(place).items() if path != "repaired.json"} == before
    assert verify_store(place) == []
