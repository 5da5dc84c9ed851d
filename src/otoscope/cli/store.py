"""`otoscope store`: look after activations."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from otoscope.errors import ArtifactError, DamagedArtifact

Place = Annotated[
    str, typer.Argument(help="a store, or a run folder: a path or an address (s3://...)", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="end with one JSON line on standard output")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would go, remove nothing")]
Compact = Annotated[
    bool, typer.Option("--compact", help="first copy what is listed out of shards of which most is not")
]

SHOWN = 5
"""Files named before the rest is only counted."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    store = typer.Typer(
        help="Look after stored activations.\n\nExample: `otoscope store info runs/demo`", no_args_is_help=True
    )
    store.command("info", help="Say what a store holds.\n\nExample: `otoscope store info runs/demo`")(_info)
    store.command(
        "verify",
        help="Recompute every checksum; the exit code is 0 only when the store is whole.\n\n"
        "Example: `otoscope store verify s3://bucket/run1`",
    )(_verify)
    store.command(
        "merge",
        help="Copy the clips of one or several stores of one recipe into a new one, checking every byte.\n\n"
        "Example: `otoscope store merge all part1 part2`",
    )(_merge)
    store.command(
        "gc",
        help="Remove what no manifest needs: leftovers of killed runs, shards and tables of clips that left.\n\n"
        "With --compact what is listed also moves out of shards of which most is not.\n\n"
        "Example: `otoscope store gc runs/demo --dry-run`",
    )(_gc)
    app.add_typer(store, name="store")


def _info(place: Place, as_json: Json = False) -> None:
    from otoscope.activations.maintain import store_info  # here, so that --help does not wait for torch

    found = store_info(_store_of(place))
    if as_json:
        print(json.dumps(found))
        return
    encoder, layers = found["encoder"], found["layers"]
    print(f"{found['place']}: {encoder['name']} ({encoder['revision'][:12]}), fingerprint {found['fingerprint']}")
    print(f"layers {', '.join(layers)} of width {', '.join(map(str, sorted(set(layers.values()))))}, {found['dtype']}")
    clips = (
        f"{found['clips']:,} clips, {found['hours']:,.2f} h of sound, {found['set_aside']:,} set aside in extraction"
    )
    print(f"{clips}; {found['frames']:,} frames and {found['segments']:,} segments a layer; {found['shards']:,} shards")
    sizes = ", ".join(f"{kind} {_size(size)}" for kind, size in sorted(found["bytes"].items()))
    print(f"{_size(found['bytes_total'])}: {sizes}")
    if found["clips_dropped"]:
        dropped = found["clips_dropped"]
        stored, left = ("clip is", "it") if dropped == 1 else ("clips are", "they")
        print(f"{dropped:,} {stored} stored and no longer listed: {left} left the corpus or changed")


def _verify(place: Place, as_json: Json = False) -> None:
    from otoscope.activations.maintain import is_known_damaged, is_merged, verify_store

    where = _store_of(place)
    wrong = verify_store(where)
    if as_json:
        print(json.dumps({"place": str(where), "whole": not wrong, "wrong": wrong}))
    if wrong:
        some = "\n".join(wrong[:SHOWN]) + (f"\nand {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
        if is_merged(where):
            remedy = "a merged store has no configuration that could write it anew: merge again, into a new place"
        elif is_known_damaged(where):
            remedy = "marked; the next `otoscope extract` (or `run`) writes the shards concerned anew"
        else:
            remedy = "the store cannot be written, so the damage is not marked; verify again from where it can"
        raise DamagedArtifact(f"{some}\n{remedy}")
    if not as_json:
        print(f"{where}: every file is as it was written")


def _merge(
    into: Annotated[str, typer.Argument(help="where the new store goes", show_default=False)],
    places: Annotated[list[str], typer.Argument(help="stores or run folders, one or more", show_default=False)],
    as_json: Json = False,
) -> None:
    from otoscope.activations.maintain import merge_stores
    from otoscope.formatting import count

    store = merge_stores(into, [_store_of(place) for place in places])
    if as_json:
        print(json.dumps({"place": store.folder, "clips": len(store.clip_ids), "fingerprint": store.fingerprint}))
    else:
        print(f"{store.folder}: {len(store.clip_ids):,} clips of {count(len(places), 'store')}")


def _gc(place: Place, dry_run: DryRun = False, compact: Compact = False, as_json: Json = False) -> None:
    from otoscope.activations.compact import Compacted
    from otoscope.activations.compact import compact_store as compacted
    from otoscope.activations.maintain import collect_garbage
    from otoscope.formatting import count

    moved = compacted(_store_of(place), dry_run=dry_run) if compact else Compacted([], 0)
    cleared = collect_garbage(_store_of(place), dry_run=dry_run)
    if as_json:
        told: dict[str, Any] = {
            "files": len(cleared.files),
            "bytes": cleared.bytes,
            "waiting": cleared.waiting,
            "sharing": cleared.sharing,
            "compacted": moved.shards,
        }
        print(json.dumps({**told, "removed": not dry_run}))
        return
    if moved.shards:
        would = "would be written anew" if dry_run else "written anew"
        print(f"{count(len(moved.shards), 'shard')} {would} without {count(moved.clips, 'clip')} no longer listed")
    verb = "would go" if dry_run else "removed"
    print(f"{count(len(cleared.files), 'file')}, {_size(cleared.bytes)} {verb}")
    if cleared.sharing:
        what = count(cleared.sharing, "clip")
        print(f"{what} no longer listed cannot go alone: listed clips lie in the same shards")
    if cleared.waiting:
        print(f"more may wait: {cleared.waiting}")


def _store_of(place: str) -> str | Path:
    """Return the store in a run folder, or the place itself."""
    if "://" in place:
        return place
    folder = Path(place)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ArtifactError(f"{folder} {what}; give the folder of a run or of a store, or an address (s3://...)")
    inside = folder / "activations"
    return inside if inside.is_dir() else folder


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
