"""Stores at addresses that fsspec reaches: uploaded file by file, fetched once into a cache by content."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otoscope.artifacts import FileRecord, atomic, check_size, digest, is_full
from otoscope.errors import (
    ArtifactError,
    ConfigError,
    DamagedArtifact,
    IncompleteArtifact,
    MissingExtra,
    OtoscopeError,
    StorageFull,
)

CACHE_VARIABLE = "OTOSCOPE_STORE_CACHE"
"""Names the folder that fetched shards are kept in; by default one beneath the user's cache."""


@dataclass(frozen=True)
class RemoteStorage:
    """A place that fsspec reaches. `made` remembers what this process uploaded, so that it need not be read back."""

    address: str
    files: Any
    root: str
    uploaded: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]], repr=False)

    @classmethod
    def connect(cls, place: str) -> "RemoteStorage":
        """Connect to a place; credentials and endpoints come from the environment, as fsspec and s3fs document."""
        try:
            from fsspec.core import url_to_fs  # here: local stores need none of it
        except ImportError as error:
            raise MissingExtra(f'{place} needs fsspec; pip install "otoscope[s3]"') from error
        try:
            files, root = url_to_fs(place.rstrip("/"))
        except ImportError as error:
            raise MissingExtra(
                f'{place} needs a package of its own ({error}); for S3: pip install "otoscope[s3]"'
            ) from error
        except ValueError as error:
            raise ConfigError(f"{place} is no address that fsspec knows ({error})") from error
        return cls(place.rstrip("/"), files, root)

    def __reduce__(self) -> tuple[Any, ...]:
        """Connect anew in another process."""
        return RemoteStorage.connect, (self.address,)

    def fetch(self, relative: str, described: FileRecord) -> Path:
        """Download a file, once for its checksum."""
        address = f"{self.address}/{relative}"
        kept = _cache() / "sha256" / str(described["sha256"])
        if kept.is_file() and kept.stat().st_size == described["bytes"]:
            return kept
        check_size(address, self.size(relative), described)
        with atomic(kept) as temporary, _told(address):
            self.files.get_file(self._at(relative), str(temporary))
            if digest(temporary) != described["sha256"]:
                raise DamagedArtifact(
                    f"{address} is damaged: its SHA-256 is not its card's; `otoscope store verify {self.address}` marks "
                    "what is damaged, then the next extraction writes it anew"
                )
        return kept

    def read(self, relative: str) -> bytes:
        """Download a file."""
        with _told(f"{self.address}/{relative}"):
            try:
                return bytes(self.files.cat_file(self._at(relative)))
            except FileNotFoundError as error:
                raise IncompleteArtifact(
                    f"{self.address}/{relative} is missing; extract again to restore it"
                ) from error

    def size(self, relative: str) -> int | None:
        """Ask for a file's size."""
        with _told(f"{self.address}/{relative}"):
            try:
                self.files.invalidate_cache()
                return int(self.files.info(self._at(relative))["size"])
            except FileNotFoundError:
                return None

    @contextmanager
    def publish(self, relative: str) -> Generator[Path]:
        """Write locally, then upload."""
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
            with _told(f"{self.address}/{relative}"):
                self.files.makedirs(self._at(relative).rpartition("/")[0], exist_ok=True)
                self.files.put_file(str(temporary), self._at(relative))

    def file_record(self, relative: str) -> dict[str, Any]:
        """Return what was uploaded; read it back where another process did."""
        if relative in self.uploaded:
            return self.uploaded[relative]
        with _told(f"{self.address}/{relative}"), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            self.files.get_file(self._at(relative), str(path))
            return {"bytes": path.stat().st_size, "sha256": digest(path)}

    def remove(self, relative: str) -> None:
        """Remove a file."""
        self.uploaded.pop(relative, None)
        with _told(f"{self.address}/{relative}"), suppress(FileNotFoundError):
            self.files.rm_file(self._at(relative))

    def list_files(self) -> list[str]:
        """List everything beneath the address."""
        with _told(self.address):
            self.files.invalidate_cache()
            try:
                found = [str(path) for path in self.files.find(self.root)]
            except FileNotFoundError:
                return []
        return sorted(path.lstrip("/").removeprefix(self.root.lstrip("/")).lstrip("/") for path in found)

    @contextmanager
    def write_lock(self) -> Generator[None]:
        """Keep nobody out: no lock outlives its holder without trusting clocks.

        Writers of one store write the same bytes, and `finish` takes no shard that is not its own.
        """
        yield

    def _at(self, relative: str) -> str:
        return f"{self.root}/{relative}"


@contextmanager
def _told(address: str) -> Generator[None]:
    """Turn what a file system says into one line that names the address."""
    try:
        yield
    except (FileNotFoundError, OtoscopeError):
        raise
    except Exception as error:  # every file system brings errors of its own
        kind = StorageFull if is_full(error) else ArtifactError
        raise kind(f"{address} cannot be reached or written: {' '.join(str(error).split())}") from error


def _cache() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "otoscope" / "stores"
