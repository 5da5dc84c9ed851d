"""Executor protocol and its events, retries, the executor in this process, and executors by name."""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from otoscope.errors import ConfigError, ExecutorError, suggest

Task = TypeVar("Task")
Message = TypeVar("Message")
Result = TypeVar("Result")

MAX_WORKER_DEATHS = 4
"""Number of workers that may die on one task before the run fails."""


@dataclass(frozen=True)
class TaskProgress(Generic[Message]):
    """A value that a running task yielded; `task` is its index among the tasks."""

    task: int
    value: Message


@dataclass(frozen=True)
class Done:
    """End of a task without an error."""

    task: int


@dataclass(frozen=True)
class WorkerLost:
    """Death of a task's worker, or the end of a hung worker (`hung`); results of this attempt are void."""

    task: int
    reason: str
    hung: bool = False


@runtime_checkable
class Executor(Protocol):
    """Runs tasks in workers."""

    @property
    def in_process(self) -> bool:
        """True if a single worker runs all tasks in order, so that batching them into one task costs nothing."""
        ...

    def run(
        self,
        start: Callable[[], Callable[[Task], Iterator[Message]]],
        tasks: Sequence[Task],
        *,
        heartbeat: bool = False,
    ) -> Generator[TaskProgress[Message] | Done | WorkerLost]:
        """Call `start` once per worker, run the tasks with its result, and yield their events.

        A lost task is not retried; the caller decides. An exception in a task is raised here. `start` and the tasks
        are sent to other processes and must be picklable. Tasks with `heartbeat=True` must yield regularly (every few
        minutes), so that hung workers can be detected.
        """
        ...


def run_tasks(
    executor: Executor,
    start: Callable[[], Callable[[Task], Result]],
    tasks: Sequence[Task],
    *,
    tries: int = MAX_WORKER_DEATHS,
) -> Generator[tuple[int, Result]]:
    """Yield the index and the result of each task as it completes; retry a task whose worker died.

    Raises `ExecutorError` after `tries` worker deaths on one task.

    >>> from otoscope.executors.base import LocalExecutor
    >>> list(run_tasks(LocalExecutor(), lambda: abs, [-1, 2]))
    [(0, 1), (1, 2)]
    """
    pending, deaths = list(range(len(tasks))), dict.fromkeys(range(len(tasks)), 0)
    while pending:
        retry: list[int] = []
        for event in executor.run(_SingleResult(start), [tasks[index] for index in pending]):
            index = pending[event.task]
            if isinstance(event, TaskProgress):
                yield index, event.value
            elif isinstance(event, WorkerLost):
                deaths[index] += 1
                if deaths[index] >= tries:
                    raise ExecutorError(f"the workers of one task died {tries} times ({event.reason}); see their logs")
                retry.append(index)
        pending = retry


@dataclass(frozen=True)
class _SingleResult(Generic[Task, Result]):
    """Adapter from a function per task to a generator per task."""

    start: Callable[[], Callable[[Task], Result]]

    def __call__(self) -> Callable[[Task], Iterator[Result]]:
        work = self.start()

        def run_once(task: Task) -> Iterator[Result]:
            yield work(task)

        return run_once


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
