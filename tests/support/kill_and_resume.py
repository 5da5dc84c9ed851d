"""Break runs as machines do, in child processes: kill -9 at chosen and at random moments, and a full disk.

Run as a module, `python -m tests.support.kill_and_resume KIND CONFIG FOLDER` with a kind of `TRIALS`, it prints
one JSON line about what happened.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import otoscope.runs.training
from otoscope.cli.main import main
from otoscope.config import load_config
from otoscope.encoders.catalog import load_encoder
from otoscope.pipeline.run import run
from otoscope.pipeline.stages import STAGES, Stage
from otoscope.runs.context import Context
from otoscope.runs.progress import SilentReporter

MIDDLES = {"extract": ("extracting", 1), "train": ("training", 30), "evaluate": ("evaluating", 4)}
"""By stage: how its task's title begins, and after how many steps of it the process is killed."""


class Halting(SilentReporter):
    """A watch that leaves a sign in the middle of a task and then stands still, to be killed there."""

    def __init__(self, title: str, steps: int, sign: Path) -> None:
        self.title, self.steps, self.sign, self.here = title, steps, sign, False

    def start(self, title: str, total: float, unit: str) -> None:  # noqa: ARG002
        self.here = title.startswith(self.title)

    def advance(self, amount: float, note: str = "") -> None:  # noqa: ARG002
        self.steps -= self.here and amount > 0
        if self.here and self.steps == 0:
            self.sign.touch()
            time.sleep(600)


