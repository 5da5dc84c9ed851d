"""Executor protocol, its events, and retries."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from otoscope.errors import ExecutorError

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

    >>> from otoscope.executors.local import LocalExecutor
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
