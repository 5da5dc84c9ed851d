"""Command `reproduce`: run the study and print every number next to the published one."""

import json
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated

import polars as pl
import typer
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table

from otoscope.cli import Json
from otoscope.formatting import count
from otoscope.runs.terminal import TerminalProgress, plain_console

if TYPE_CHECKING:  # `--help` does not wait for torch
    from otoscope.reproduce.mariotte2025.estimate import ReproductionPlan
    from otoscope.reproduce.mariotte2025.run import Reproduction

TABLE_WIDTH = 124


def print_comparison(result: "Reproduction") -> None:
    """Print one table per quantity: our number, the published one, and the difference with its standard error."""
    from otoscope.protocols.mariotte2025.published import STANDARD_ERRORS
    from otoscope.reproduce.mariotte2025.run import TITLES, left_out, matrix

    console = _console()
    for metric in TITLES:
        for table in matrix(result.comparison, metric):
            console.print(_drawn(table.title, table.rows))
            console.print(f"standard error of the published number: {STANDARD_ERRORS[metric]}\n", style="dim")
    compared = result.comparison.filter(pl.col("here").is_not_null())
    near = compared.filter(pl.col("in_errors").abs() <= 2).height
    console.print(
        f"{compared.height} of {count(result.comparison.height, 'published number')} have a number of this run; "
        f"{near} differ by at most 2 standard errors"
    )
    if others := left_out(result.comparison):
        console.print(others)
    console.print(f"run      {result.folder}", soft_wrap=True)
    console.print(f"numbers  {result.folder / 'comparison.csv'}", soft_wrap=True)
    console.print(f"page     {result.page}  (open it in a browser)", soft_wrap=True)


def _console() -> Console:
    """Return a console wide enough that no number is cut, also in a narrow terminal."""
    return plain_console(width=max(get_terminal_size().columns, TABLE_WIDTH))


def _drawn(title: str, rows: pl.DataFrame) -> Table:
    table = Table(
        title=f"{title}: ours, published, difference ± standard error",
        title_justify="left",
        pad_edge=False,
        box=HORIZONTALS,
        show_lines=True,
    )
    for name in rows.columns:
        table.add_column(name, justify="left" if name == rows.columns[0] else "right", no_wrap=True)
    for row in rows.iter_rows():
        table.add_row(*(str(value) for value in row))
    return table


def print_plan(plan: "ReproductionPlan") -> None:
    """Print the steps of a reproduction with rough times and disk space."""
    console = _console()
    table = Table(title="Plan for this machine", title_justify="left", box=None, pad_edge=False)
    for name in ("step", "amount", "time", "disk"):
        table.add_column(name, justify="right" if name in ("time", "disk") else "left", no_wrap=True)
    for step in plan.steps:
        table.add_row(step.step, step.amount, duration(step.seconds), size(step.bytes))
    table.add_section()
    table.add_row("total", "", duration(plan.seconds), size(plan.bytes))
    console.print(table)
    console.print("Times: matrix products at the measured speed; without decoding, factors and regressions.")
    console.print(f"{size(plan.free_bytes)} are free at {plan.folder}", soft_wrap=True)


def duration(seconds: float) -> str:
    """Format a duration.

    >>> duration(42.0), duration(5400.0), duration(0.2)
    ('42 s', '1.5 h', '< 1 s')
    """
    if seconds < 1:
        return "< 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def size(amount: float) -> str:
    """Format a size in bytes.

    >>> size(0), size(12.6e6), size(4.2e9)
    ('–', '13 MB', '4.2 GB')
    """
    if amount < 1e5:
        return "–"
    return f"{amount / 1e9:,.1f} GB" if amount >= 1e9 else f"{amount / 1e6:,.0f} MB"


STUDIES = ("mariotte2025",)

Data = Annotated[Path, typer.Option("--data", help="Unpacked folder of VocalSet.", show_default=False)]
Models = Annotated[
    Path | None, typer.Option("--models", help="Folder of checkpoints under their Hub names.", show_default=False)
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="NAME=CHECKPOINT, or NAME=CHECKPOINT@LAYER,LAYER to replace the published pair of layers; repeatable.",
        show_default=False,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Run only this model (AST, WavLM, HuBERT, MERT); repeatable.", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the reproduction.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, e.g. vibrado=fix or crops=100; repeatable.", show_default=False),
]
Device = Annotated[str, typer.Option("--device", help="Device of the models: cpu, cuda, cuda:1, mps.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print the grid, disk space and a rough time, then exit.")]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "reproduce",
        help="Run a published study as its authors did and compare every number with the published one.\n\n"
        "Example: `otoscope reproduce mariotte2025 --data VocalSet --plan`, then without `--plan`",
    )(_reproduce)


def _reproduce(
    study: Annotated[str, typer.Argument(help="Study: mariotte2025 (arXiv 2509.24793).")],
    data: Data,
    models: Models = None,
    override: Override = None,
    only: Only = None,
    out: Out = Path("runs/mariotte2025"),
    settings: Set = None,
    device: Device = "cpu",
    plan_only: PlanOnly = False,
    as_json: Json = False,
) -> None:
    from otoscope.config.mariotte2025 import parse_settings
    from otoscope.errors import ConfigError, suggest
    from otoscope.paths import user_path
    from otoscope.protocols.mariotte2025.published import choose_models
    from otoscope.reproduce.mariotte2025.estimate import plan as make_plan
    from otoscope.reproduce.mariotte2025.run import reproduce

    if study not in STUDIES:
        raise ConfigError(f"no study {study!r}; {suggest(study, STUDIES)}")
    parsed = parse_settings(settings or ())
    data, out = user_path(data), user_path(out)
    models = None if models is None else user_path(models)
    chosen = choose_models(folder=models, overrides=override or (), only=only or ())
    if not data.is_dir():
        state = "is a file, not a folder" if data.is_file() else "does not exist"
        raise ConfigError(f"--data: {data} {state}; give the unpacked folder of VocalSet")
    if plan_only:
        plan = make_plan(data, out, models=chosen, settings=parsed)
        if as_json:
            print(json.dumps(plan.as_json()))
        else:
            print_plan(plan)
        plan.require_disk_space()
        return
    result = reproduce(data, out, models=chosen, settings=parsed, device=device, progress=TerminalProgress())
    if as_json:
        print(json.dumps(result.as_json()))
    else:
        print_comparison(result)
