"""Executor in this process, and executors by name."""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from otoscope.errors import ConfigError, suggest
from otoscope.executors.base import Done, Executor, Message, Task, TaskProgress, WorkerLost


@dataclass(frozen=True)
class LocalExecutor:
    """Runs tasks in this process, in order."""

    @property
    def in_process(self) -> bool:
        """True."""
        return True

    def run(
        self,
        start: Callable[[], Callable[[Task], Iterator[Message]]],
        tasks: Sequence[Task],
        *,
        heartbeat: bool = False,  # noqa: ARG002  no other process could detect a hang
    ) -> Generator[TaskProgress[Message] | Done | WorkerLost]:
        """Run the tasks one after the other; a worker is never lost."""
        work = start()
        for index, task in enumerate(tasks):
            for value in work(task):
                yield TaskProgress(index, value)
            yield Done(index)


NAMES = ("local", "ray")
SILENCE = re.compile(r"silence_s=(\d+(?:\.\d+)?)")


def find_executor(name: str) -> Executor:
    """Return the executor `local`, `ray` (cluster of RAY_ADDRESS, else this machine) or `ray://HOST:PORT`.

    `ray?silence_s=600` and `ray://HOST:PORT?silence_s=600` set the silence after which a worker counts as hung.

    >>> find_executor("local")
    LocalExecutor()
    """
    if name == "local":
        return LocalExecutor()
    address, _, options = name.partition("?")
    kind, _, host = address.partition("://")
    if kind != "ray":
        raise ConfigError(f"no executor {name!r}; {suggest(kind, NAMES)}; ray://HOST:PORT selects a cluster")
    from otoscope.executors.ray import SILENCE_S, RayExecutor  # an extra

    silence = SILENCE.fullmatch(options or f"silence_s={SILENCE_S}")
    if silence is None:
        raise ConfigError(f"executor {name!r}: unknown option {options!r}; allowed: silence_s=SECONDS")
    return RayExecutor(host or None, silence_s=float(silence[1]))
