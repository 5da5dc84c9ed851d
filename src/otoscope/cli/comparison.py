"""Tables of a reproduction on the terminal: what it will cost, and every number beside the published one."""

import polars as pl
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table

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
