"""`otoscope reproduce`: the study from beginning to end, every number beside the published one.

Tables of a reproduction on the terminal: what it will cost, and every number beside the published one.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table

from otoscope.cli.progress import TerminalProgress
from otoscope.cli.stages import Json
from otoscope.formatting import count
from otoscope.protocols.mariotte2025.published import STANDARD_ERRORS
from otoscope.reproduce.mariotte2025.estimate import Estimate
from otoscope.reproduce.mariotte2025.page import TITLES, left_out, matrix
from otoscope.reproduce.mariotte2025.run import Reproduced

TABLE_WIDTH = 124


def print_comparison(made: Reproduced) -> None:
    """Print a table for each quantity: ours, the published number, and the difference with its standard error."""
    console = _console()
    for metric in TITLES:
        for table in matrix(made.comparison, metric):
            console.print(_drawn(table.title, table.rows))
            console.print(f"[dim]standard error of the published number: {STANDARD_ERRORS[metric]}[/dim]\n")
    compared = made.comparison.filter(pl.col("here").is_not_null())
    near = compared.filter(pl.col("in_errors").abs() <= 2).height
    console.print(
        f"{compared.height} of {count(made.comparison.height, 'published number')} have one of ours beside them; "
        f"{near} lie within 2 standard errors"
    )
    if others := left_out(made.comparison):
        console.print(others)
    console.print(f"run      {made.folder}", soft_wrap=True)
    console.print(f"numbers  {made.folder / 'comparison.csv'}", soft_wrap=True)
    console.print(f"page     {made.page}  (open it in a browser)", soft_wrap=True)


def _console() -> Console:
    """Return a console wide enough for whole numbers: none is cut, however narrow the terminal."""
    return Console(highlight=False, width=max(Console().width, TABLE_WIDTH))


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


def print_plan(found: Estimate) -> None:
    """Print what a reproduction takes, step by step, and the strict form beside it."""
    console = _console()
    table = Table(title="Estimate for this machine", title_justify="left", box=None, pad_edge=False)
    for name in ("step", "as the authors did", "time", "disk", "strict, every null", "time", "disk"):
        table.add_column(
            name, justify="right" if name in ("time", "disk") else "left", no_wrap=name in ("step", "time", "disk")
        )
    for cost in found.costs:
        theirs = (cost.amount, duration(cost.seconds), size(cost.bytes))
        table.add_row(cost.step, *theirs, cost.strict_amount, duration(cost.strict_seconds), size(cost.strict_bytes))
    strict_s, strict_bytes = (sum(getattr(c, name) for c in found.costs) for name in ("strict_seconds", "strict_bytes"))
    table.add_section()
    table.add_row("in all", "", duration(found.seconds), size(found.bytes), "", duration(strict_s), size(strict_bytes))
    console.print(table)
    console.print(f"{size(found.free_bytes)} are free where {found.folder} would be")


def duration(seconds: float) -> str:
    """Return a time as a reader says it.

    >>> duration(42.0), duration(5400.0), duration(0.2)
    ('42 s', '1.5 h', '< 1 s')
    """
    if seconds < 1:
        return "< 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def size(amount: float) -> str:
    """Return bytes as a reader says them.

    >>> size(0), size(12.6e6), size(4.2e9)
    ('–', '13 MB', '4.2 GB')
    """
    if amount < 1e5:
        return "–"
    return f"{amount / 1e9:,.1f} GB" if amount >= 1e9 else f"{amount / 1e6:,.0f} MB"


STUDIES = ("mariotte2025",)

Data = Annotated[Path, typer.Option("--data", help="VocalSet's folder, unpacked", show_default=False)]
Models = Annotated[
    Path | None, typer.Option("--models", help="folder of checkpoints, under their hub names", show_default=False)
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="NAME=CHECKPOINT, or NAME=CHECKPOINT@LAYER,LAYER with the layers that stand for the published pair",
        show_default=False,
    ),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="run this model alone (AST, WavLM, HuBERT, MERT)", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", help="folder of the reproduction")]
OldOut = Annotated[Path | None, typer.Option("--output", hidden=True, help="the former name of --out")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="a switch or an effort, e.g. vibrado=fix or crops=100", show_default=False),
]
Device = Annotated[str, typer.Option("--device", help="where the models run: cpu, cuda, cuda:1, mps")]
Plan = Annotated[bool, typer.Option("--plan", help="estimate time and disk, and start nothing")]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "reproduce",
        help="Run a published study as its authors did, and set every number beside the published one.\n\n"
        "Example: `otoscope reproduce mariotte2025 --data VocalSet --plan`, then without `--plan`",
    )(_reproduce)


def _reproduce(
    study: Annotated[str, typer.Argument(help="which study: mariotte2025 (arXiv 2509.24793)")],
    data: Data,
    models: Models = None,
    override: Override = None,
    only: Only = None,
    out: Out = Path("runs/mariotte2025"),
    old_out: OldOut = None,
    settings: Set = None,
    device: Device = "cpu",
    plan: Plan = False,
    as_json: Json = False,
) -> None:
    pass  # here, so that --help does not wait for torch
    from otoscope.config.mariotte2025 import parse_settings
    from otoscope.errors import ConfigError, suggest
    from otoscope.protocols.mariotte2025.models import choose_models
    from otoscope.reproduce.mariotte2025.run import reproduce

    if study not in STUDIES:
        raise ConfigError(f"no study {study!r}; {suggest(study, STUDIES)}")
    chosen = parse_settings(settings or ())
    wanted = choose_models(folder=models, overrides=override or (), only=only or ())
    if not data.is_dir():
        state = "is a file, not a folder" if data.is_file() else "does not exist"
        raise ConfigError(f"--data: {data} {state}; give VocalSet's folder, unpacked")
    folder = old_out or out
    common: dict[str, Any] = {"models": wanted, "settings": chosen, "device": device}
    if plan:
        from otoscope.reproduce.mariotte2025.estimate import estimate

        found = estimate(data, folder, progress=TerminalProgress(), **common)
        if as_json:
            print(json.dumps(found.as_json()))
        else:
            print_plan(found)
        found.require_room()
        return
    made = reproduce(data, folder, progress=TerminalProgress(), **common)
    if as_json:
        print(json.dumps(made.as_json()))
    else:
        print_comparison(made)
