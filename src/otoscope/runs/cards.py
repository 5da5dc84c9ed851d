"""Cards of stages and cached results: fingerprint of the inputs, and checksums of the files.

A card is written last, so an item whose computation was killed counts as missing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from otoscope.artifacts import digest, fingerprint, read_json_as, remove_file, resolve_inside, write_json
from otoscope.errors import ArtifactError

LARGE_BYTES = 4_000_000
"""Size above which an unchanged time stands for unchanged content: an up-to-date run hashes smaller files only."""

Outputs = Sequence[Path] | Mapping[Path, str | None]
"""Files of a stage, or each with its SHA-256 if it is known."""


class StageCard(TypedDict):
    """Card of a cached item: fingerprint of its inputs, and the SHA-256 of each file, by path relative to a root."""

    inputs: str
    outputs: dict[str, str]
    checksum: str
    """Fingerprint of both, so that a card that lost an entry is not taken for whole."""
    times: NotRequired[dict[str, tuple[int, int]]]
    """Size in bytes and time of the last change, in nanoseconds, of each file above `LARGE_BYTES`."""


def is_current(card: Path, *, inputs: str, root: Path) -> bool:
    """Return whether a card names these inputs and all of its files still have the digests that it lists."""
    content = read_card(card)
    return content is not None and content["inputs"] == inputs and not changed_files(content, root)


def read_card(card: Path) -> StageCard | None:
    """Read the card of a cached item; None if it is missing or damaged, so that the item is computed again."""
    try:
        content = read_json_as(card, StageCard)
    except ArtifactError:
        return None
    return content if content["checksum"] == fingerprint(content["inputs"], content["outputs"]) else None


def changed_files(content: StageCard, root: Path) -> list[str]:
    """Return the files of a card that are missing or have other content."""
    times = content.get("times", {})
    return [name for name, sha in content["outputs"].items() if not is_whole(root, name, sha, times.get(name))]


def is_whole(root: Path, name: str, sha256: str, times: tuple[int, int] | None = None) -> bool:
    """Return whether a file that a card names has its content.

    A large file with the size and the time of the card counts as unchanged; every other file is hashed.
    """
    try:
        path = resolve_inside(root, name)
        return path.is_file() and ((times is not None and _times(path) == tuple(times)) or digest(path) == sha256)
    except (ArtifactError, OSError):
        return False


def remove_changed(card: Path, *, root: Path) -> None:
    """Remove the files of a card that have other content, and links in their place; names outside `root` stay."""
    content = read_card(card)
    for name in [] if content is None else changed_files(content, root):
        try:
            path = resolve_inside(root, name, follow_links=True)
            resolve_inside(root, str(Path(name).parent / "x"))  # a link is removed, but not what lies behind one
        except ArtifactError:
            continue
        remove_file(path)


def _times(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def write_card(card: Path, *, inputs: str, root: Path, outputs: Outputs, **facts: object) -> None:
    """Write the card of computed files; `outputs` may map them to their digests, where these are known."""
    known: Mapping[Path, str | None] = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs)
    names = {path: path.relative_to(root).as_posix() for path in known}
    large = {name: _times(path) for path, name in names.items() if path.stat().st_size > LARGE_BYTES}
    digests = {name: known[path] or digest(path) for path, name in names.items()}
    checksum = fingerprint(inputs, digests)
    write_json(card, {"inputs": inputs, "outputs": digests, "checksum": checksum, "times": large, **facts})
