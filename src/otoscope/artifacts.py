"""Files of a run: atomic writes, validated JSON, names kept inside a folder, fingerprints, checks of size."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from types import GenericAlias
from typing import Any, Literal, TypeVar
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from otoscope.errors import ArtifactError, DamagedArtifact, IncompleteArtifact, StaleArtifact, StorageFull, quote
from otoscope.paths import open_regular
from otoscope.tables import read_parquet

Content = TypeVar("Content")

VERSIONED = ("otoscope", "torch", "transformers", "numpy", "scikit-learn", "soxr", "soundfile")
"""Packages whose version can change results; every card lists them."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def is_full(error: Exception) -> bool:
    """Return whether an error means that the device, the quota or the maximum file size is exhausted.

    safetensors and Polars write from Rust; their messages contain the system's error number as text.

    >>> is_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in NO_ROOM
    return any(f"(os error {number})" in str(error) for number in NO_ROOM)


def is_exhausted(error: Exception) -> bool:
    """Return whether an error means that memory, the disk, open files or threads are exhausted, whatever the input.

    >>> is_exhausted(MemoryError()), is_exhausted(OSError(errno.EMFILE, "Too many open files")), is_exhausted(OSError())
    (True, True, False)
    """
    is_out = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
    no_thread = isinstance(error, RuntimeError) and "can't start new thread" in str(error)
    return isinstance(error, MemoryError) or is_out or no_thread or is_full(error)


@contextmanager
def atomic(path: Path) -> Generator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` when the block succeeds.

    Readers see the old or the new file, never a partial one. Raises `StorageFull` if the device is
    full and `ArtifactError` if the folder is not writable; the temporary file is removed after any failure.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        make_folder(path.parent)
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
        if is_full(error):
            raise StorageFull(f"no room left to write {path}; free some space and run again") from error
        if isinstance(error, OSError) and path.is_dir() and not path.is_symlink():
            raise ArtifactError(f"{path} is a folder, where a file is written; remove it and run again") from error
        if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
            raise ArtifactError(f"{path} cannot be written ({error.strerror}); choose another folder") from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Create a folder and its parents unless they exist; raise `ArtifactError` for a file in its place."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ArtifactError(f"{path} is no folder, but a folder is needed there; move it away and run again") from error


def remove_file(path: Path) -> None:
    """Remove a file or link, if it exists; raise `ArtifactError` for a folder in its place."""
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as error:
        if path.is_dir():
            raise ArtifactError(f"{path} is a folder where a file of otoscope belongs; move it away") from error
        raise


def canonical_json(value: object) -> str:
    """Return the canonical JSON text that fingerprints are computed from.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    '{"a":[1.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(*parts: object) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of JSON-able parts.

    >>> fingerprint({"k": 102}, "layer 3") == fingerprint({"k": 102}, "layer 3")
    True
    """
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment() -> dict[str, str]:
    """Return the installed version of every package that can change results."""
    found: dict[str, str] = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically, indented, keys in the given order."""
    content = json_bytes(value)
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def json_bytes(value: object) -> bytes:
    """Return the bytes of a JSON file: indented, keys in the given order."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file of any content; raise `IncompleteArtifact` if absent, `DamagedArtifact` if malformed."""
    try:
        return json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DamagedArtifact(f"{path} is not valid JSON ({error}); delete it and run the stage again") from error


def read_json_as(path: Path, kind: type[Content] | GenericAlias) -> Content:
    """Read a JSON file and validate it against a type: a Pydantic model, `typing_extensions.TypedDict`, ...

    Raises `IncompleteArtifact` if the file is absent, `DamagedArtifact` if it is malformed or of another shape.
    """
    return parse_json_as(_read_bytes(path), kind, name=str(path))


def parse_json_as(data: bytes, kind: type[Content] | GenericAlias, *, name: str) -> Content:
    """Validate JSON against a type; raise `DamagedArtifact` with `name`, the first wrong entry and its value.

    >>> parse_json_as(b'{"clips": 3}', dict[str, int], name="card.json")
    {'clips': 3}
    """
    try:
        return _validator(kind).validate_json(data, strict=True)
    except ValidationError as error:
        first, count = error.errors(include_url=False)[0], error.error_count()
        entry = ".".join(map(str, first["loc"])) or "the file"
        given = repr(first["input"]) if first["loc"] else f"{len(data)} bytes"
        others = f", and {count - 1} more" if count > 1 else ""
        raise DamagedArtifact(
            f"{name} is damaged: {entry} is {given[:80]}; {first['msg']}{others}; delete it and run its stage again"
        ) from error


