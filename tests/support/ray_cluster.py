"""Extract on a cluster of two nodes and break it; run as a module in a process of its own, it prints one JSON line.

Ray's own processes, sockets and shared memory are then gone with it, whatever happened.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from otoscope.activations.extract import iter_extract
from otoscope.activations.format import Sharding
from otoscope.activations.store import ActivationStore
from otoscope.encoders.base import Encoded
from otoscope.errors import ExecutorError
from otoscope.executors.base import LocalExecutor, run_tasks
from tests.support.activations import RATE_HZ, Toy, contents, corpus_of, noise, write_corpus

DEADLY = 0.9
"""A clip whose first sample is above this ends the process that encodes it, as a crash in a library does."""


@dataclass(frozen=True)
class Deadly(Toy):
    """A toy that does not survive some clips."""

    def encode(self, waves: Sequence[torch.Tensor], layers: Sequence[int]) -> Encoded:
        if any(float(wave[0]) > DEADLY for wave in waves):
            os._exit(139)
        return super().encode(waves, layers)


@dataclass(frozen=True)
class Meeting(Toy):
    """A toy whose processes wait for each other at their first batch, and for a sign at their second.

    However slowly one of two workers starts, both are in the middle of a shard when the sign is given.
    """

    meeting: str = ""
    calls: list[int] = field(default_factory=list)

    def encode(self, waves: Sequence[torch.Tensor], layers: Sequence[int]) -> Encoded:
        self.calls.append(len(waves))
        (Path(self.meeting) / f"{os.getpid()}.here").touch()
        wait_for(lambda: len(list(Path(self.meeting).glob("*.here"))) >= 2)
        if len(self.calls) > 1:
            wait_for((Path(self.meeting) / "sign").exists)
        return super().encode(waves, layers)


def wait_for(there: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 400
    while not there():
        if time.monotonic() > deadline_s:
            raise TimeoutError("nobody came")
        time.sleep(0.05)


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Start a head without workers and two nodes of one worker each."""
    import ray
    from ray.cluster_utils import Cluster

    room = {"object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **room})
    try:
        nodes = [cluster.add_node(num_cpus=1, **room) for _ in range(2)]
        yield cluster, nodes
    finally:
        ray.shutdown()
        cluster.shutdown()


def run(root: Path, folder: Path, executor: Any, encoder: Toy, **options: Any) -> Iterator[Any]:
    return iter_extract(
        corpus_of(root),
        encoder,
        folder,
        layers=[0, 2],
        batch_s=1.0,
        sharding=Sharding(shard_clips=6, window_s=1.0),
        threads=1,
        executor=executor,
        **options,
    )


def lose_a_node(root: Path, folder: Path, executor: Any, cluster: Any, node: Any) -> dict[str, Any]:
    """Kill one of two nodes once both have told of a batch; the run must end by itself with the local bytes."""
    meeting = folder / "meeting"
    meeting.mkdir()
    heard: set[int] = set()
    last = None
    for last in run(root, folder / "two", executor, Meeting(meeting=str(meeting))):
        if last.clips_new:
            heard.add(last.shard)
        if len(heard) >= 2 and not (meeting / "sign").exists():
            cluster.remove_node(node, allow_graceful=False)
            (meeting / "sign").touch()
    killed = (meeting / "sign").exists()
    for _ in run(root, folder / "one", LocalExecutor(), Toy()):
        pass
    assert last is not None
    one, two = contents(folder / "one"), contents(folder / "two")
    differ = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    return {"killed": killed, "differ": differ, "clips": last.clips, "of": last.clips_total}


def meet_a_deadly_clip(root: Path, folder: Path, executor: Any) -> dict[str, Any]:
    for _ in run(root, folder / "deadly", executor, Deadly(), max_set_aside=0.5):
        pass
    store = ActivationStore.open(folder / "deadly", verify=True)
    return {"aside": store.set_aside.rows(), "clips": store.clip_ids}


def squares(die_at: int, sign: Path) -> Callable[[int], int]:
    """A worker that squares, and dies once at one number."""

    def square(n: int) -> int:
        if n == die_at and not sign.exists():
            sign.touch()
            os._exit(1)
        return n * n

    return square


def always_dies() -> Callable[[int], int]:
    return lambda _: os._exit(1)  # type: ignore[return-value]


def fails() -> Callable[[int], int]:
    def fail(_: int) -> int:
        raise ValueError("a worker's own error")

    return fail


def sleeps() -> Callable[[int], Iterator[int]]:
    """A worker that yields and then hangs at one number."""

    def sleep(n: int) -> Iterator[int]:
        yield n
        if n == 1:
            time.sleep(10_000)

    return sleep


def hang(address: str) -> list[list[Any]]:
    from otoscope.executors.ray import RayExecutor

    executor = RayExecutor(address, silence_s=5.0)
    return sorted([type(e).__name__, *vars(e).values()] for e in executor.run(sleeps, [0, 1, 2], heartbeat=True))


def told_by(work: Callable[[], object]) -> str:
    try:
        work()
    except (ExecutorError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def break_it(folder: Path) -> dict[str, Any]:
    from functools import partial

    from otoscope.corpus.audio import write_audio
    from otoscope.executors.ray import RayExecutor

    write_corpus(folder / "sound", [0.3 + 0.02 * i for i in range(36)])
    write_corpus(folder / "bad", [0.3] * 8)
    wave = noise(77, 0.4)
    wave[0] = 0.94
    write_audio(folder / "bad" / "clip003b.wav", wave, RATE_HZ)
    seconds: dict[str, float] = {}
    found: dict[str, Any] = {"seconds": seconds}

    def timed(name: str, work: Callable[[], Any]) -> None:
        start_s = time.monotonic()
        found[name] = work()
        seconds[name] = round(time.monotonic() - start_s, 1)

    with two_nodes() as (cluster, nodes):
        executor = RayExecutor(cluster.address)
        tasks = list(range(7))
        timed("squares", lambda: sorted(run_tasks(executor, partial(squares, 3, folder / "sign"), tasks)))
        timed("fails", lambda: told_by(lambda: list(run_tasks(executor, fails, [1]))))
        timed("hangs", lambda: hang(cluster.address))
        timed("deadly", lambda: meet_a_deadly_clip(folder / "bad", folder, executor))
        timed("lost", lambda: lose_a_node(folder / "sound", folder, executor, cluster, nodes[1]))
        timed("dies", lambda: told_by(lambda: list(run_tasks(executor, always_dies, [1], tries=1))))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    kept = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Ray prints there
    os.write(kept, json.dumps(break_it(Path(sys.argv[1]))).encode())
