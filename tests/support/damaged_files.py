"""Seeded damage to one artifact: other bytes, JSON or tables, and folders, pipes and links in its place."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

SECRET = "not for the page"
"""Content of `secret.txt`, next to the damaged folder: links and names of files may lead there."""

Change = Callable[[Path, random.Random], None]


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"x")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))] if data else b"x")


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def append(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(20))


def noise(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(200))


def folder_instead(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    if rng.random() < 0.5:
        (path / "mine.txt").write_text("mine")


def pipe_instead(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def link_out(path: Path, rng: random.Random) -> None:
    path.unlink()
    root = next(parent for parent in path.parents if (parent / "secret.txt").is_file())
    path.symlink_to(rng.choice([root / "secret.txt", root / "nowhere", root, path]))


SHAPES: tuple[Any, ...] = ([], None, "x", {}, 3, True, [[]], {"outputs": 3}, 1e308, "../../secret.txt", -1)


def other_shape(path: Path, rng: random.Random) -> None:
    texts = [json.dumps(shape) for shape in SHAPES] + ["[" * 5000 + "]" * 5000, '{"a": ' * 2000 + "1" + "}" * 2000, ""]
    path.write_text(rng.choice(texts))


def other_entry(path: Path, rng: random.Random) -> None:
    """Replace, remove or add one entry of a JSON file, at any depth."""
    value = json.loads(path.read_text())
    places = list(_places(value))
    if not places:
        return other_shape(path, rng)
    container, key = rng.choice(places)
    if rng.random() < 0.3:
        del container[key]
    else:
        container[key] = rng.choice(SHAPES)
    return path.write_text(json.dumps(value)) and None


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def other_table(path: Path, rng: random.Random) -> None:
    """Change a table: other columns, types, values, no rows."""
    table = pl.read_parquet(path)
    column = rng.choice(table.columns)
    changes: list[Callable[[], pl.DataFrame]] = [
        lambda: table.drop(column),
        lambda: table.head(0),
        lambda: table.with_columns(pl.lit(3).alias(column)),
        lambda: table.with_columns(pl.lit("../../secret.txt").alias(column)),
        lambda: table.with_columns(pl.lit(None).alias(column)),
        lambda: pl.concat([table, table]),
        lambda: pl.DataFrame({"x": [1]}),
    ]
    rng.choice(changes)().write_parquet(path)


ANY: tuple[Change, ...] = (flip, cut, remove, append, noise, folder_instead, pipe_instead, link_out)

BY_SUFFIX: dict[str, tuple[Change, ...]] = {
    ".json": (other_shape, other_entry, other_entry),
    ".parquet": (other_table,),
}


def change_for(path: Path, rng: random.Random) -> Change:
    """Choose a change of a file: half of the time one that fits its content."""
    special = BY_SUFFIX.get(path.suffix, ())
    return rng.choice((*special, *ANY) if rng.random() < 0.5 or not special else special)
