"""Executor on the machines of a Ray cluster.

Each actor is one process that starts once (loading the model, for example) and then runs one task at a time. The
cluster sets the number of actors: one per GPU if it has GPUs, else one per CPU. Actors and nodes may die at any time.
The task is then lost, the others continue, and the caller handles partial results.

A task is lost if Ray reports that its process or its node is gone, or if a task with a heartbeat has been silent for
`silence_s` on this process's clock. Clocks of other machines are not used.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from otoscope.errors import ConfigError, ExecutorError, MissingExtra
from otoscope.executors.base import Done, Message, Task, TaskProgress, WorkerLost
from otoscope.formatting import one_line

try:
    ray: Any = import_module("ray")
except ImportError as error:
    raise MissingExtra('the ray executor needs Ray; pip install "otoscope[ray]"') from error

RayError, RayTaskError = ray.exceptions.RayError, ray.exceptions.RayTaskError

POLL_S = 2.0
"""Interval between checks of the cluster's capacity while no event arrives."""

SILENCE_S = 1800.0
"""Silence after which a worker counts as hung: sixty times the real-time duration of a batch of thirty seconds."""


@dataclass(frozen=True)
class RayExecutor:
    """Runs tasks on the Ray cluster at `address` (`HOST:PORT` of its head), else that of RAY_ADDRESS, else a local one.

    The calling process must run on a machine of the cluster. `workers` limits the number of actors; `silence_s` is the
    maximum silence of a task with a heartbeat after its worker has loaded the model.
    """

    address: str | None = None
    workers: int | None = None
    silence_s: float = SILENCE_S

    def __post_init__(self) -> None:
        if not self.silence_s > 0:
            raise ConfigError(f"silence_s is {self.silence_s}; it must be above 0")

    @property
    def in_process(self) -> bool:
        """False: tasks are assigned one by one."""
        return False

    def run(
        self,
        start: Callable[[], Callable[[Task], Iterator[Message]]],
        tasks: Sequence[Task],
        *,
        heartbeat: bool = False,
    ) -> Generator[TaskProgress[Message] | Done | WorkerLost]:
        """Assign tasks in order to as many actors as the cluster can run."""
        self._connect()
        pool = _Pool(
            ray.put(start), self._options(), list(enumerate(tasks)), silence_s=self.silence_s if heartbeat else math.inf
        )
        try:
            while pool.busy or pool.waiting:
                pool.assign(self._capacity())
                yield from pool.poll()
                yield from pool.end_hung()
        finally:
            pool.end()

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        # keep Ray from changing accelerator variables of local workers
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # without an address Ray would join any cluster running on this machine
        where = self.address or os.environ.get("RAY_ADDRESS") or "local"
        try:
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ExecutorError(f"no Ray cluster at {where} ({one_line(error, 200)})") from error

    def _options(self) -> dict[str, Any]:
        gpus = ray.cluster_resources().get("GPU", 0.0)
        return {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_restarts": 0, "max_task_retries": 0}

    def _capacity(self) -> int:
        """Return the number of actors that the live machines can run."""
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(int(has.get("GPU", 0.0)) for has in alive)
        capacity = gpus or sum(math.floor(has.get("CPU", 0.0)) for has in alive)
        return capacity if self.workers is None else min(capacity, self.workers)


class _Worker:
    """Process of an actor."""

    def __init__(self, start: Callable[[], Callable[[Any], Iterator[Any]]]) -> None:
        self._work = start()

    def do(self, task: Any) -> Iterator[Any]:
        yield _STARTED
        yield from self._work(task)


_STARTED = "started"
"""First event of a task: the worker has a machine and has loaded its model."""


@dataclass
class _RunningTask:
    """A task on an actor; `last_event_s` is the time of its last event, None before it started."""

    index: int
    actor: Any
    last_event_s: float | None = None


@dataclass
class _Pool:
    """Actors, running tasks and waiting tasks."""

    start: Any
    options: dict[str, Any]
    waiting: list[tuple[int, Any]]
    silence_s: float
    free: list[Any] = field(default_factory=list[Any])
    busy: dict[Any, _RunningTask] = field(default_factory=dict[Any, _RunningTask])
    """Running tasks by their stream of events."""

    def assign(self, capacity: int) -> None:
        """Assign waiting tasks to actors, up to the capacity."""
        while self.waiting and (self.free or len(self.busy) < max(capacity, 1)):
            if not self.free:
                self.free.append(ray.remote(_Worker).options(**self.options).remote(self.start))
            actor = self.free.pop()
            index, task = self.waiting.pop(0)
            stream = actor.do.options(num_returns="streaming").remote(task)
            self.busy[stream] = _RunningTask(index, actor)

    def poll(self) -> Iterator[TaskProgress[Any] | Done | WorkerLost]:
        """Wait for events and yield them."""
        ready, _ = ray.wait(list(self.busy), num_returns=1, timeout=POLL_S, fetch_local=False)
        for stream in ready:
            running = self.busy[stream]
            try:
                value = ray.get(next(stream))
            except StopIteration:
                del self.busy[stream]
                self.free.append(running.actor)
                yield Done(running.index)
            except RayTaskError as error:
                if isinstance(error.cause, Exception):
                    raise error.cause from error
                raise ExecutorError(f"a task failed on its worker: {one_line(error)[-300:]}") from error
            except RayError as error:
                del self.busy[stream]
                _kill(running.actor)
                yield WorkerLost(running.index, one_line(error, 200))
            else:
                starting, running.last_event_s = running.last_event_s is None, time.monotonic()
                if not starting:
                    yield TaskProgress(running.index, value)

    def end_hung(self) -> Iterator[WorkerLost]:
        """End actors that exceeded the allowed silence and have no unread event."""
        now_s = time.monotonic()
        for stream, running in list(self.busy.items()):
            if running.last_event_s is None or now_s - running.last_event_s <= self.silence_s:
                continue
            if ray.wait([stream], timeout=0, fetch_local=False)[0]:
                continue
            del self.busy[stream]
            _kill(running.actor)
            yield WorkerLost(running.index, f"no heartbeat for {self.silence_s:g} s", hung=True)

    def end(self) -> None:
        """End every actor."""
        for actor in [*self.free, *(running.actor for running in self.busy.values())]:
            _kill(actor)


def _kill(actor: Any) -> None:
    with suppress(RayError, ValueError):
        ray.kill(actor, no_restart=True)
