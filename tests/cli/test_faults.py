"""Faults of the machine end in one line and exit code 1, never as a defect."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otoscope.cli.faults import FILES, TERMINATED, check_limits, describe_fault, signals_as_exits

ROOT = Path(__file__).resolve().parents[2]


def caused_by(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "not enough memory"),
        (OSError(errno.EMFILE, "Too many open files", "a.wav"), "too many open files"),
        (ImportError("libx.so: cannot open shared object file: Too many open files"), "too many open files"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more threads"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "no room left to write a/b; free"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no room left to write a file or the output; free"),
        (ValueError("IoError: File too large (os error 27)"), "no room left"),
        (caused_by(ValueError("thread failed"), OSError(errno.EFBIG, "File too large")), "no room left"),
        (caused_by(RuntimeError("task"), caused_by(KeyError("x"), MemoryError())), "not enough memory"),
        (ExceptionGroup("two", [ValueError("a"), OSError(errno.ENOSPC, "full", "x")]), "no room left to write x"),
        (OSError(errno.EIO, "Input/output error", "/data/a.wav"), "Input/output error: /data/a.wav; the device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "Permission denied: /x; choose"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset by peer"),
    ],
)
def test_describe_fault_names_the_fault_and_the_remedy(error: BaseException, told: str) -> None:
    message = describe_fault(error)
    assert message is not None
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), caused_by(TypeError("x"), FileNotFoundError(2, "x"))]
)
def test_describe_fault_leaves_defects(error: BaseException) -> None:
    assert describe_fault(error) is None


def test_describe_fault_ends_on_circular_causes() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert describe_fault(first) is None


def otoscope(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "otoscope", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False, **settings)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_on_a_full_device_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = otoscope("--help", stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert done.stderr.startswith("error: ")


def test_output_into_a_closed_pipe_is_silent() -> None:
    read, write = os.pipe()
    os.close(read)
    done = otoscope("--version", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_errors_on_a_full_device_keep_their_exit_code() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "otoscope", "run", "none.yaml"]
        assert subprocess.run(command, cwd=ROOT / "src", stderr=full, check=False).returncode == 1


def test_too_few_open_files_are_one_line() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))

    done = otoscope("--help", stdout=subprocess.DEVNULL, preexec_fn=limit)
    assert done.returncode == 1
    assert done.stderr == "error: 20 open files are allowed here, 64 are needed; raise the limit (`ulimit -n`)\n"


def test_check_limits_raises_the_soft_limit_of_open_files() -> None:
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (-1, resource.RLIM_INFINITY) and hard < FILES:
        pytest.skip("the hard limit is low")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        check_limits()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (FILES, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert soft == before[0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the address space")
def test_too_little_address_space_is_one_line() -> None:
    """Libraries crash there while they load: a run used to end with exit code 139."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    done = otoscope("--help", stdout=subprocess.DEVNULL, preexec_fn=limit)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 1.0 GB of address space are allowed here, a run needs about 4 GB")
    assert done.stderr.count("\n") == 1


def test_signals_as_exits_unwinds_and_restores() -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleaned: list[str] = []

    def work() -> None:
        with signals_as_exits(debug=False):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.sigtimedwait([], 1)
            finally:
                cleaned.append("cleaned")

    with pytest.raises(SystemExit) as stopped:
        work()
    assert stopped.value.code == TERMINATED == 143
    assert cleaned == ["cleaned"]
    assert signal.getsignal(signal.SIGTERM) == before


def stopped(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script that sends itself SIGTERM."""
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_signals_as_exits_ends_a_process_whose_exception_was_lost() -> None:
    done = stopped(
        "import os, signal, time, weakref\n"
        "from otoscope.cli import faults\n"
        "faults.GRACE_S = 0.5\n"
        "class Thing: pass\n"
        "thing = Thing()\n"
        "kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))\n"
        "with faults.signals_as_exits(debug=False):\n"
        "    del thing\n"  # the interpreter ignores the exception of a callback
        "    time.sleep(50)\n"
    )
    assert done.returncode == TERMINATED
    assert done.stderr.splitlines()[-1] == "stopped; run the same command again to resume"


def test_main_stopped_by_sigterm_waits_for_no_thread_and_runs_exit_functions() -> None:
    done = stopped(
        "import atexit, os, signal, sys, threading, time\n"
        "from otoscope.cli import main\n"
        "atexit.register(print, 'cleaned')\n"
        "threading.Thread(target=time.sleep, args=(100,)).start()\n"
        "main.app.command('wait')(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(50)))\n"
        "sys.argv = ['otoscope', 'wait']\n"
        "main.main()\n"
    )
    assert done.returncode == TERMINATED
    assert (done.stdout, done.stderr) == ("cleaned\n", "stopped; run the same command again to resume\n")
