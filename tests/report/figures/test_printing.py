"""Figures as files: the bytes of the converter, drawn in a process whose abort is an error."""

import resource
import sys
from pathlib import Path

import altair as alt
import polars as pl
import pytest
import vl_convert as vlc

from otoscope.errors import ExecutorError
from otoscope.report.figures.figure import Figure, Panel, figure_chart
from otoscope.report.figures.printing import write_figures
from otoscope.report.figures.theme import PRINT_CONFIG


def figure(name: str) -> Figure:
    chart = alt.Chart(pl.DataFrame({"k": [1, 2], "é": [0.5, 1.0]})).mark_point().encode(x="k:Q", y="é:Q")
    return Figure(name, "Größe", "caption", [Panel(chart)], pl.DataFrame())


def test_write_figures_draws_what_the_converter_draws(tmp_path: Path) -> None:
    write_figures(tmp_path, [figure("a"), figure("b")])
    svg = vlc.vegalite_to_svg(figure_chart(figure("a"), PRINT_CONFIG).to_dict(validate=False))
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == svg
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.svg", "b.pdf", "b.svg"]


def test_write_figures_without_figures_writes_nothing(tmp_path: Path) -> None:
    write_figures(tmp_path / "figures", [])
    assert not (tmp_path / "figures").exists()


def test_write_figures_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json.py", "vl_convert.py"):
        (tmp_path / name).write_text("raise SystemExit('hostile')")
    monkeypatch.chdir(tmp_path)
    write_figures(Path("figures"), [figure("a")])
    assert (tmp_path / "figures" / "a.pdf").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the address space")
def test_write_figures_in_a_small_address_space_is_an_error(tmp_path: Path) -> None:
    """The JavaScript engine aborts there: the whole process used to end with exit code 133."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 30), before[1]))
        with pytest.raises(ExecutorError, match=r"charts cannot be drawn: .* 67 GB .*ulimit -v unlimited"):
            write_figures(tmp_path, [figure("a")])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert not list(tmp_path.iterdir())
