"""The manifest of a whole store, and stores that an earlier release wrote."""

from collections.abc import Mapping
from typing import Any

from otoscope.activations.home import Home, read_card
from otoscope.activations.layout import CARD, CLIPS, FORMAT, MANIFEST, SET_ASIDE, shard_card_path, table_path
from otoscope.errors import DamagedArtifact, IncompleteArtifact


def read_manifest(home: Home) -> dict[str, Any]:
    """Read the manifest; raise `IncompleteArtifact` where there is none, `DamagedArtifact` where it is no manifest."""
    try:
        card = read_card(home, MANIFEST)
    except IncompleteArtifact as error:
        begun = "was begun but never finished" if home.size(CARD) is not None else "holds no activations"
        raise IncompleteArtifact(
            f"{home.place} {begun}; run the extraction (again), it goes on where it was"
        ) from error
    if not isinstance(card, dict) or card.get("format") not in (1, FORMAT) or "shards" not in card:
        raise DamagedArtifact(f"{home.place}/{MANIFEST} is no manifest of format {FORMAT}; extract again")
    return card if card["format"] == FORMAT else _of_format_2(card)


def files_of(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every file that a manifest names, but for the store's own card, with its size and checksum."""
    tables = {table["file"]: table for table in manifest["tables"].values()}
    return tables | {
        name: described
        for shard in manifest["shards"]
        for name, described in ({shard_card_path(shard["shard"]): shard["card"]} | shard["files"]).items()
    }


def _of_format_2(card: dict[str, Any]) -> dict[str, Any]:
    """Describe a store of format 1, whose shards held the clips of one corpus, in the terms of format 2."""
    tables = {name: {"file": table_path(name, 0), **card["tables"][table_path(name, 0)]} for name in (CLIPS, SET_ASIDE)}
    shards = [{**shard, "listed": shard["clips"], "segments": 0} for shard in card["shards"]]
    return {**card, "generation": 0, "segments": None, "tables": tables, "shards": shards}
