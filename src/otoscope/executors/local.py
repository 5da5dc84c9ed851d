"""Work done here and now.

Engines by name.
"""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from otoscope.errors import ConfigError, suggest
from otoscope.executors.base import Done, Engine, Heard, Lost, Said, Task


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


NAMES = ("local", "ray")
SILENCE = re.compile(r"silence_s=(\d+(?:\.\d+)?)")


def find_engine(name: str) -> Engine:
    """Return the engine of a name: `local`, `ray` (the cluster of RAY_ADDRESS, else this machine) or `ray://HOST:PORT`.

    `ray?silence_s=600` and `ray://HOST:PORT?silence_s=600` end workers that have been silent for that long.

    >>> find_engine("local")
    Local()
    """
    if name == "local":
        return Local()
    where, _, settings = name.partition("?")
    kind, _, address = where.partition("://")
    if kind != "ray":
        raise ConfigError(f"no engine {name!r}; {suggest(kind, NAMES)}; ray://HOST:PORT names a cluster")
    from otoscope.executors.ray import SILENCE_S, RayEngine  # an extra

    silence = SILENCE.fullmatch(settings or f"silence_s={SILENCE_S}")
    if silence is None:
        raise ConfigError(f"engine {name!r}: {settings!r} is no setting; allowed: silence_s=SECONDS")
    return RayEngine(address or None, silence_s=float(silence[1]))
