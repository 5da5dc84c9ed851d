"""Where a store lies: a folder, or a place that fsspec reaches. Every file of a store passes through here.

A folder is written by renaming and read through memory maps. An object store has neither: an object appears whole when
its upload ends, so a shard's card goes up after its tensors and the manifest after everything; and what is read is
fetched once into a cache that is addressed by content, from where it is mapped.
"""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from otoscope.activations.storage.local import LocalStorage
from otoscope.activations.storage.remote import RemoteStorage
from otoscope.artifacts import FileRecord, read_json, write_json
from otoscope.errors import DamagedArtifact

REDIRECT = "elsewhere.json"


class Storage(Protocol):
    """The files of one store, by the names that its cards give them."""

    @property
    def address(self) -> str:
        """Folder or address, as messages say it."""
        ...

    def fetch(self, relative: str, described: FileRecord) -> Path:
        """Return a local path with the bytes of a file that does not change any more.

        Raises `DamagedArtifact` when the file is not there or its size is not as described.
        """
        ...

    def read(self, relative: str) -> bytes:
        """Return the bytes of a small file as it is now; raise `IncompleteArtifact` when it is not there."""
        ...

    def size(self, relative: str) -> int | None:
        """Return a file's size in bytes, None where it is not there."""
        ...

    def publish(self, relative: str) -> AbstractContextManager[Path]:
        """Give a temporary path; what lies there when the block succeeds becomes the file, all at once."""
        ...

    def file_record(self, relative: str) -> dict[str, Any]:
        """Return a file's size and checksum, read from the file itself."""
        ...

    def remove(self, relative: str) -> None:
        """Remove a file, if it is there."""
        ...

    def list_files(self) -> list[str]:
        """Return the name of every file, sorted."""
        ...

    def write_lock(self) -> AbstractContextManager[None]:
        """Keep other writers of the same store out, where the place can."""
        ...


def open_storage(place: "str | Path | Storage") -> Storage:
    """Return the home of a store from its folder or its address (`s3://bucket/name`, `memory://name`, ...)."""
    if not isinstance(place, str | Path):
        return place
    if isinstance(place, str) and "://" in place and not place.startswith("file://"):
        return RemoteStorage.connect(place)
    folder = Path(str(place).removeprefix("file://"))
    other = read_redirect(folder)
    return LocalStorage(folder) if other is None else open_storage(other)


def read_redirect(folder: Path) -> str | None:
    """Return the place that a folder points to in a store's stead."""
    path = folder / REDIRECT
    return str(read_json(path)["place"]) if path.is_file() else None


def write_redirect(folder: Path, place: str) -> None:
    """Let a folder point to a store at another place."""
    write_json(folder / REDIRECT, {"place": place})


def read_card(home: Storage, relative: str) -> Any:
    """Read a JSON file; raise `IncompleteArtifact` if absent, `DamagedArtifact` if malformed."""
    try:
        return json.loads(home.read(relative))
    except ValueError as error:
        raise DamagedArtifact(
            f"{home.address}/{relative} is not valid JSON ({error}); delete it and extract again"
        ) from error


def write_card(home: Storage, relative: str, value: object) -> None:
    """Publish a JSON file."""
    with home.publish(relative) as temporary:
        write_json(temporary, value)
