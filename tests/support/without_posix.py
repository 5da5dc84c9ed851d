"""Python as on Windows for imports from otoscope: without the modules and functions that only POSIX systems have.

Run as a script with commands of otoscope as JSON (a list of argument lists): imports every module of the package,
then runs the commands in this process. Third-party packages keep their imports.
"""

import builtins
import importlib
import json
import multiprocessing
import os
import pkgutil
import sys
import types

POSIX_MODULES = frozenset({"fcntl", "grp", "posix", "pwd", "resource", "termios", "tty", "pty", "syslog"})
POSIX_FUNCTIONS = frozenset(
    [
        "chown",
        "chroot",
        "ctermid",
        "fchmod",
        "fchown",
        "fork",
        "forkpty",
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getloadavg",
        "getpgid",
        "getpgrp",
        "getpriority",
        "getresgid",
        "getresuid",
        "getsid",
        "getuid",
        "initgroups",
        "killpg",
        "lchown",
        "lockf",
        "mkfifo",
        "mknod",
        "nice",
        "openpty",
        "posix_fadvise",
        "posix_fallocate",
        "posix_spawn",
        "pread",
        "pwrite",
        "sched_getaffinity",
        "sched_setaffinity",
        "sched_yield",
        "sendfile",
        "setegid",
        "seteuid",
        "setgid",
        "setpgid",
        "setpriority",
        "setsid",
        "setuid",
        "statvfs",
        "fstatvfs",
        "sysconf",
        "uname",
        "wait",
        "wait3",
        "wait4",
    ]
)


def reduced_os() -> types.ModuleType:
    """Return a copy of `os` without the functions of POSIX systems."""
    copy = types.ModuleType("os")
    vars(copy).update({name: value for name, value in vars(os).items() if name not in POSIX_FUNCTIONS})
    return copy


def hide_posix() -> None:
    """Let modules of otoscope import the reduced `os`, and no POSIX module."""
    plain_import, replacement = builtins.__import__, reduced_os()

    def restricted(name, globals=None, locals=None, fromlist=(), level=0):  # noqa: A002
        importer = (globals or {}).get("__name__", "")
        if importer.split(".")[0] == "otoscope" and level == 0:
            if name in POSIX_MODULES:
                raise ModuleNotFoundError(f"no module named {name!r} (imported by {importer})", name=name)
            if name == "os":
                return replacement
        return plain_import(name, globals, locals, fromlist, level)

    builtins.__import__ = restricted


def main() -> None:
    hide_posix()
    multiprocessing.set_start_method("spawn")
    import otoscope

    for module in pkgutil.walk_packages(otoscope.__path__, "otoscope."):
        if not module.name.endswith(("__main__", ".ray")):
            importlib.import_module(module.name)
    from otoscope.cli.main import main as run_command

    for arguments in json.loads(sys.argv[1]):
        sys.argv[1:] = arguments
        try:
            run_command()
        except SystemExit as end:
            if end.code:
                raise


if __name__ == "__main__":
    main()
