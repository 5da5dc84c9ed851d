"""What a protocol promises before it works."""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Judged:
    """Everything that a protocol's rows rest on, what brings them up to date, and the rows once they are."""

    inputs: str
    make: Callable[[], None]
    rows: Callable[[], pl.DataFrame]
