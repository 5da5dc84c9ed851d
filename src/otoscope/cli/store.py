"""Commands `otoscope store ...`: inspect and maintain activation stores."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from otoscope.errors import ArtifactError, DamagedArtifact

Place = Annotated[
    str, typer.Argument(help="a store or run folder: a path or an address (s3://...)", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON line on standard output")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="list what would be removed, remove nothing")]
Compact = Annotated[bool, typer.Option("--compact", help="first copy listed clips out of mostly unlisted shards")]

MAX_SHOWN = 5
"""Files of others, or damaged, named in a message; the others are counted."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    store = typer.Typer(
        help="Inspect and maintain stored activations.\n\nExample: `otoscope store info runs/demo`",
        no_args_is_help=True,
    )
    store.command("info", help="Summarise a store.\n\nExample: `otoscope store info runs/demo`")(_info)
    store.command(
        "verify",
        help="Recompute every checksum; the exit code is 0 only if the store is intact.\n\n"
        "Example: `otoscope store verify s3://bucket/run1`",
    )(_verify)
    store.command(
        "merge",
        help="Copy the clips of stores with the same settings into a new store, checking every checksum.\n\n"
        "Example: `otoscope store merge all part1 part2`",
    )(_merge)
    store.command(
        "gc",
        help="Remove unneeded files: leftovers of killed runs, shards and tables of clips that left the corpus.\n\n"
        "With --compact, listed clips are first copied out of mostly unlisted shards.\n\n"
        "Example: `otoscope store gc runs/demo --dry-run`",
    )(_gc)
    app.add_typer(store, name="store")


def _info(place: Place, as_json: Json = False) -> None:
    from otoscope.activations.maintain import store_info  # here, so that --help does not import torch
    from otoscope.formatting import count

    summary = store_info(_store_of(place))
    if as_json:
        print(json.dumps(summary))
        return
    encoder, layers = summary["encoder"], summary["layers"]
    widths = ", ".join(map(str, sorted(set(layers.values()))))
    print(f"{summary['place']}: {encoder['name']} ({encoder['revision'][:12]}), fingerprint {summary['fingerprint']}")
    print(f"layers {', '.join(layers)} of width {widths}, {summary['dtype']}")
    print(
        f"{count(summary['clips'], 'clip')}, {summary['hours']:,.2f} h of sound, {summary['set_aside']:,} set aside in "
        f"extraction; {count(summary['frames'], 'frame')} and {count(summary['segments'], 'segment')} per layer; "
        f"{count(summary['shards'], 'shard')}"
    )
    sizes = ", ".join(f"{kind} {_size(size)}" for kind, size in sorted(summary["bytes"].items()))
    print(f"{_size(summary['bytes_total'])}: {sizes}")
    if summary["clips_dropped"]:
        dropped = summary["clips_dropped"]
        stored, left = ("clip is", "it") if dropped == 1 else ("clips are", "they")
        print(f"{dropped:,} {stored} stored but no longer listed: {left} left the corpus or changed")


def _verify(place: Place, as_json: Json = False) -> None:
    from otoscope.activations.maintain import is_known_damaged, is_merged, verify_store

    where = _store_of(place)
    damaged = verify_store(where)
    if as_json:
        print(json.dumps({"place": str(where), "whole": not damaged, "wrong": damaged}))
    if damaged:
        hidden = len(damaged) - MAX_SHOWN
        shown = "\n".join(damaged[:MAX_SHOWN]) + (f"\nand {hidden} more" if hidden > 0 else "")
        if is_merged(where):
            remedy = "a merged store cannot be extracted again: merge again, into a new folder"
        elif is_known_damaged(where):
            remedy = (
                "marked; the next `otoscope extract` (or `run`) rewrites these shards, and whatever a run computed "
                "from these layers is then computed again"
            )
        else:
            remedy = "the store is read-only, so the damage is not marked; verify again with write access"
        raise DamagedArtifact(f"{shown}\n{remedy}")
    if not as_json:
        print(f"{where}: all files are intact")


def _merge(
    into: Annotated[str, typer.Argument(help="folder or address of the new store", show_default=False)],
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
    from otoscope.activations.maintain import CompactionReport, collect_garbage, compact_store
    from otoscope.formatting import count

    compacted = compact_store(_store_of(place), dry_run=dry_run) if compact else CompactionReport([], 0)
    cleared = collect_garbage(_store_of(place), dry_run=dry_run)
    if as_json:
        report: dict[str, Any] = {
            "files": len(cleared.files),
            "names": cleared.files,
            "foreign": cleared.foreign,
            "bytes": cleared.bytes,
            "waiting": cleared.waiting,
            "sharing": cleared.sharing,
            "compacted": compacted.shards,
        }
        print(json.dumps({**report, "removed": not dry_run}))
        return
    if compacted.shards:
        would = "would be rewritten" if dry_run else "rewritten"
        print(
            f"{count(len(compacted.shards), 'shard')} {would} without {count(compacted.clips, 'clip')} no longer listed"
        )
    for name in cleared.files:
        print(name)
    verb = "would be removed" if dry_run else "removed"
    print(f"{count(len(cleared.files), 'file')}, {_size(cleared.bytes)} {verb}")
    if cleared.sharing:
        what = count(cleared.sharing, "clip")
        print(f"{what} no longer listed cannot be removed alone: their shards hold listed clips too")
    if cleared.foreign:
        more = f" and {len(cleared.foreign) - MAX_SHOWN} more" if len(cleared.foreign) > MAX_SHOWN else ""
        print(f"not of otoscope, and left alone: {', '.join(cleared.foreign[:MAX_SHOWN])}{more}")
    if cleared.waiting:
        print(f"more may be removable: {cleared.waiting}")


def _store_of(place: str) -> str | Path:
    """Return the store in a run folder, or the address itself."""
    if "://" in place:
        return place
    from otoscope.paths import user_path

    folder = user_path(place)
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
