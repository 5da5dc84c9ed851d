"""Work done here and now."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from otoscope.engines.base import Done, Heard, Lost, Said, Task


@dataclass(frozen=True)
class Local:
    """One worker: this process."""

    @property
    def joins(self) -> bool:
        """Everything is done in order."""
        return True

    def run(
        self,
        start: Callable[[], Callable[[Task], Iterator[Said]]],
        tasks: Sequence[Task],
        *,
        speaks: bool = False,  # noqa: ARG002  nobody is left to listen to a process that hangs
    ) -> Generator[Heard[Said] | Done | Lost]:
        """Do the tasks one after the other; nothing is ever lost, because all would be."""
        work = start()
        for place, task in enumerate(tasks):
            for said in work(task):
                yield Heard(place, said)
            yield Done(place)
