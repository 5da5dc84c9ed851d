"""Stores at fsspec addresses: uploaded file by file, downloaded once into a content-addressed cache."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otoscope.artifacts import FileRecord, atomic, check_name, check_size, digest, is_full
from otoscope.errors import (
    ArtifactError,
    ConfigError,
    DamagedArtifact,
    IncompleteArtifact,
    MissingExtra,
    OtoscopeError,
    StorageFull,
)
from otoscope.formatting import one_line
from otoscope.paths import cache_folder, user_path

CACHE_VARIABLE = "OTOSCOPE_STORE_CACHE"
"""Environment variable with the folder of downloaded shards; by default a folder in the user's cache."""


@dataclass(frozen=True)
class RemoteStorage:
    """Storage behind fsspec. `uploaded` holds the records of files uploaded by this process."""

    address: str
    files: Any
    root: str
    uploaded: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]], repr=False)

    @classmethod
    def connect(cls, address: str) -> "RemoteStorage":
        """Connect to an address; credentials and endpoints come from the environment, as in fsspec and s3fs."""
        try:
            from fsspec.core import url_to_fs  # here: local stores do not need it
        except ImportError as error:
            raise MissingExtra(f'{address} needs fsspec; pip install "otoscope[s3]"') from error
        try:
            files, root = url_to_fs(address.rstrip("/"))
        except ImportError as error:
            raise MissingExtra(
                f'{address} needs a package of its own ({error}); for S3: pip install "otoscope[s3]"'
            ) from error
        except ValueError as error:
            raise ConfigError(f"{address} is not an address that fsspec supports ({error})") from error
        return cls(address.rstrip("/"), files, root)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by address; the connection is opened again."""
        return RemoteStorage.connect, (self.address,)

    def fetch(self, relative: str, record: FileRecord) -> Path:
        """Download a file unless the cache holds its checksum."""
        address = f"{self.address}/{relative}"
        cached = _cache() / "sha256" / str(record["sha256"])
        if cached.is_file() and cached.stat().st_size == record["bytes"]:
            return cached
        check_size(address, self.size(relative), record)
        with atomic(cached) as temporary, _translate_errors(address):
            self.files.get_file(self._path(relative), str(temporary))
            if digest(temporary) != record["sha256"]:
                raise DamagedArtifact(
                    f"{address} is damaged: its SHA-256 differs from its card; run `otoscope store verify "
                    f"{self.address}` to mark the damage, then extract again"
                )
        return cached

    def read(self, relative: str) -> bytes:
        """Download a small file."""
        address = f"{self.address}/{relative}"
        with _translate_errors(address):
            try:
                return bytes(self.files.cat_file(self._path(relative)))
            except FileNotFoundError as error:
                raise IncompleteArtifact(f"{address} is missing; extract again to restore it") from error

    def size(self, relative: str) -> int | None:
        """Return the size of a file, None if it is missing."""
        with _translate_errors(f"{self.address}/{relative}"):
            try:
                self.files.invalidate_cache()
                return int(self.files.info(self._path(relative))["size"])
            except FileNotFoundError:
                return None

    @contextmanager
    def publish(self, relative: str) -> Generator[Path]:
        """Write to a local temporary file, then upload it."""
        scratch = _cache() / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            temporary = Path(folder) / Path(relative).name
            try:
                yield temporary
            except OSError as error:
                if is_full(error):
                    raise StorageFull(f"no room left in {scratch}; free some space and run again") from error
                raise
            self.uploaded[relative] = {"bytes": temporary.stat().st_size, "sha256": digest(temporary)}
            with _translate_errors(f"{self.address}/{relative}"):
                self.files.makedirs(self._path(relative).rpartition("/")[0], exist_ok=True)
                self.files.put_file(str(temporary), self._path(relative))

    def file_record(self, relative: str) -> dict[str, Any]:
        """Return size and SHA-256 of a file; files of other processes are downloaded for it."""
        if relative in self.uploaded:
            return self.uploaded[relative]
        with _translate_errors(f"{self.address}/{relative}"), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            self.files.get_file(self._path(relative), str(path))
            return {"bytes": path.stat().st_size, "sha256": digest(path)}

    def remove(self, relative: str) -> None:
        """Remove a file if it exists."""
        self.uploaded.pop(relative, None)
        with _translate_errors(f"{self.address}/{relative}"), suppress(FileNotFoundError):
            self.files.rm_file(self._path(relative))

    def list_files(self) -> list[str]:
        """List all files below the address."""
        with _translate_errors(self.address):
            self.files.invalidate_cache()
            try:
                paths = [str(path) for path in self.files.find(self.root)]
            except FileNotFoundError:
                return []
        return sorted(path.lstrip("/").removeprefix(self.root.lstrip("/")).lstrip("/") for path in paths)

    def list_top(self) -> list[str]:
        """List objects and prefixes right below the address."""
        with _translate_errors(self.address):
            self.files.invalidate_cache()
            try:
                paths = [str(path).rstrip("/") for path in self.files.ls(self.root, detail=False)]
            except FileNotFoundError:
                return []
        return sorted(path.rpartition("/")[2] for path in paths if path.lstrip("/") != self.root.strip("/"))

    @contextmanager
    def write_lock(self) -> Generator[None]:
        """No-op: object stores offer no reliable lock.

        Writers of the same store write the same bytes, and `commit_store` refuses a store that another writer began.
        """
        yield

    def _path(self, relative: str) -> str:
        return f"{self.root}/{check_name(self.address, relative).as_posix()}"


@contextmanager
def _translate_errors(address: str) -> Generator[None]:
    """Turn errors of a file system into a one-line `ArtifactError` with the address."""
    try:
        yield
    except (FileNotFoundError, OtoscopeError):
        raise
    except Exception as error:  # every fsspec backend raises its own classes
        kind = StorageFull if is_full(error) else ArtifactError
        raise kind(f"{address} cannot be reached or written: {one_line(error)}") from error


def _cache() -> Path:
    folder = os.environ.get(CACHE_VARIABLE)
    return user_path(folder) if folder else cache_folder() / "stores"
