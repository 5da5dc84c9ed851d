"""What a reader of a dictionary should know of how it came about: too few rows, or nothing learned."""

from otoscope.sae.batch_topk import BatchTopK
from otoscope.sae.sparsifiers import Sparsifier, TopK
from otoscope.sae.start import FEW_ROWS

OVERSPEND = 1.05
"""Active latents a row, over k, up to which a state may be chosen as best by its error alone."""


def of_rows(height: int, valid_height: int, *, latents: int) -> list[str]:
    """Return what is to be said of so many rows before so many latents learn from them.

    >>> of_rows(300, 40, latents=200)
    []
    """
    found: list[str] = []
    if height < latents:
        found.append(
            f"{height} training rows for {latents} latents: learning on means memorising them; "
            "judge by unseen groups alone, and take more rows or fewer latents"
        )
    if valid_height == 1:
        found.append(
            "1 validation row: the choice of the best state and all valid_* rest on it; give more, of whole groups"
        )
    return found


def of_start(sparsifier: Sparsifier, *, height: int, latents: int, steps: int, l0: float) -> list[str]:
    """Return what is to be said where training brought nothing better than its start; `l0` is that of its last state.

    Nothing of the k largest from very few rows: principal axes are meant to be kept there (docs/benchmarks.md).
    """
    if isinstance(sparsifier, TopK | BatchTopK) and height < FEW_ROWS * latents:
        return []
    k = sparsifier.k
    remedy = "take more rows or a lower learning rate"
    if l0 > OVERSPEND * k:
        remedy = f'{l0:.1f} latents a row are active in the last for k={k}: take sparsifier="topk" or "batch_topk"'
    return [
        f"best_step 0: {steps} steps brought no better state on the validation rows, so this is the untrained start; "
        f"{remedy}"
    ]
