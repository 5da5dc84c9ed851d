"""Integrity of stored files: sizes, checksums, and marks of damage.

Extraction checks sizes only, since hashing a large store in every run would cost more than most runs. `verify_files`
hashes everything and marks damaged files in the store; the next extraction rewrites their shards and clears the marks.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from otoscope.activations.cards import Manifest, StoredFile, read_card, read_shard_card, write_card
from otoscope.activations.format import DAMAGED, MANIFEST, REPAIRED, is_store_file
from otoscope.activations.manifest import files_of, read_manifest
from otoscope.activations.storage.base import Storage
from otoscope.artifacts import FileRecord, check_size
from otoscope.errors import ArtifactError, DamagedArtifact, IncompleteArtifact


def check_file(storage: Storage, name: str, record: FileRecord, *, verify: bool) -> None:
    """Raise `DamagedArtifact` if the size of a file, or with `verify` its SHA-256, differs from its record."""
    check_size(f"{storage.address}/{name}", storage.size(name), record)
    if verify and storage.file_record(name)["sha256"] != record["sha256"]:
        raise DamagedArtifact(
            f"{storage.address}/{name} is damaged: its SHA-256 differs from its card; run `otoscope store verify "
            f"{storage.address}` to mark the damage, then extract again"
        )


def check_files(storage: Storage, files: Mapping[str, FileRecord], *, verify: bool) -> None:
    """Check several files; raise `DamagedArtifact` for the first that is damaged."""
    for name, record in files.items():
        check_file(storage, name, record, verify=verify)


def tables_complete(storage: Storage) -> bool:
    """Return whether the tables in the manifest exist at their full size."""
    try:
        tables = read_card(storage, MANIFEST, Manifest)["tables"].values()
        check_files(storage, {table["file"]: table for table in tables}, verify=False)
    except ArtifactError:
        return False
    return True


def read_complete_shard(
    storage: Storage, shard: int, *, spec_id: str, key: str | None, verify: bool
) -> dict[str, Any] | None:
    """Return the card of a complete shard with this specification and key; None if it has to be written."""
    try:
        card = read_shard_card(storage, shard)
        if card["spec_id"] != spec_id or (key is not None and card["key"] != key):
            return None
        check_files(storage, card["files"], verify=verify)
    except ArtifactError:
        return None
    return card


def verify_files(storage: Storage) -> list[str]:
    """Recompute every checksum, mark damaged files if the store is writable, and return one message per file."""
    messages: list[str] = []
    damaged: dict[str, Any] = {}
    for name, record in files_of(read_manifest(storage)).items():
        try:
            check_file(storage, name, record, verify=True)
        except DamagedArtifact as error:
            messages.append(str(error).partition(";")[0])
            damaged[name] = {key: record[key] for key in ("bytes", "sha256")}
    with suppress(ArtifactError, OSError):  # read-only stores can be verified too
        if damaged:
            write_card(storage, DAMAGED, damaged)
        else:
            clear_marks(storage)
    return messages


def clear_marks(storage: Storage) -> None:
    """Remove the marks of damage, and count the repair of each file that was marked.

    Results that were computed from damaged bytes have the checksums of the intact ones; the count makes them stale.
    """
    if is_marked(storage):
        repairs = Counter(read_repairs(storage))
        with suppress(DamagedArtifact):
            repairs.update(read_card(storage, DAMAGED, dict[str, StoredFile]).keys())
        write_card(storage, REPAIRED, dict(sorted(repairs.items())))
        storage.remove(DAMAGED)


def read_repairs(storage: Storage) -> dict[str, int]:
    """Return the number of repairs of each file that was ever damaged."""
    try:
        return read_card(storage, REPAIRED, dict[str, int])
    except IncompleteArtifact:
        return {}


def is_marked(storage: Storage) -> bool:
    """Return whether a verification found damage that no extraction has repaired since."""
    return storage.size(DAMAGED) is not None


def damaged_shards(storage: Storage) -> set[int]:
    """Return the numbers of the shards with a marked file that is still damaged."""
    if not is_marked(storage):
        return set()
    try:
        marked = read_card(storage, DAMAGED, dict[str, StoredFile])
    except DamagedArtifact:  # the list of damage is damaged itself
        verify_files(storage)
        return damaged_shards(storage)
    return {
        int(PurePosixPath(name).stem.rpartition("-")[2])
        for name, record in marked.items()
        if "/" in name and is_store_file(name) and not _is_intact(storage, name, record)
    }


def _is_intact(storage: Storage, name: str, record: FileRecord) -> bool:
    try:
        check_file(storage, name, record, verify=True)
    except (ArtifactError, OSError):
        return False
    return True
