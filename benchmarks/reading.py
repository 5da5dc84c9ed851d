"""Rows of a store read in shuffled batches, beside a plain copy of the same bytes from the page cache.

    python benchmarks/reading.py          # last line is JSON

Contenders take turns in one process and thread. `copy` copies every shard's tensor, mapped, in order, into memory that
is already there; `read` lets the system copy the files into that memory. `take` gathers every row once, in an order
shuffled over all shards, in batches of float32 as training does. All are counted in stored bytes a second: a float16
row leaves `take` at twice its size.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otoscope.activations.rows import StoredRows
from otoscope.activations.tensorfile import PRECISIONS, Mapped, RowFile, map_tensor, rounded
from otoscope.sae.rows import Order

SHARDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mb", type=int, default=200, help="stored megabytes a case")
    parser.add_argument("--batch", type=int, default=1024)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [
        measure(dtype, width, mb=options.mb, rounds=options.rounds, batch=options.batch)
        for dtype in ("float32", "float16")
        for width in (384, 768, 1024)
    ]
    print("| precision | width | read, GB/s | copy, GB/s | take, GB/s | take / read | take / copy |")
    print("|---|---|---|---|---|---|---|")
    for row in found:
        speeds = " | ".join(f"{row[name]:.1f}" for name in ("read", "copy", "take"))
        print(f"| {row['dtype']} | {row['width']} | {speeds} | {row['to_read']:.2f} | {row['to_copy']:.2f} |")
    print(json.dumps({"bench": "reading", "rows": found}))


def measure(dtype: str, width: int, *, mb: int, rounds: int, batch: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="otoscope-reading-") as name:
        folder = Path(name)
        files = [folder / f"{shard}.safetensors" for shard in range(SHARDS)]
        height = mb * 10**6 // (SHARDS * width * np.dtype(PRECISIONS[dtype].mapped).itemsize)
        for shard, path in enumerate(files):
            write(path, height, width, dtype, seed=shard)
        maps = [map_tensor(path, "frames") for path in files]
        rows = stored(maps, width, dtype)
        memory = np.ones_like(maps[0].values)
        orders = iter(range(10**6))

        def read() -> None:
            for path in files:
                with path.open("rb", buffering=0) as file:
                    file.seek(-memory.nbytes, 2)
                    file.readinto(memory.reshape(-1).view(np.uint8))  # type: ignore[arg-type]

        def copy() -> None:
            for mapped in maps:
                np.copyto(memory, mapped.values)

        def take() -> None:
            order = Order(rows.height, batch, seed=next(orders))
            order.indices(0)  # the epoch's table is made once an epoch, beside the reading
            start_s = time.perf_counter()
            for step in range(order.steps_per_epoch):
                rows.take(order.indices(step))
            spent["take"].append(time.perf_counter() - start_s)

        spent: dict[str, list[float]] = {"read": [], "copy": [], "take": []}
        take()
        spent["take"].clear()
        for _ in range(rounds):
            spent["read"].append(timed(read))
            spent["copy"].append(timed(copy))
            take()
        stored_gb = SHARDS * memory.nbytes / 1e9
        speed = {name: round(stored_gb / statistics.median(times), 2) for name, times in spent.items()}
        ratios = {
            f"to_{other}": round(statistics.median(o / t for o, t in zip(spent[other], spent["take"], strict=True)), 2)
            for other in ("read", "copy")
        }
        return {"dtype": dtype, "width": width, "batch": batch, **speed, **ratios}


def write(path: Path, height: int, width: int, dtype: str, *, seed: int) -> None:
    values = torch.randn(height, width, generator=torch.Generator().manual_seed(seed))
    with RowFile(path, name="frames", axes=(width,), dtype=dtype) as file:
        file.append(rounded(values, dtype))


def stored(maps: list[Mapped], width: int, dtype: str) -> StoredRows:
    """Rows of clips of about 250 frames, as five seconds at 50 frames a second are."""
    height = len(maps[0].values)
    edges = np.linspace(0, height, max(height // 250, 1) + 1).astype(np.int64)
    clips = len(edges) - 1
    return StoredRows(
        width=width,
        dtype=dtype,
        clip_ids=[str(i) for i in range(clips * SHARDS)],
        shard=np.repeat(np.arange(SHARDS), clips),
        first=np.tile(edges[:-1], SHARDS),
        frames=np.tile(np.diff(edges), SHARDS),
        tensor=maps.__getitem__,
        layer=0,
    )


def timed(work: Callable[[], None]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
