"""What every engine offers."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from otoscope.errors import EngineError

Task = TypeVar("Task")
Said = TypeVar("Said")
Result = TypeVar("Result")

TRIES = 4
"""Workers that may die on one task before it is given up."""


@dataclass(frozen=True)
class Heard(Generic[Said]):
    """What a task said on its way; `task` is its place among the tasks."""

    task: int
    said: Said


@dataclass(frozen=True)
class Done:
    """A task has ended well."""

    task: int


@dataclass(frozen=True)
class Lost:
    """The worker of a task died, or hung and was ended; what it did is not known, and nothing of it counts."""

    task: int
    reason: str
    hung: bool = False


class Engine(Protocol):
    """Runs tasks."""

    @property
    def joins(self) -> bool:
        """Whether one worker does everything in order, so that tasks are better given to it as one."""
        ...

    def run(
        self, start: Callable[[], Callable[[Task], Iterator[Said]]], tasks: Sequence[Task], *, speaks: bool = False
    ) -> Generator[Heard[Said] | Done | Lost]:
        """Let every worker `start` once and then do tasks; yield what is heard, and how each task ended.

        A lost task is not tried again: whoever asked decides. An exception of a task is raised here. Other processes
        are sent `start` and the tasks, so both must be picklable. Tasks that speak say something every few minutes at
        the latest: of such an engine may tell that a worker hangs.
        """
        ...


def results(
    engine: Engine, start: Callable[[], Callable[[Task], Result]], tasks: Sequence[Task], *, tries: int = TRIES
) -> Generator[tuple[int, Result]]:
    """Yield each task's place and its only result as they come; a task whose worker died is tried again.

    Raises `EngineError` when its workers died `tries` times.

    >>> from otoscope.executors.local import Local
    >>> list(results(Local(), lambda: abs, [-1, 2]))
    [(0, 1), (1, 2)]
    """
    left, lost = list(range(len(tasks))), dict.fromkeys(range(len(tasks)), 0)
    while left:
        again: list[int] = []
        for event in engine.run(_Once(start), [tasks[place] for place in left]):
            place = left[event.task]
            if isinstance(event, Heard):
                yield place, event.said
            elif isinstance(event, Lost):
                lost[place] += 1
                if lost[place] >= tries:
                    raise EngineError(f"the workers of one task died {tries} times ({event.reason}); see their logs")
                again.append(place)
        left = again


@dataclass(frozen=True)
class _Once(Generic[Task, Result]):
    """A worker of functions in place of generators."""

    start: Callable[[], Callable[[Task], Result]]

    def __call__(self) -> Callable[[Task], Iterator[Result]]:
        work = self.start()

        def once(task: Task) -> Iterator[Result]:
            yield work(task)

        return once
