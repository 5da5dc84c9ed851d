"""Storage backends of activation stores: a local folder, or any address that fsspec reaches.

Local files are written under a temporary name, renamed, and read through memory maps. An object store can do neither:
an object appears when its upload ends, so a shard's card is uploaded after its tensors and the manifest last. Remote
files are downloaded once into a content-addressed cache and mapped from there.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from typing_extensions import TypedDict

from otoscope.activations.storage.local import LocalStorage
from otoscope.activations.storage.remote import RemoteStorage
from otoscope.artifacts import FileRecord, read_json_as, write_json
from otoscope.errors import DamagedArtifact
from otoscope.paths import user_path

REDIRECT = "redirect.json"
"""File in a run folder that names the address of its store (`extract.store`)."""


MAX_REDIRECTS = 8
"""Redirects that are followed one after another."""


class Redirect(TypedDict):
    """Content of `redirect.json`."""

    address: str


@runtime_checkable
class Storage(Protocol):
    """Files of one store, addressed by path relative to the store.

    Every method raises `DamagedArtifact` for a path that leads out of the store, as one from a damaged card may.
    """

    @property
    def address(self) -> str:
        """Folder or URL, as shown in messages."""
        ...

    def fetch(self, relative: str, record: FileRecord) -> Path:
        """Return a local path of an immutable file; raise `DamagedArtifact` if it is missing or has another size."""
        ...

    def read(self, relative: str) -> bytes:
        """Read a small mutable file; raise `IncompleteArtifact` if it is missing."""
        ...

    def size(self, relative: str) -> int | None:
        """Return the size of a file in bytes, None if it is missing."""
        ...

    def publish(self, relative: str) -> AbstractContextManager[Path]:
        """Yield a temporary path; its file appears at `relative`, atomically, when the block succeeds."""
        ...

    def file_record(self, relative: str) -> dict[str, Any]:
        """Return size and SHA-256 of a file, computed from its bytes."""
        ...

    def remove(self, relative: str) -> None:
        """Remove a file if it exists."""
        ...

    def list_files(self) -> list[str]:
        """Return the relative paths of all files, sorted."""
        ...

    def list_top(self) -> list[str]:
        """Return the names of files and folders at the top, sorted."""
        ...

    def write_lock(self) -> AbstractContextManager[None]:
        """Acquire the store's write lock, if the backend supports one."""
        ...


def open_storage(address: "str | Path | Storage") -> Storage:
    """Return the backend of a folder or URL (`s3://bucket/name`, `memory://name`, ...); follow a redirect."""
    if not isinstance(address, str | Path):
        return address
    for _ in range(MAX_REDIRECTS + 1):
        if isinstance(address, str) and "://" in address and not address.startswith("file:"):
            return RemoteStorage.connect(address)
        folder = user_path(str(address).removeprefix("file:").removeprefix("//"))
        if (target := read_redirect(folder)) is None:
            return LocalStorage(folder)
        address = target
    raise DamagedArtifact(f"{address}/{REDIRECT} leads round in a circle; delete it and extract again")


def read_redirect(folder: Path) -> str | None:
    """Return the address that a folder redirects to, None without a redirect."""
    path = folder / REDIRECT
    return read_json_as(path, Redirect)["address"] if path.is_file() else None


def write_redirect(folder: Path, address: str) -> None:
    """Redirect a folder to a store at another address."""
    write_json(folder / REDIRECT, {"address": address})
