"""Work done ahead in threads, in order, within a bound."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import repeat
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def prefetch(
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    *,
    weigh: Callable[[Task], float],
    bound: float,
    threads: int,
) -> Generator[tuple[Task, Result]]:
    """Yield each task with its result, in order, while threads work on the next ones.

    Results not yet taken weigh `bound` at most together, or are a single one that weighs more. An exception of `work`
    is raised when its task's turn comes; leaving the iterator early cancels what has not begun.

    >>> list(ahead([3, 1], lambda n: n * n, weigh=float, bound=4.0, threads=2))
    [(3, 9), (1, 1)]
    """
    waiting: deque[tuple[Task, float, Future[Result]]] = deque()
    load = 0.0
    pool = ThreadPoolExecutor(threads, thread_name_prefix="otoscope-ahead")
    try:
        for task in tasks:
            weight = weigh(task)
            while waiting and load + weight > bound:
                first, its_weight, future = waiting.popleft()
                load -= its_weight
                yield first, future.result()
            waiting.append((task, weight, pool.submit(work, task)))
            load += weight
        while waiting:
            first, _, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_ahead(blocks: Iterator[Result], *, count: int = 2) -> Generator[Result]:
    """Yield what an iterator gives while a thread asks it for the next, `count` at most.

    >>> list(read_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    asking = prefetch(repeat(None), lambda _: next(blocks, _END), weigh=lambda _: 1.0, bound=float(count), threads=1)
    with closing(asking):
        for _, block in asking:
            if isinstance(block, _End):
                return
            yield block


class _End:
    pass


_END = _End()
