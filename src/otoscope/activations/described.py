"""What cards say of a file, held against the file."""

from collections.abc import Mapping
from typing import Any

from otoscope.errors import DamagedArtifact

Described = Mapping[str, Any]
"""A file's `bytes` and `sha256`, as cards hold them."""


def check_size(name: str, size: int | None, described: Described) -> None:
    """Raise `DamagedArtifact` unless a file has the size that its card says."""
    if size is None:
        raise DamagedArtifact(f"{name} is missing; extract again to restore it")
    if size != described["bytes"]:
        raise DamagedArtifact(
            f"{name} has {size} bytes, its card says {described['bytes']}; extract again to restore it"
        )
