"""How much disk the study takes, and whether there is room for it."""

import shutil
from pathlib import Path

from otoscope.errors import StorageFull
from otoscope.protocols.mariotte2025.switches import Settings

FLOAT_BYTES = 4
TRAINING_COPIES = 4
"""Weights, their best so far, and Adam's two moments: what a dictionary that is at work may take on disk."""

ROOM = 1.2
"""Free disk that is asked for, over what is expected."""


def store_bytes(clips: int, layers: int, width: int) -> float:
    """Return the size of pooled states: every layer of every clip."""
    return clips * layers * width * FLOAT_BYTES


def dictionary_bytes(settings: Settings, width: int) -> float:
    """Return the size of one dictionary."""
    return (2 * settings.latents * width + settings.latents) * FLOAT_BYTES


def grid_bytes(settings: Settings, width: int, layers: int) -> float:
    """Return the size of the dictionaries of some layers, those of one layer at work."""
    dictionaries = len(settings.sparsities) * (layers + TRAINING_COPIES)
    return dictionaries * dictionary_bytes(settings, width)


def require_room(folder: Path, wanted: float, free_bytes: float | None = None) -> None:
    """Raise `StorageFull` unless the disk has room for what is wanted beyond what the folder holds already."""
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    missing = max(wanted - there, 0.0) * ROOM
    free_bytes = free(folder) if free_bytes is None else free_bytes
    if missing > free_bytes:
        raise StorageFull(
            f"{folder} needs about {missing / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB are free; "
            "choose another --out, or free some space"
        )


def free(folder: Path) -> float:
    """Return the free bytes of the device that a folder is or would be on."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return float(shutil.disk_usage(place).free)