@cache
def _validator(kind: Any) -> Any:  # `make shapes` cannot check a TypeAdapter
    return TypeAdapter(kind)


def _read_bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IncompleteArtifact(f"{path} is missing; run the stage that writes it") from error
    except OSError as error:
        raise DamagedArtifact(f"{path} cannot be read ({error.strerror}); remove it and run its stage again") from error


def resolve_inside(folder: Path, name: object, *, follow_links: bool = False) -> Path:
    """Return the path of a file that a manifest, card, table or index names, relative to its folder.

    Raises `DamagedArtifact` for a name that leads out of the folder: an absolute path, a `..`, or, unless
    `follow_links`, a link to another place.

    >>> resolve_inside(Path("run"), "saes/a/card.json").as_posix()
    'run/saes/a/card.json'
    """
    relative = check_name(folder, name)
    path = folder / relative
    if not follow_links:
        between = [path, *path.parents][: len(relative.parts)]
        # `Path.resolve` fails on links in a circle
        if any(map(os.path.islink, between)) and not Path(os.path.realpath(path)).is_relative_to(folder.resolve()):
            raise DamagedArtifact(f"{path} is a link out of {folder}; {_NOT_USED}")
    return path


def check_name(folder: Path | str, name: object) -> PurePath:
    """Return the name of a file relative to a folder or address; raise `DamagedArtifact` if it leads out of it.

    >>> check_name("s3://bucket/store", "shards/00000.json").as_posix()
    'shards/00000.json'
    """
    relative = PurePath(name) if isinstance(name, str) else PurePath()
    if not relative.parts or relative.anchor or ".." in relative.parts or "\0" in str(name):
        raise DamagedArtifact(f"{folder}: the file name {quote(name)} is not inside this folder; {_NOT_USED}")
    return relative


_NOT_USED = "it is neither read nor written; run the stage that wrote the name again"


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Write a Parquet file atomically."""
    content = table_bytes(table)
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def table_bytes(table: pl.DataFrame) -> bytes:
    """Return the bytes of a Parquet file; written by Polars, a full disk would be an error of the format."""
    content = io.BytesIO()
    table.write_parquet(content, compression="zstd", statistics=False)
    return content.getvalue()


def read_table(path: Path) -> pl.DataFrame:
    """Read a Parquet file; raise `IncompleteArtifact` if absent, `DamagedArtifact` if malformed."""
    if not path.is_file():
        raise IncompleteArtifact(f"{path} is missing; run the stage that writes it")
    try:
        return read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DamagedArtifact(
            f"{path} is not a complete Parquet file ({str(error)[:200]}); delete it and run the stage again"
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically; arrays are made contiguous first."""
    with atomic(path) as temporary:
        save_file({k: np.asarray(v, order="C") for k, v in tensors.items()}, temporary, dict(metadata or {}))


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file as arrays; raise `IncompleteArtifact` if absent, `DamagedArtifact` if malformed."""
    return read_safetensors(path, "np")


def read_safetensors(path: Path, framework: Literal["np", "pt"]) -> dict[str, Any]:
    """Read a safetensors file as NumPy arrays or as tensors; raise as `read_tensors` does."""
    if not path.is_file():
        raise IncompleteArtifact(f"{path} is missing; run the stage that writes it")
    try:
        with safe_open(path, framework=framework) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedArtifact(
            f"{path} is not a complete safetensors file ({error}); delete it and run the stage again"
        ) from error


def require_fingerprint(path: Path, actual: str, expected: str) -> None:
    """Raise `StaleArtifact` unless an artifact has the expected fingerprint."""
    if actual != expected:
        raise StaleArtifact(
            f"{path} was made from other inputs (fingerprint {actual}, expected {expected}); run its stage again"
        )


FileRecord = Mapping[str, Any]
"""`bytes` and `sha256` of a file, from a card."""


def check_size(name: str, size: int | None, described: FileRecord) -> None:
    """Raise `DamagedArtifact` unless a file has the size given in its card."""
    if size is None:
        raise DamagedArtifact(f"{name} is missing; extract again to restore it")
    if size != described["bytes"]:
        raise DamagedArtifact(
            f"{name} has {size} bytes, its card says {described['bytes']}; extract again to restore it"
        )
