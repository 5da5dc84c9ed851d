"""What a verification found damaged, kept in the store until an extraction has written it anew.

Hashing a large store at every run would cost more than most runs, so extraction looks at sizes only. The mark carries
what a verification learnt from the bytes over to the next extraction. Once the bytes are whole again the mark becomes a
count, so that what was computed from the damaged ones is told from what is computed now.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from otoscope.activations.format import DAMAGED, MENDED
from otoscope.activations.manifest import files_of, read_manifest
from otoscope.activations.storage.base import Storage, read_card, write_card
from otoscope.artifacts import check_size
from otoscope.errors import ArtifactError, DamagedArtifact


def verify_files(home: Storage) -> list[str]:
    """Recompute every checksum, mark what is damaged (where the store can be written), and say what is wrong."""
    wrong: list[str] = []
    damaged: dict[str, Any] = {}
    for name, described in files_of(read_manifest(home)).items():
        try:
            check_size(f"{home.address}/{name}", home.size(name), described)
            if home.file_record(name)["sha256"] != described["sha256"]:
                raise DamagedArtifact(f"{home.address}/{name} is damaged: its SHA-256 is not its card's")
        except DamagedArtifact as error:
            wrong.append(str(error).removesuffix("; extract again to restore it"))
            damaged[name] = described
    with suppress(ArtifactError, OSError):  # a store that one may only read can still be verified
        _mark(home, damaged)
    return wrong


def clear_marks(home: Storage) -> None:
    """Take the mark away: what it names is whole again."""
    if is_marked(home):
        _count(home, read_card(home, DAMAGED))
        home.remove(DAMAGED)


def is_marked(home: Storage) -> bool:
    """Whether a verification found damage that no extraction has mended since."""
    return home.size(DAMAGED) is not None


def spoiled_shards(home: Storage) -> set[int]:
    """Return the numbers of the shards with a marked file that is still not as it should be."""
    if not is_marked(home):
        return set()
    return {
        int(PurePosixPath(name).stem.rpartition("-")[2])
        for name, described in read_card(home, DAMAGED).items()
        if "/" in name and not _is_as(home, name, described)
    }


def mended(home: Storage) -> dict[str, int]:
    """Return how often each file was found damaged and has been whole again since."""
    return read_card(home, MENDED) if home.size(MENDED) is not None else {}


def _mark(home: Storage, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Leave word of damaged files, each with the size and checksum that it should have; none: the mark goes."""
    if not files:
        clear_marks(home)
        return
    if is_marked(home):
        _count(home, read_card(home, DAMAGED).keys() - files.keys())
    write_card(home, DAMAGED, {name: {key: files[name][key] for key in ("bytes", "sha256")} for name in files})


def _count(home: Storage, names: Iterable[str]) -> None:
    """Count once more files that are whole again; before the mark goes, so that a kill counts twice and never not."""
    counts = mended(home)
    again = {name: counts.get(name, 0) + 1 for name in names}
    if again:
        write_card(home, MENDED, counts | again)


def _is_as(home: Storage, name: str, described: Mapping[str, Any]) -> bool:
    try:
        return home.size(name) == described["bytes"] and home.file_record(name)["sha256"] == described["sha256"]
    except (ArtifactError, OSError):
        return False
