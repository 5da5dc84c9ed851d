"""Files that know where they come from: atomic writes, JSON cards, fingerprints.

What cards say of a file, held against the file.
"""

import errno
import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from otoscope.errors import ArtifactError, DamagedArtifact, IncompleteArtifact, StaleArtifact, StorageFull

VERSIONED = ("otoscope", "torch", "transformers", "numpy", "scikit-learn", "soxr", "soundfile")
"""Packages whose release can change a number; every card names them."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def is_full(error: Exception) -> bool:
    """Say whether an error means that the device, the quota or the largest file size is used up.

    safetensors and Polars write from Rust and keep the system's error number in their text only.

    >>> is_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in NO_ROOM
    return any(f"(os error {number})" in str(error) for number in NO_ROOM)


@contextmanager
def atomic(path: Path) -> Generator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block succeeds.

    A reader sees the old file or the new one, never a part. Raises `StorageFull` when the
    device has no room and `ArtifactError` when the place cannot be written; the temporary file is
    removed after any failure.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
        if is_full(error):
            raise StorageFull(f"no room left to write {path}; free some space and run again") from error
        if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
            raise ArtifactError(f"{path} cannot be written ({error.strerror}); choose another folder") from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def canonical_json(value: object) -> str:
    """Return the one spelling of a JSON value that fingerprints are taken of.

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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment() -> dict[str, str]:
    """Return the installed release of every package that can change a number."""
    found: dict[str, str] = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically, indented, keys in the given order."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; raise `IncompleteArtifact` if absent, `DamagedArtifact` if malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise IncompleteArtifact(f"{path} is missing; run the stage that writes it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedArtifact(f"{path} is not valid JSON ({error}); delete it and run the stage again") from error


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Write a Parquet file atomically."""
    with atomic(path) as temporary:
        table.write_parquet(temporary, compression="zstd", statistics=False)


def read_table(path: Path) -> pl.DataFrame:
    """Read a Parquet file; raise `IncompleteArtifact` if absent, `DamagedArtifact` if malformed."""
    if not path.is_file():
        raise IncompleteArtifact(f"{path} is missing; run the stage that writes it")
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DamagedArtifact(
            f"{path} is not a whole Parquet file ({error}); delete it and run the stage again"
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically; arrays are made contiguous first."""
    with atomic(path) as temporary:
        save_file({k: np.asarray(v, order="C") for k, v in tensors.items()}, temporary, dict(metadata or {}))


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file; raise `IncompleteArtifact` if absent, `DamagedArtifact` if malformed."""
    if not path.is_file():
        raise IncompleteArtifact(f"{path} is missing; run the stage that writes it")
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedArtifact(
            f"{path} is not a whole safetensors file ({error}); delete it and run the stage again"
        ) from error


def require_fingerprint(path: Path, found: str, wanted: str) -> None:
    """Raise `StaleArtifact` unless an artifact carries the fingerprint that its reader expects."""
    if found != wanted:
        raise StaleArtifact(
            f"{path} was made from other inputs (fingerprint {found}, expected {wanted}); run its stage again"
        )


FileRecord = Mapping[str, Any]
"""A file's `bytes` and `sha256`, as cards hold them."""


def check_size(name: str, size: int | None, described: FileRecord) -> None:
    """Raise `DamagedArtifact` unless a file has the size that its card says."""
    if size is None:
        raise DamagedArtifact(f"{name} is missing; extract again to restore it")
    if size != described["bytes"]:
        raise DamagedArtifact(
            f"{name} has {size} bytes, its card says {described['bytes']}; extract again to restore it"
        )
