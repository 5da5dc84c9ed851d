"""The Hub's cache and downloads, against a Hub on this machine."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from otoscope.encoders.catalog import load_encoder
from otoscope.encoders.resolve import damaged_files, download, find_in_cache, locate, resolve
from otoscope.encoders.starter import cache_folder
from otoscope.errors import EncoderError, UnknownEncoder
from tests.support.hub_server import COMMIT, Hub
from tests.support.tiny import split_weights

NAME = "someone/wavlm-tiny"


@pytest.fixture
def repository(hub: Hub, tiny, tmp_path: Path) -> Path:
    """Publish a tiny WavLM with the files that real repositories have beside it."""
    folder = tmp_path / "repository"
    shutil.copytree(tiny("wavlm"), folder)
    (folder / "README.md").write_text("# A model")
    (folder / "modeling_custom.py").write_text("raise SystemExit('remote code ran')")
    hub.repositories[NAME] = folder
    return folder


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_download_fetches_only_the_files_that_a_model_needs(hub: Hub, repository: Path):
    folder = download(NAME)
    assert folder.name == COMMIT
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def test_find_in_cache_ignores_files_that_no_model_needs(hub: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch):
    """The listing of the repository is cached too, and names a README.md that was never downloaded."""
    from huggingface_hub import snapshot_download

    snapshot_download(NAME, allow_patterns=["*.json", "*.safetensors"])
    requests = len(hub.requests)
    assert load_encoder(NAME).revision == COMMIT
    assert len(hub.requests) == requests, "the server was asked again"
    go_offline(monkeypatch)
    assert load_encoder(NAME).revision == COMMIT
    assert locate(NAME) == "cache"


def test_download_again_is_read_from_the_cache(hub: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch):
    assert resolve(NAME).location == "hub"
    requests = len(hub.requests)
    assert resolve(NAME).location == resolve(NAME, revision=COMMIT).location == "cache"
    assert len(hub.requests) == requests
    go_offline(monkeypatch)
    assert resolve(NAME).revision == COMMIT


def test_download_of_changed_weights_is_refused(hub: Hub, repository: Path):
    """The Hub sends a digest, and other bytes of the same length."""
    content = bytearray((repository / "model.safetensors").read_bytes())
    content[-500:] = bytes(500)
    hub.swapped["model.safetensors"] = bytes(content)
    with pytest.raises(EncoderError, match=r"model\.safetensors in .* differs from the digest .*; delete .*/blobs/"):
        load_encoder(NAME)
    with pytest.raises(EncoderError, match=r"differs from the digest"):
        load_encoder(NAME)
    assert sum(request.startswith("GET") and "safetensors" in request for request in hub.requests) == 2


def test_download_repairs_a_file_that_was_damaged_once(hub: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch):
    hub.swapped["config.json"] = (repository / "config.json").read_bytes().replace(b"0.1", b"0.2")
    from otoscope.encoders import resolve as module

    first = module.damaged_files

    def heal_after_the_first_check(folder: Path, digests: dict[str, str]) -> list[str]:
        damaged = first(folder, digests)
        hub.swapped.clear()
        return damaged

    monkeypatch.setattr(module, "damaged_files", heal_after_the_first_check)
    folder = download(NAME)
    assert (folder / "config.json").read_bytes() == (repository / "config.json").read_bytes()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_resolve_refuses_a_cached_file_that_changed(hub: Hub, repository: Path, file: str):
    target = (download(NAME) / file).resolve()
    content = target.read_bytes()
    target.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(EncoderError, match=rf"{file} in .*; delete {target} and run again with a network"):
        load_encoder(NAME)
    target.write_bytes(content)
    load_encoder(NAME)


def test_damaged_files_hashes_each_revision_once(hub: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch):
    folder = download(NAME)
    monkeypatch.setattr("otoscope.encoders.resolve.digest", lambda _: pytest.fail("the file was hashed again"))
    assert damaged_files(folder, {}) == []
    shutil.rmtree(cache_folder())
    with pytest.raises(pytest.fail.Exception, match="hashed again"):
        damaged_files(folder, {})


def test_damaged_files_uses_the_listing_where_the_cache_has_no_links(hub: Hub, repository: Path):
    digests = {path.name: hub.digests(path)[path.suffix == ".safetensors"] for path in repository.iterdir()}
    folder = download(NAME)
    for path in folder.iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    shutil.rmtree(cache_folder())
    assert damaged_files(folder, digests) == []
    (folder / "config.json").write_text("{}")
    assert damaged_files(folder, digests) == ["config.json"]


def test_damaged_files_needs_no_cache_folder_of_its_own(hub: Hub, repository: Path, monkeypatch, tmp_path: Path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OTOSCOPE_CACHE", str(tmp_path / "file"))
    assert load_encoder(NAME).revision == COMMIT


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"HTTP 401: there is no public model of this name; check the spelling, or log in with `hf auth login`"),
        (403, r"HTTP 403: this account or token may not read it; log in"),
        (404, r"HTTP 404: there is no model of this name"),
        (429, r"HTTP 429: too many requests; wait some minutes, or log in"),
        (500, r"HTTP 500: the Hub is out of order, also after 2 new attempts; run again later"),
        (503, r"HTTP 503: the Hub is out of order"),
        (418, r"HTTP 418: check HF_ENDPOINT and the proxy"),
    ],
)
def test_download_error_names_the_status_and_the_remedy(hub: Hub, repository: Path, status: int, message: str):
    hub.status = status
    with pytest.raises(EncoderError, match=message) as caught:
        load_encoder(NAME)
    assert isinstance(caught.value, UnknownEncoder) == (status in (401, 404))
    assert len(hub.requests) == (3 if status in (429, 500, 503) else 1)


def test_download_of_a_gated_model_names_its_terms(hub: Hub, repository: Path):
    hub.gated = True
    expected = (
        rf"HTTP 403: access is restricted; log in with `hf auth login` .* accept the terms on {hub.address}/{NAME}"
    )
    with pytest.raises(EncoderError, match=expected):
        load_encoder(NAME)


def test_download_of_an_unknown_model_or_revision_is_unknown(hub: Hub, repository: Path):
    with pytest.raises(UnknownEncoder, match=r"HTTP 404: there is no model of this name; .*did you mean"):
        load_encoder("microsoft/wavlm-base-plu")


@pytest.mark.parametrize("failures", [[503], [429, 500], ["cut"], ["cut", 503]])
def test_download_retries_a_transient_failure(hub: Hub, repository: Path, failures: list[int | str]):
    hub.failures = [*failures]
    assert load_encoder(NAME).revision == COMMIT


def test_download_over_a_connection_that_breaks_off_is_refused(hub: Hub, repository: Path):
    hub.failures = ["cut"] * 50
    with pytest.raises(EncoderError, match=r"did not provide it \(RemoteProtocolError: .*\); check the network"):
        load_encoder(NAME)


def test_download_resumes_after_a_cut_in_the_weights(hub: Hub, repository: Path):
    hub.cut_after = 1000
    assert load_encoder(NAME).revision == COMMIT


def test_download_fetches_pickled_weights_beside_unrelated_safetensors(hub: Hub, repository: Path):
    weights = load_file(repository / "model.safetensors")
    torch.save(weights, repository / "pytorch_model.bin")
    (repository / "model.safetensors").rename(repository / "adapter_model.safetensors")
    save_file({"other": torch.zeros(1)}, repository / "optimizer.safetensors")
    assert sorted(path.name for path in resolve(NAME).folder.iterdir()) == [
        "config.json",
        "preprocessor_config.json",
        "pytorch_model.bin",
    ]
    assert load_encoder(NAME).revision == COMMIT


def test_download_of_a_repository_without_a_model_is_refused(hub: Hub, repository: Path):
    (repository / "model.safetensors").rename(repository / "flax_model.msgpack")
    with pytest.raises(UnknownEncoder, match=rf"the Hub's {NAME} has no weights of transformers"):
        load_encoder(NAME)
    (repository / "config.json").unlink()
    with pytest.raises(UnknownEncoder, match=rf"the Hub's {NAME} has no config\.json"):
        load_encoder(NAME)


def test_download_refuses_an_answer_that_is_no_listing(hub: Hub, repository: Path):
    hub.listing = b"<html>Please accept the terms of this network</html>"
    with pytest.raises(EncoderError, match=r"did not provide it \(JSONDecodeError: .*\); check HF_ENDPOINT"):
        load_encoder(NAME)
    hub.listing = json.dumps(["a", "b"]).encode()
    with pytest.raises(EncoderError, match=r"did not provide it \(TypeError"):
        load_encoder(NAME)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", r"ALL_PROXY names a SOCKS proxy: pip install socksio, or unset it"),
        ("ALL_PROXY", "gopher://127.0.0.1:9", r"Unknown scheme .*; check HF_ENDPOINT and ALL_PROXY"),
        ("HTTP_PROXY", "http://127.0.0.1:9", r"check the network and HTTP_PROXY, or set HF_HUB_OFFLINE=1"),
        ("SSL_CERT_FILE", "/no/such.pem", r"SSL_CERT_FILE names /no/such\.pem, which does not exist; correct or unset"),
    ],
)
def test_download_error_names_the_setting_of_the_network(
    hub: Hub, repository: Path, monkeypatch, variable, value, message
):
    from huggingface_hub.utils import close_session

    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv(variable, value)
    close_session()
    try:
        with pytest.raises(EncoderError, match=message):
            load_encoder(NAME)
    finally:
        close_session()


def test_find_in_cache_needs_the_preprocessor(hub: Hub, repository: Path):
    folder = download(NAME)
    assert find_in_cache(NAME) == folder
    (folder / "preprocessor_config.json").unlink()
    assert find_in_cache(NAME) is None


def test_find_in_cache_needs_all_shards(hub: Hub, repository: Path):
    split_weights(repository)
    folder = download(NAME)
    assert load_encoder(NAME).revision == COMMIT
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert find_in_cache(NAME) is None
