"""Rows of a store read in shuffled batches, compared with a copy of the same bytes from the page cache.

    python benchmarks/reading.py          # last line is JSON

Contenders take turns every few batches; ratios are medians over turns, so that other load affects all alike. `read`
copies as many bytes of a file, in order, into existing memory by a system call; `copy` copies them from a memory map.
`take` gathers rows shuffled over all shards, in batches of float32 as training does. All use one thread and are counted
in stored bytes per second: a float16 row leaves `take` at twice its size.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otoscope.activations.store import StoredRows
from otoscope.activations.tensorfile import PRECISIONS, MappedTensor, RowFile, map_tensor, to_stored
from otoscope.sae.data import Shuffle

SHARDS = 4
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TURN = 8
"""Batches per turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mb", type=int, default=200, help="stored megabytes per case")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: on a shared machine")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    found = [
        measure(dtype, width, mb=options.mb, rounds=options.rounds, batch=options.batch, clock=clock)
        for dtype in ("float32", "float16")
        for width in (384, 768, 1024)
    ]
    print("| precision | width | read, GB/s | copy, GB/s | take / read | take / copy |")
    print("|---|---|---|---|---|---|")
    for row in found:
        ratios = [row[f"{own}_to_{other}"] for own in ("take",) for other in ("read", "copy")]
        told = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {row['dtype']} | {row['width']} | {row['read']:.1f} | {row['copy']:.1f} | {told} |")
    print(json.dumps({"bench": "reading", "rows": found}))


def measure(dtype: str, width: int, *, mb: int, rounds: int, batch: int, clock: Callable[[], float]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="otoscope-reading-") as name:
        folder = Path(name)
        files = [folder / f"{shard}.safetensors" for shard in range(SHARDS)]
        wanted = mb * 10**6 // (SHARDS * width * np.dtype(PRECISIONS[dtype].mapped).itemsize)
        height = max(wanted, 2 * TURN * batch)  # a turn reads TURN batches from one shard
        for shard, path in enumerate(files):
            write(path, height, width, dtype, seed=shard)
        maps = [map_tensor(path, "frames") for path in files]
        rows = stored(maps, width, dtype)
        memory = np.ones_like(maps[0].values)
        spent: dict[str, list[float]] = {"read": [], "copy": [], "take": []}
        rows.take(np.arange(rows.height))  # every page is mapped
        with ExitStack() as stack:
            opened = [stack.enter_context(path.open("rb", buffering=0)) for path in files]
            for turn in range(rounds):
                order = Shuffle(rows.height, batch, seed=turn)
                for step in range(0, order.steps_per_epoch - TURN, TURN):
                    shard, row = step // TURN % SHARDS, step * batch // SHARDS % (height - TURN * batch)
                    file, some = opened[shard], memory[: TURN * batch]
                    stored_at = file.seek(0, 2) - memory.nbytes + row * memory.strides[0]
                    batches = [order.indices(step + i) for i in range(TURN)]

                    def read(file: Any = file, at: int = stored_at, some: Any = some) -> None:
                        file.seek(at)
                        file.readinto(some.reshape(-1).view(np.uint8))

                    def copy(shard: int = shard, row: int = row, some: Any = some) -> None:
                        np.copyto(some, maps[shard].values[row : row + len(some)])

                    def take(batches: Any = batches) -> None:
                        for indices in batches:
                            rows.take(indices)

                    for kind, work in (("read", read), ("copy", copy), ("take", take)):
                        spent[kind].append(timed(work, clock))
        return summed(dtype, width, batch, TURN * batch * memory.strides[0] / 1e9, spent)


def summed(dtype: str, width: int, batch: int, turn_gb: float, spent: dict[str, list[float]]) -> dict[str, Any]:
    speed = {name: round(turn_gb / statistics.median(times), 2) for name, times in spent.items()}
    ratios = {
        f"{own}_to_{other}": round(statistics.median(np.array(spent[other]) / np.array(spent[own])), 2)
        for own in ("take",)
        for other in ("read", "copy")
    }
    return {"dtype": dtype, "width": width, "batch": batch, **speed, **ratios}


def write(path: Path, height: int, width: int, dtype: str, *, seed: int) -> None:
    values = torch.randn(height, width, generator=torch.Generator().manual_seed(seed))
    with RowFile(path, name="frames", axes=(width,), dtype=dtype) as file:
        file.append(to_stored(values, dtype))


def stored(maps: list[MappedTensor], width: int, dtype: str) -> StoredRows:
    """Rows of clips of about 250 frames: five seconds at 50 frames per second."""
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


def timed(work: Callable[[], None], clock: Callable[[], float]) -> float:
    start_s = clock()
    work()
    return clock() - start_s


if __name__ == "__main__":
    main()
