"""Faults of the machine as one line: full disks, memory, limits, closed output, and signals.

None of them is a defect of otoscope, so none ends with a traceback or with the exit code of a defect.
"""

import _thread
import atexit
import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from otoscope.artifacts import is_full
from otoscope.errors import OtoscopeError
from otoscope.formatting import one_line

INTERRUPTED, TERMINATED = 128 + 2, 128 + 15
"""Exit codes after SIGINT (Ctrl-C) and SIGTERM, as shells report them."""

STOPPED = "stopped; run the same command again to resume"

_MEMORY_WORDS = re.compile(
    r"not enough memory|can(?:no|')t allocate memory|out of memory|unable to allocate|map segment", re.I
)
_THREAD_WORDS = re.compile(r"can't start new thread|resource temporarily unavailable", re.I)
_FILES_WORDS = re.compile(r"too many open files", re.I)

_ADVICE = {
    errno.EIO: "the device reports an error; check it, and copy what it holds",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "choose another folder, or change its permissions",
    errno.EPERM: "choose another folder, or change its permissions",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its links lead in a circle",
    errno.ENOENT: "it was removed while it was needed; run again",
    errno.EISDIR: "a file was expected; remove the folder and run again",
    errno.ENOTDIR: "a folder was expected; remove the file and run again",
    errno.ENOTEMPTY: "it changed while it was written; run again",
    errno.ESTALE: "the network drive lost it; run again",
}


def describe_fault(error: BaseException) -> str | None:
    """Return one line on a fault of the machine, from an error or its causes; None if they name none.

    >>> describe_fault(MemoryError())
    'not enough memory; close other programs, or lower the sizes in the configuration'
    >>> describe_fault(ValueError("x")) is None
    True
    """
    causes = list(_causes(error))
    return next((message for cause in causes if (message := _exhausted(cause))), None) or _system_error(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes and contexts, and the members of groups, each once."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        members = current.exceptions if isinstance(current, BaseExceptionGroup) else ()
        context = None if current.__suppress_context__ else current.__context__
        pending += [cause for cause in (*members, current.__cause__, context) if cause is not None]


def _exhausted(error: BaseException) -> str | None:
    """Return one line if an error means that memory, files, threads or the disk are exhausted."""
    text = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _MEMORY_WORDS.search(text):
        return "not enough memory; close other programs, or lower the sizes in the configuration"
    if _FILES_WORDS.search(text):
        return "too many open files; raise the limit (`ulimit -n 4096`) and run again"
    if _THREAD_WORDS.search(text):
        return "no more threads or processes can be started; raise the limits (`ulimit -u`, `ulimit -v`) and run again"
    if isinstance(error, Exception) and is_full(error):
        return f"no room left to write{_named(error) or ' a file or the output'}; free some space and run again"
    return None


def _system_error(error: BaseException) -> str | None:
    """Return one line on an error that the operating system reports; None for other errors."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    name, advice = _named(error), _ADVICE.get(error.errno)
    return one_line(error.strerror) + (f":{name}" if name else "") + (f"; {advice}" if advice else "")


def _named(error: Exception) -> str:
    """Return the file that an error names, after a blank; empty if it names none."""
    name = error.filename2 or error.filename if isinstance(error, OSError) else None
    return "" if name is None or isinstance(name, int) else f" {Path(os.fsdecode(name))}"


FILES, MIN_FILES = 4096, 64
"""Open files that a run asks for, and those that it cannot do without: renderers fail in threads of their own."""

MIN_ADDRESS_SPACE = 2 << 30
"""Bytes of address space below which the libraries crash while they load; a run needs about 4 GB, its charts 67 GB."""


def check_limits() -> None:
    """Raise the limit of open files as far as the system lets a process; some shells begin with 256 or fewer.

    Raises `OtoscopeError` if it stays below `MIN_FILES`, or if the address space is limited to less than
    `MIN_ADDRESS_SPACE`.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES:
        soft = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < MIN_FILES:
            raise OtoscopeError(
                f"{soft} open files are allowed here, {MIN_FILES} are needed; raise the limit (`ulimit -n`)"
            )
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY and space < MIN_ADDRESS_SPACE:
        raise OtoscopeError(
            f"{space / 2**30:.1f} GB of address space are allowed here, a run needs about 4 GB and its charts 67 GB; "
            "raise the limit (`ulimit -v unlimited`)"
        )


def flush_output() -> str | None:
    """Flush standard output; return the fault as one line, empty if its reader is gone, None if there is none.

    Afterwards the interpreter has nothing left to write, so its exit code stays ours.
    """
    try:
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]  started with a closed output
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        _discard_output()
        return _describe_output(error)
    return None


def _describe_output(error: BaseException) -> str:
    """Return the fault of standard output as one line; empty if the program that read it has ended, such as `head`."""
    if isinstance(error, BrokenPipeError):
        return ""
    reason = error.strerror if isinstance(error, OSError) else error
    return f"cannot write to standard output ({one_line(reason)})"


def _discard_output() -> None:
    """Send what standard output still holds to nowhere, so that the interpreter does not fail on it when it ends."""
    with suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)


GRACE_S = 10.0
"""Seconds between SIGTERM and the end of a process that does not end by itself."""


def end_process(code: int) -> NoReturn:
    """End the process without waiting for threads, after its exit functions.

    The destructors of C++ libraries are not called: they abort while a thread of theirs runs ("terminate called").
    """
    with suppress(Exception):
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


@contextmanager
def signals_as_exits(*, debug: bool) -> Generator[None]:
    """Let SIGTERM unwind as Ctrl-C does, and keep the tracebacks of background threads off the screen.

    What a thread could not do, the main thread reports when it needs the result. A process that does not unwind within
    `GRACE_S` is ended: the interpreter drops an exception that a signal raises in a callback, as while it imports.
    """
    is_running = [True]

    def end_later() -> None:
        time.sleep(GRACE_S)
        if is_running[0]:
            with suppress(OSError, ValueError):
                print(STOPPED, file=sys.stderr)
            end_process(TERMINATED)

    def terminate(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        with suppress(RuntimeError):
            _thread.start_new_thread(end_later, ())  # takes no lock that the main thread may hold
        raise SystemExit(TERMINATED)

    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGTERM, terminate) if in_main else None
    hook = threading.excepthook
    if not debug:
        threading.excepthook = lambda args: None  # noqa: ARG005
    try:
        yield
    finally:
        is_running[0] = False
        threading.excepthook = hook
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
