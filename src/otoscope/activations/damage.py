"""What a verification found damaged, kept in the store until an extraction has written it anew.

Hashing a large store at every run would cost more than most runs, so extraction looks at sizes only. The mark carries
what a verification learnt from the bytes over to the next extraction.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from otoscope.activations.home import Home, read_card, write_card
from otoscope.activations.layout import DAMAGED
from otoscope.errors import ArtifactError


def mark(home: Home, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Leave word of damaged files, each with the size and checksum that it should have."""
    write_card(home, DAMAGED, {name: {key: files[name][key] for key in ("bytes", "sha256")} for name in files})


def forget(home: Home) -> None:
    """Take the mark away."""
    home.remove(DAMAGED)


def is_marked(home: Home) -> bool:
    """Whether a verification found damage that no extraction has mended since."""
    return home.size(DAMAGED) is not None


def spoiled_shards(home: Home) -> set[int]:
    """Return the numbers of the shards with a marked file that is still not as it should be."""
    if not is_marked(home):
        return set()
    return {
        int(PurePosixPath(name).stem.rpartition("-")[2])
        for name, described in read_card(home, DAMAGED).items()
        if "/" in name and not _is_as(home, name, described)
    }


def _is_as(home: Home, name: str, described: Mapping[str, Any]) -> bool:
    try:
        return home.size(name) == described["bytes"] and home.describe(name)["sha256"] == described["sha256"]
    except (ArtifactError, OSError):
        return False
