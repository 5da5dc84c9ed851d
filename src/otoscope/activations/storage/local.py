"""Stores in local or network-mounted folders."""

import errno
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from otoscope.artifacts import FileRecord, atomic, check_size, digest, is_full, remove_file, resolve_inside
from otoscope.errors import ArtifactError, DamagedArtifact, IncompleteArtifact, StorageFull
from otoscope.paths import open_regular

LOCK = ".lock"


@dataclass(frozen=True)
class LocalStorage:
    """Storage in a folder, which several machines may share."""

    folder: Path

    @property
    def address(self) -> str:
        """Path of the folder."""
        return str(self.folder)

    def fetch(self, relative: str, record: FileRecord) -> Path:
        """Return the path of a file after checking its size."""
        path = self._path(relative)
        check_size(str(path), self.size(relative), record)
        return path

    def read(self, relative: str) -> bytes:
        """Read a file."""
        path = self._path(relative)
        try:
            with open_regular(path) as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise IncompleteArtifact(f"{path} is missing; extract again to restore it") from error
        except OSError as error:
            raise DamagedArtifact(
                f"{path} cannot be read ({error.strerror}); remove it and extract again to restore it"
            ) from error

    def size(self, relative: str) -> int | None:
        """Return the size of a file, None if it is missing."""
        try:
            return self._path(relative).stat().st_size
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # links in a circle lead to no file
                return None
            raise

    def publish(self, relative: str) -> AbstractContextManager[Path]:
        """Write under a temporary name, then rename."""
        return atomic(self._path(relative))

    def file_record(self, relative: str) -> dict[str, Any]:
        """Return size and SHA-256 of a file."""
        path = self._path(relative)
        return {"bytes": path.stat().st_size, "sha256": digest(path)}

    def remove(self, relative: str) -> None:
        """Remove a file, and its folder if that is then empty."""
        path = self._path(relative)
        remove_file(path)
        with suppress(OSError):
            if path.parent != self.folder:
                path.parent.rmdir()

    def list_files(self) -> list[str]:
        """List all files except the lock."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.name != LOCK)
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    def list_top(self) -> list[str]:
        """List files and folders at the top, except the lock; none if the folder does not exist."""
        try:
            return sorted(path.name for path in self.folder.iterdir() if path.name != LOCK)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ArtifactError(f"{self.folder} cannot be written ({error.strerror}); choose another folder") from error

    @contextmanager
    def write_lock(self) -> Generator[None]:
        """Hold the store's lock, which the system releases when the process ends.

        Raises `ArtifactError` if another process is writing to the folder.
        """
        lock = FileLock(self.folder / LOCK)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = lock.acquire(timeout=0)
        except Timeout as error:
            raise ArtifactError(
                f"another process is writing {self.folder}; wait for it or choose another folder"
            ) from error
        except OSError as error:
            if is_full(error):
                raise StorageFull(f"no room left to begin {self.folder}; free some space and run again") from error
            raise ArtifactError(f"{self.folder} cannot be written ({error.strerror})") from error
        with held:
            yield

    def _path(self, relative: str) -> Path:
        return resolve_inside(self.folder, relative)
