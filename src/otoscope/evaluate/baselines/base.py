"""What every fitted baseline is: training rows in, a function from rows to codes out."""

from typing import Protocol

import numpy as np
from jaxtyping import Float

from otoscope.errors import EvaluationError


class Encode(Protocol):
    """Turns rows into codes, each row by itself."""

    def __call__(self, rows: Float[np.ndarray, "rows width"], /) -> Float[np.ndarray, "rows latents"]:
        """Return the codes of rows, float32."""
        ...


class Fit(Protocol):
    """Learns a code from training rows.

    `latents` and `k` are those of the dictionary that the baseline stands beside; a method that is
    bounded by the width takes as many as it can. Raises `EvaluationError` for rows that it cannot
    be fitted to.
    """

    def __call__(self, rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
        """Return the fitted code."""
        ...


def check_rows(rows: Float[np.ndarray, "rows width"], *, least: int = 2) -> None:
    """Raise `EvaluationError` unless there are enough rows and all are finite."""
    if rows.ndim != 2 or len(rows) < least:
        raise EvaluationError(f"a baseline is fitted on [rows, width] of at least {least} rows, got {rows.shape}")
    if not np.isfinite(rows).all():
        raise EvaluationError("training rows hold NaN or infinity; drop such rows first")
