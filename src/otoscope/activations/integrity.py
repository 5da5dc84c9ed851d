"""Whether what lies in a store is whole: shards and files held against their cards."""

from collections.abc import Mapping
from typing import Any

from otoscope.activations.format import shard_card_path
from otoscope.activations.storage.base import Storage, read_card
from otoscope.artifacts import check_size
from otoscope.errors import ArtifactError, DamagedArtifact


def read_complete_shard(
    home: Storage, shard: int, *, recipe: str, key: str | None, verify: bool
) -> dict[str, Any] | None:
    """Return the card of a finished shard of this recipe and key, or None when it has to be written (again)."""
    try:
        card = read_card(home, shard_card_path(shard))
        if card["recipe"] != recipe or (key is not None and card["key"] != key):
            return None
        check_files(home, card["files"], verify=verify)
    except (ArtifactError, KeyError, TypeError):
        return None
    return card


def check_files(home: Storage, files: Mapping[str, Mapping[str, Any]], *, verify: bool) -> None:
    """Raise `DamagedArtifact` naming the first file whose size, or with `verify` whose SHA-256, is not the card's."""
    for name, expected in files.items():
        check_size(f"{home.address}/{name}", home.size(name), expected)
        if verify and home.file_record(name)["sha256"] != expected["sha256"]:
            raise DamagedArtifact(
                f"{home.address}/{name} is damaged: its SHA-256 is not its card's; `otoscope store verify {home.address}` "
                "marks what is damaged, then the next extraction writes it anew"
            )
