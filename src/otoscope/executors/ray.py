"""Work done by actors on the machines of a Ray cluster.

Each actor is one process that starts once (it loads the model, say) and then does one task at a time. The cluster says
how many there can be: one a GPU where it has GPUs, else one a processor. Actors and nodes may die at any moment: the
task is then lost, the others go on, and what the dead left half done is for whoever asked to judge.

A task is lost when Ray says that its process or its node is gone, and when it ought to speak and has been silent for
`silence_s` by this process's own clock: its worker hangs and is ended. What machines take the time to be never counts.
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

from otoscope.errors import ConfigError, EngineError, MissingExtra
from otoscope.executors.base import Done, Heard, Lost, Said, Task

try:
    ray: Any = import_module("ray")
except ImportError as error:
    raise MissingExtra('the engine ray needs Ray; pip install "otoscope[ray]"') from error

RayError, RayTaskError = ray.exceptions.RayError, ray.exceptions.RayTaskError

POLL_S = 2.0
"""How often the cluster is asked for room, where nothing is heard meanwhile."""

SILENCE_S = 1800.0
"""A worker hangs that has said nothing for so long: sixty times what a batch of thirty seconds takes in real time."""


@dataclass(frozen=True)
class RayEngine:
    """Workers on a Ray cluster: the one at `address` (`HOST:PORT` of its head), else that of RAY_ADDRESS, else here.

    The process that runs the stage must be on a machine of the cluster. `workers` bounds the number of actors;
    `silence_s` is how long a task that speaks may be silent once its worker has loaded the model.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    silence_s: float = SILENCE_S

    def __post_init__(self) -> None:
        if not self.silence_s > 0:
            raise ConfigError(f"silence_s is {self.silence_s}; it must be above 0")

    @property
    def joins(self) -> bool:
        """Tasks are handed out one by one."""
        return False

    def run(
        self, start: Callable[[], Callable[[Task], Iterator[Said]]], tasks: Sequence[Task], *, speaks: bool = False
    ) -> Generator[Heard[Said] | Done | Lost]:
        """Hand out tasks in order, to as many actors as the cluster has room for."""
        self._connect()
        pool = _Pool(
            ray.put(start), self._options(), list(enumerate(tasks)), silence_s=self.silence_s if speaks else math.inf
        )
        try:
            while pool.busy or pool.waiting:
                pool.fill(self._room())
                yield from pool.hear()
                yield from pool.give_up()
        finally:
            pool.end()

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        # workers of a laptop's own cluster need no accelerator variables changed behind their back
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # by itself Ray would join any cluster that happens to run on this machine
        where = self.address or os.environ.get("RAY_ADDRESS") or "local"
        try:
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"no Ray cluster at {where} ({' '.join(str(error).split())[:200]})") from error

    def _options(self) -> dict[str, Any]:
        gpus = ray.cluster_resources().get("GPU", 0.0)
        return {"num_cpus": self.cpus, "num_gpus": 1 if gpus else 0, "max_restarts": 0, "max_task_retries": 0}

    def _room(self) -> int:
        """Return how many actors the machines that are alive can hold."""
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(int(has.get("GPU", 0.0)) for has in alive)
        room = gpus or sum(math.floor(has.get("CPU", 0.0) / self.cpus) for has in alive)
        return room if self.workers is None else min(room, self.workers)


class _Worker:
    """The process behind an actor."""

    def __init__(self, start: Callable[[], Callable[[Any], Iterator[Any]]]) -> None:
        self._work = start()

    def do(self, task: Any) -> Iterator[Any]:
        yield _BEGUN
        yield from self._work(task)


_BEGUN = "begun"
"""What a worker says first of a task: it has loaded its model, and was not waiting for a machine any more."""


@dataclass
class _Given:
    """A task that an actor is at; `heard_s` is when it spoke last, None before it began."""

    place: int
    actor: Any
    heard_s: float | None = None


@dataclass
class _Pool:
    """Actors, the tasks that they are at, and the tasks that wait."""

    start: Any
    options: dict[str, Any]
    waiting: list[tuple[int, Any]]
    silence_s: float
    free: list[Any] = field(default_factory=list[Any])
    busy: dict[Any, _Given] = field(default_factory=dict[Any, _Given])
    """By what is heard from it."""

    def fill(self, room: int) -> None:
        """Give each waiting task an actor while there is room."""
        while self.waiting and (self.free or len(self.busy) < max(room, 1)):
            if not self.free:
                self.free.append(ray.remote(_Worker).options(**self.options).remote(self.start))
            actor = self.free.pop()
            place, task = self.waiting.pop(0)
            heard = actor.do.options(num_returns="streaming").remote(task)
            self.busy[heard] = _Given(place, actor)

    def hear(self) -> Iterator[Heard[Any] | Done | Lost]:
        """Wait for news of any task, and tell all that there is."""
        ready, _ = ray.wait(list(self.busy), num_returns=1, timeout=POLL_S, fetch_local=False)
        for heard in ready:
            given = self.busy[heard]
            try:
                said = ray.get(next(heard))
            except StopIteration:
                del self.busy[heard]
                self.free.append(given.actor)
                yield Done(given.place)
            except RayTaskError as error:
                if isinstance(error.cause, Exception):
                    raise error.cause from error
                raise EngineError(f"a task failed on its worker: {' '.join(str(error).split())[-300:]}") from error
            except RayError as error:
                del self.busy[heard]
                _kill(given.actor)
                yield Lost(given.place, " ".join(str(error).split())[:200])
            else:
                begins, given.heard_s = given.heard_s is None, time.monotonic()
                if not begins:
                    yield Heard(given.place, said)

    def give_up(self) -> Iterator[Lost]:
        """End the actors that have been silent for too long, where nothing that they said waits to be heard."""
        now_s = time.monotonic()
        for heard, given in list(self.busy.items()):
            if given.heard_s is None or now_s - given.heard_s <= self.silence_s:
                continue
            if ray.wait([heard], timeout=0, fetch_local=False)[0]:
                continue
            del self.busy[heard]
            _kill(given.actor)
            yield Lost(given.place, f"nothing was heard of it for {self.silence_s:g} s", hung=True)

    def end(self) -> None:
        """End every actor."""
        for actor in [*self.free, *(given.actor for given in self.busy.values())]:
            _kill(actor)


def _kill(actor: Any) -> None:
    with suppress(RayError, ValueError):
        ray.kill(actor, no_restart=True)
