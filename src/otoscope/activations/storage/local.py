"""Stores in folders: written by renaming, read where they lie."""

import fcntl
import os
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otoscope.artifacts import FileRecord, atomic, check_size, digest, is_full
from otoscope.errors import ArtifactError, IncompleteArtifact, StorageFull

LOCK = ".lock"


@dataclass(frozen=True)
class LocalStorage:
    """A folder of this machine, or one that several machines share."""

    folder: Path

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.folder)

    def fetch(self, relative: str, described: FileRecord) -> Path:
        """Return where the file lies."""
        path = self.folder / relative
        check_size(str(path), self.size(relative), described)
        return path

    def read(self, relative: str) -> bytes:
        """Read a file."""
        try:
            return (self.folder / relative).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise IncompleteArtifact(f"{self.folder / relative} is missing; extract again to restore it") from error

    def size(self, relative: str) -> int | None:
        """Return a file's size."""
        try:
            return (self.folder / relative).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def publish(self, relative: str) -> AbstractContextManager[Path]:
        """Rename into place."""
        return atomic(self.folder / relative)

    def file_record(self, relative: str) -> dict[str, Any]:
        """Read the file."""
        path = self.folder / relative
        return {"bytes": path.stat().st_size, "sha256": digest(path)}

    def remove(self, relative: str) -> None:
        """Remove a file, and the folder that it leaves empty."""
        path = self.folder / relative
        path.unlink(missing_ok=True)
        with suppress(OSError):
            if path.parent != self.folder:
                path.parent.rmdir()

    def list_files(self) -> list[str]:
        """List the folder, but for its lock."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.name != LOCK)
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    @contextmanager
    def write_lock(self) -> Generator[None]:
        """Hold the store's lock; the system gives it back when the process ends, however it ends.

        Raises `ArtifactError` when another process writes into the same folder.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if is_full(error):
                raise StorageFull(f"no room left to begin {self.folder}; free some space and run again") from error
            raise ArtifactError(f"{self.folder} cannot be written ({error.strerror})") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise ArtifactError(
                f"another process is writing {self.folder}; wait for it or choose another folder"
            ) from error
        finally:
            os.close(handle)
