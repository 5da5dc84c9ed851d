"""What a watcher is told: every task begins, moves to its end, and ends."""

from pathlib import Path

import pytest

from otoscope.config import load_config
from otoscope.pipeline.run import run
from otoscope.runs.progress import SilentReporter, progress_counter, task
from tests.support.small_runs import SUNG, Tiny, write_config


class Recorder(SilentReporter):
    def __init__(self) -> None:
        self.tasks: dict[str, list[float]] = {}
        self.running: str | None = None
        self.lines: list[str] = []

    def start(self, title: str, total: float, unit: str) -> None:  # noqa: ARG002
        assert self.running is None, f"{title} begins within {self.running}"
        self.running = title
        self.tasks[title] = [0.0, total]

    def advance(self, amount: float, note: str = "") -> None:  # noqa: ARG002
        assert self.running is not None
        self.tasks[self.running][0] += amount

    def finish(self) -> None:
        assert self.running is not None
        self.running = None

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_progress_of_every_task_reaches_its_total(tmp_path: Path, tiny: Tiny) -> None:
    config = write_config(tmp_path / "sung.yaml", tiny("wavlm"), {**SUNG, "singers": 4, "takes": 1})
    watch = Recorder()
    run(load_config(config), tmp_path / "out", until="explain", progress=watch)
    assert watch.running is None
    assert list(watch.tasks) == [
        "writing clips",
        "checking clips",
        "extracting 4 layers",
        "training 4 dictionaries",
        "evaluating 11 representations",
        "indexing codes",
        "finding top clips",
        "describing frames",
        "writing cards",
        "splicing layer 1",
        "scoring annotated labels",
    ]
    for title, (done, total) in watch.tasks.items():
        assert done == pytest.approx(total), title
    assert "  wrote 12 clips in" in "\n".join(watch.lines)


def test_progress_shows_no_bar_for_a_current_run(tmp_path: Path, tiny: Tiny) -> None:
    config = write_config(tmp_path / "sung.yaml", tiny("wavlm"), {**SUNG, "singers": 4, "takes": 1})
    run(load_config(config), tmp_path / "out", until="train")
    watch = Recorder()
    run(load_config(config), tmp_path / "out", until="train", progress=watch)
    assert watch.tasks == {}
    assert [line for line in watch.lines if "up to date" in line] == [
        f"{stage}: up to date" for stage in ("corpus", "extract", "train")
    ]


def test_task_is_finished_after_an_error() -> None:
    watch = Recorder()

    def fail(done: int = 0, total: int = 0) -> None:
        raise ValueError(f"broken at {done} of {total}")

    with pytest.raises(ValueError, match="broken"), task(watch, "one", 1, "clips"):
        fail()
    with pytest.raises(ValueError, match="broken"), progress_counter(watch, "two", "clips") as on_progress:
        fail(on_progress(1, 3) or 1)
    assert watch.running is None
    assert watch.tasks == {"one": [0.0, 1], "two": [1.0, 3]}
