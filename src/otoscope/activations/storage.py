"""Storage backends of activation stores: a local folder, or any address that fsspec reaches.

Local files are written under a temporary name, renamed, and read through memory maps. An object store can do neither:
an object appears when its upload ends, so a shard's card is uploaded after its tensors and the manifest last. Remote
files are downloaded once into a content-addressed cache and mapped from there.
"""

import errno
import hashlib
import os
import tempfile
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from filelock import FileLock, Timeout
from typing_extensions import TypedDict

from otoscope.artifacts import (
    FileRecord,
    atomic,
    check_name,
    check_size,
    digest,
    is_full,
    read_json_as,
    remove_file,
    resolve_inside,
    write_json,
)
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
from otoscope.paths import cache_folder, open_regular, user_path

REDIRECT = "redirect.json"
"""File in a run folder that names the address of its store (`extract.store`)."""

MAX_REDIRECTS = 8
"""Redirects that are followed one after another."""

LOCK = ".lock"

CACHE_VARIABLE = "OTOSCOPE_STORE_CACHE"
"""Environment variable with the folder of downloaded shards; by default a folder in the user's cache."""


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
        """Download a file unless the cache holds its checksum.

        Threads and processes that need the same file at once wait for one download. fsspec's memory file system shares
        one read position among the readers of a file, so that simultaneous downloads would mix their bytes.
        """
        address = f"{self.address}/{relative}"
        sha256 = str(record["sha256"])
        cached = _cache() / "sha256" / sha256

        def is_cached() -> bool:
            return cached.is_file() and cached.stat().st_size == record["bytes"]

        if is_cached():
            return cached
        with _translate_errors(address), _download_lock(address):
            if is_cached():
                return cached
            check_size(address, self.size(relative), record)
            with atomic(cached) as temporary:
                self.files.get_file(self._path(relative), str(temporary))
                if digest(temporary) != sha256:
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
        address = f"{self.address}/{relative}"
        with _translate_errors(address), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            with _download_lock(address):
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


def _download_lock(address: str) -> FileLock:
    """Return the lock of downloads of a file; 256 locks serve all addresses, which bounds their number."""
    folder = _cache() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{hashlib.sha256(address.encode()).hexdigest()[:2]}.lock")


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