def child(work: Callable[[], object], *, told: Path | None = None) -> int:
    """Start work in a forked process; return its id. Nothing of the parent's runs in it afterwards."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            with (told or Path(os.devnull)).open("w") as file, redirect_stderr(file):
                work()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os._exit(code)
    return pid


def has_ended(pid: int) -> bool:
    """Say whether a child has ended, and leave it to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_of(pid: int) -> int:
    """Wait for a child; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def evaluate(config: Path, out: Path) -> Callable[[], object]:
    return lambda: main(["evaluate", str(config), "--out", str(out), "--json"])


def kill_in_the_middle(stage: str, config: Path, folder: Path) -> dict[str, Any]:
    """Kill a run within one stage, say what it left, and let the same command end it."""
    out, sign = folder / f"killed-in-{stage}", folder / f"{stage}.sign"
    title, steps = MIDDLES[stage]

    def work() -> None:
        otoscope.runs.training.SAVE_EVERY_S = 0.0
        run(load_config(config), out, until="evaluate", progress=Halting(title, steps, sign))

    pid = child(work)
    deadline_s = time.monotonic() + 120
    while not (sign.exists() or has_ended(pid)) and time.monotonic() < deadline_s:
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    end = end_of(pid)
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.suffix != ".wav")
    kept = {name: (out / name).stat().st_mtime_ns for name in left if name.startswith(("saes/", "parts/"))}
    code = end_of(child(evaluate(config, out)))
    untouched = [name for name, at in kept.items() if (out / name).is_file() and (out / name).stat().st_mtime_ns == at]
    return {"end": end, "left": left, "code": code, "untouched": untouched}


def kill_at_a_write(stage: str, config: Path, out: Path, *, writes: int = 2) -> int:
    """Kill a run before a file of one stage gets its name; return how the process ended."""

    def work() -> None:
        signal_at_a_write(stage, signal.SIGKILL, writes=writes)
        run(load_config(config), out)

    return end_of(child(work))


def signal_at_a_write(stage: str, signum: signal.Signals, *, writes: int) -> None:
    """Let this process send itself a signal before a file of a stage gets its name."""
    run_stage, rename, left = Stage.run, Path.replace, [writes]

    def run_to_be_stopped(self: Stage, context: Context) -> None:
        if self.name == stage:
            Path.replace = rename_or_end  # type: ignore[method-assign]
        run_stage(self, context)

    def rename_or_end(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signum)
        return rename(self, target)

    Stage.run = run_to_be_stopped  # type: ignore[method-assign]


def kill_at_random(config: Path, folder: Path, *, whole_s: float, kills: int) -> dict[str, Any]:
    """Kill one run again and again, whatever it is at; then let it end.

    A run that ended before its moment came (the one timed had everything to compile) is thrown away, and the
    moments come sooner.
    """
    rng, out = random.Random(1), folder / "killed-at-random"
    killed = 0
    for _ in range(10 * kills):
        if killed == kills:
            break
        pid = child(evaluate(config, out))
        time.sleep(rng.uniform(0.05, 0.5) * whole_s)
        os.kill(pid, signal.SIGKILL)
        if end_of(pid) == -signal.SIGKILL:
            killed += 1
        else:
            shutil.rmtree(out)
            whole_s, killed = whole_s / 2, 0
    return {"killed": killed, "code": end_of(child(evaluate(config, out)))}


def fill_the_disk(stage: str, config: Path, folder: Path, *, room: int = 4000) -> dict[str, Any]:
    """Let no file grow beyond `room` bytes in one stage, which fails as a full disk does; then run where there is room.

    Earlier stages run where there is room.
    """
    out, told = folder / "full", folder / f"full-in-{stage}.txt"

    def work() -> None:
        run_stage = Stage.run

        def run_without_room(self: Stage, context: Context) -> None:
            if self.name == stage:
                (out / "log.jsonl").unlink()
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            run_stage(self, context)

        Stage.run = run_without_room
        main([stage, str(config), "--out", str(out)])

    code = end_of(child(work, told=told))
    left = [str(path) for path in out.rglob("*.part")]
    then = end_of(child(lambda: main([stage, str(config), "--out", str(out), "--json"])))
    return {"code": code, "told": told.read_text(), "left": left, "then": then}


def stop(config: Path, folder: Path, signum: signal.Signals) -> dict[str, Any]:
    """Send a signal, such as that of Ctrl-C, while a corpus that would take minutes is sung."""
    out, told = folder / signum.name, folder / f"{signum.name}.txt"
    longer = [part for key in ("singers=60", "takes=40", "duration_s=5.0") for part in ("--set", f"corpus.{key}")]
    pid = child(lambda: main(["corpus", str(config), "--out", str(out), *longer]), told=told)
    deadline_s = time.monotonic() + 120
    while not (any(out.glob("sound/**/*.wav")) or has_ended(pid)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    os.kill(pid, signum)
    return {"code": end_of(pid), "told": told.read_text()}


def one_kill(config: Path, folder: Path) -> dict[str, Any]:
    """Run without a kill; kill one run while it trains, and stop another by Ctrl-C."""
    code = end_of(child(evaluate(config, folder / "unbroken")))
    return {
        "unbroken": {"code": code},
        "train": kill_in_the_middle("train", config, folder),
        "SIGINT": stop(config, folder, signal.SIGINT),
    }


def further_kills(config: Path, folder: Path) -> dict[str, Any]:
    """Kill runs while they extract and evaluate, and at random; stop one by a signal to end.

    The moments of the random kills depend on the time of the run `unbroken`, which `one_kill` leaves.
    """
    last = (folder / "unbroken" / "log.jsonl").read_text().splitlines()[-1]
    whole_s = json.loads(last)["seconds"]
    return {
        **{stage: kill_in_the_middle(stage, config, folder) for stage in ("extract", "evaluate")},
        "random": kill_at_random(config, folder, whole_s=whole_s, kills=2),
        "SIGTERM": stop(config, folder, signal.SIGTERM),
    }


def kills_in_every_stage(config: Path, folder: Path) -> dict[str, Any]:
    """Kill one run in one stage after the other, then let it end; and run without a kill."""
    ends = {stage: kill_at_a_write(stage, config, folder / "killed-in-all") for stage in STAGES}
    codes = [
        end_of(child(lambda name=name: run(load_config(config), folder / name))) for name in ("killed-in-all", "run")
    ]
    return {"ends": ends, "codes": codes}


def signals_in_every_stage(config: Path, folder: Path) -> dict[str, Any]:
    """Stop one run by both signals in one stage after the other, then let it end."""
    out, found = folder / "stopped-in-all", dict[str, Any]()
    for stage in STAGES:
        for signum in (signal.SIGINT, signal.SIGTERM):
            told = folder / f"{signum.name}-in-{stage}.txt"

            def work(stage: str = stage, signum: signal.Signals = signum) -> None:
                signal_at_a_write(stage, signum, writes=1)
                main(["run", str(config), "--out", str(out)])

            code = end_of(child(work, told=told))
            found[f"{signum.name} {stage}"] = {
                "code": code,
                "told": told.read_text(),
                "left": [path.name for path in out.rglob("*.part")],
            }
    return {"stopped": found, "code": end_of(child(lambda: run(load_config(config), out)))}


def full_disks(config: Path, folder: Path) -> dict[str, Any]:
    return {stage: fill_the_disk(stage, config, folder) for stage in STAGES}


TRIALS = {
    "one_kill": one_kill,
    "further_kills": further_kills,
    "full_disks": full_disks,
    "every_stage": kills_in_every_stage,
    "signals": signals_in_every_stage,
}

if __name__ == "__main__":
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the commands print is not what this module tells
    load_encoder(load_config(sys.argv[2]).model)  # what it imports is then there in every child
    told = json.dumps(TRIALS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3])))
    os.write(kept, told.encode())
