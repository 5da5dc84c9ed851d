"""Where a store lies: a folder, or a place that fsspec reaches. Every file of a store passes through here.

A folder is written by renaming and read through memory maps. An object store has neither: an object appears whole when
its upload ends, so a shard's card goes up after its tensors and the manifest after everything; and what is read is
fetched once into a cache that is addressed by content, from where it is mapped.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from otoscope.artifacts import atomic, digest, is_full, read_json, write_json
from otoscope.errors import (
    ArtifactError,
    ConfigError,
    DamagedArtifact,
    IncompleteArtifact,
    MissingExtra,
    OtoscopeError,
    StorageFull,
)

LOCK = ".lock"
ELSEWHERE = "elsewhere.json"
CACHE = "OTOSCOPE_STORE_CACHE"
"""Names the folder that fetched shards are kept in; by default one beneath the user's cache."""

Described = Mapping[str, Any]
"""A file's `bytes` and `sha256`, as cards hold them."""


class Home(Protocol):
    """The files of one store, by the names that its cards give them."""

    @property
    def place(self) -> str:
        """Folder or address, as messages say it."""
        ...

    def fetch(self, relative: str, described: Described) -> Path:
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

    def describe(self, relative: str) -> dict[str, Any]:
        """Return a file's size and checksum, read from the file itself."""
        ...

    def remove(self, relative: str) -> None:
        """Remove a file, if it is there."""
        ...

    def names(self) -> list[str]:
        """Return the name of every file, sorted."""
        ...

    def sole_writer(self) -> AbstractContextManager[None]:
        """Keep other writers of the same store out, where the place can."""
        ...


def home_of(place: "str | Path | Home") -> Home:
    """Return the home of a store from its folder or its address (`s3://bucket/name`, `memory://name`, ...)."""
    if not isinstance(place, str | Path):
        return place
    if isinstance(place, str) and "://" in place and not place.startswith("file://"):
        return Remote.at(place)
    folder = Path(str(place).removeprefix("file://"))
    other = elsewhere(folder)
    return Folder(folder) if other is None else home_of(other)


def elsewhere(folder: Path) -> str | None:
    """Return the place that a folder points to in a store's stead."""
    path = folder / ELSEWHERE
    return str(read_json(path)["place"]) if path.is_file() else None


def point_elsewhere(folder: Path, place: str) -> None:
    """Let a folder point to a store at another place."""
    write_json(folder / ELSEWHERE, {"place": place})


def read_card(home: Home, relative: str) -> Any:
    """Read a JSON file; raise `IncompleteArtifact` if absent, `DamagedArtifact` if malformed."""
    try:
        return json.loads(home.read(relative))
    except ValueError as error:
        raise DamagedArtifact(
            f"{home.place}/{relative} is not valid JSON ({error}); delete it and extract again"
        ) from error


def write_card(home: Home, relative: str, value: object) -> None:
    """Publish a JSON file."""
    with home.publish(relative) as temporary:
        write_json(temporary, value)


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, or one that several machines share."""

    folder: Path

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def fetch(self, relative: str, described: Described) -> Path:
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

    def describe(self, relative: str) -> dict[str, Any]:
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

    def names(self) -> list[str]:
        """List the folder, but for its lock."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.name != LOCK)
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    @contextmanager
    def sole_writer(self) -> Generator[None]:
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


@dataclass(frozen=True)
class Remote:
    """A place that fsspec reaches. `made` remembers what this process uploaded, so that it need not be read back."""

    place: str
    files: Any
    root: str
    made: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]], repr=False)

    @classmethod
    def at(cls, place: str) -> "Remote":
        """Connect to a place; credentials and endpoints come from the environment, as fsspec and s3fs document."""
        try:
            from fsspec.core import url_to_fs  # here: local stores need none of it
        except ImportError as error:
            raise MissingExtra(f"{place} needs fsspec; pip install otoscope[s3]") from error
        try:
            files, root = url_to_fs(place.rstrip("/"))
        except ImportError as error:
            raise MissingExtra(f"{place} needs a package of its own ({error}); for S3: otoscope[s3]") from error
        except ValueError as error:
            raise ConfigError(f"{place} is no address that fsspec knows ({error})") from error
        return cls(place.rstrip("/"), files, root)

    def __reduce__(self) -> tuple[Any, ...]:
        """Connect anew in another process."""
        return Remote.at, (self.place,)

    def fetch(self, relative: str, described: Described) -> Path:
        """Download a file, once for its checksum."""
        address = f"{self.place}/{relative}"
        kept = _cache() / "sha256" / str(described["sha256"])
        if kept.is_file() and kept.stat().st_size == described["bytes"]:
            return kept
        check_size(address, self.size(relative), described)
        with atomic(kept) as temporary, _told(address):
            self.files.get_file(self._at(relative), str(temporary))
            if digest(temporary) != described["sha256"]:
                raise DamagedArtifact(
                    f"{address} is damaged: its SHA-256 is not its card's; `otoscope store verify {self.place}` marks "
                    "what is damaged, then the next extraction writes it anew"
                )
        return kept

    def read(self, relative: str) -> bytes:
        """Download a file."""
        with _told(f"{self.place}/{relative}"):
            try:
                return bytes(self.files.cat_file(self._at(relative)))
            except FileNotFoundError as error:
                raise IncompleteArtifact(f"{self.place}/{relative} is missing; extract again to restore it") from error

    def size(self, relative: str) -> int | None:
        """Ask for a file's size."""
        with _told(f"{self.place}/{relative}"):
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
            self.made[relative] = {"bytes": temporary.stat().st_size, "sha256": digest(temporary)}
            with _told(f"{self.place}/{relative}"):
                self.files.makedirs(self._at(relative).rpartition("/")[0], exist_ok=True)
                self.files.put_file(str(temporary), self._at(relative))

    def describe(self, relative: str) -> dict[str, Any]:
        """Return what was uploaded; read it back where another process did."""
        if relative in self.made:
            return self.made[relative]
        with _told(f"{self.place}/{relative}"), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            self.files.get_file(self._at(relative), str(path))
            return {"bytes": path.stat().st_size, "sha256": digest(path)}

    def remove(self, relative: str) -> None:
        """Remove a file."""
        self.made.pop(relative, None)
        with _told(f"{self.place}/{relative}"), suppress(FileNotFoundError):
            self.files.rm_file(self._at(relative))

    def names(self) -> list[str]:
        """List everything beneath the address."""
        with _told(self.place):
            self.files.invalidate_cache()
            try:
                found = [str(path) for path in self.files.find(self.root)]
            except FileNotFoundError:
                return []
        return sorted(path.lstrip("/").removeprefix(self.root.lstrip("/")).lstrip("/") for path in found)

    @contextmanager
    def sole_writer(self) -> Generator[None]:
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


def check_size(name: str, size: int | None, described: Described) -> None:
    """Raise `DamagedArtifact` unless a file has the size that its card says."""
    if size is None:
        raise DamagedArtifact(f"{name} is missing; extract again to restore it")
    if size != described["bytes"]:
        raise DamagedArtifact(
            f"{name} has {size} bytes, its card says {described['bytes']}; extract again to restore it"
        )


def _cache() -> Path:
    given = os.environ.get(CACHE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "otoscope" / "stores"
