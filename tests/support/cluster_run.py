"""Run a small study here and on a Ray cluster of this machine; prints one JSON line. In a process of its own."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from otoscope.config import load_config
from otoscope.executors.base import Executor, LocalExecutor
from otoscope.pipeline.run import run
from tests.support.small_runs import FOLDER, write_config, write_voices
from tests.support.tiny import write_tiny_checkpoint


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern)) if path.is_file()}


def both_ways(folder: Path, sections: dict[str, Any]) -> dict[str, Any]:
    from otoscope.executors.ray import RayExecutor

    write_voices(folder / "voices", takes=2)
    model = write_tiny_checkpoint("hubert", folder / "model")
    config = load_config(write_config(folder / "small.yaml", model, FOLDER, **sections))
    executors: dict[str, Executor] = {"here": LocalExecutor(), "there": RayExecutor(workers=2)}
    seconds: dict[str, float] = {}
    for name, executor in executors.items():
        start_s = time.monotonic()
        run(config, folder / name, until="evaluate", executor=executor)
        seconds[name] = round(time.monotonic() - start_s, 1)
    differ: dict[str, list[str]] = {}
    for pattern in ("activations/**/*", "saes/*/sae.safetensors", "factors.parquet", "results.parquet"):
        here, there = files(folder / "here", pattern), files(folder / "there", pattern)
        differ[pattern] = sorted(n for n in here.keys() | there.keys() if here.get(n) != there.get(n))
    return {"differ": differ, "seconds": seconds, "saes": len(files(folder / "here", "saes/*/sae.safetensors"))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    kept = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.write(kept, json.dumps(both_ways(Path(sys.argv[1]), json.loads(sys.argv[2]))).encode())
