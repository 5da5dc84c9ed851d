"""The active entries of a batch, listed latent by latent."""

from numba import njit

from otoscope.sae.kernels.gather import COMPILED, Array


@njit(**COMPILED)
def order_by_latent(
    index: Array,
    code: Array,
    slope: Array,
    active: Array,
    scale: float,
    offsets: Array,
    rows_of: Array,
    code_of: Array,
    slope_of: Array,
    first: int,
    last: int,
) -> None:
    """Transpose the active entries of latents `first` to `last`: rows, codes and slopes side by side by latent."""
    cursor = offsets[first:last].copy()
    for row in range(index.shape[0]):
        line = index[row]
        low, high = 0, active[row]
        while low < high:
            middle = (low + high) >> 1
            if line[middle] < first:
                low = middle + 1
            else:
                high = middle
        i, end = low, active[row]
        while i < end and line[i] < last:
            place = cursor[line[i] - first]
            rows_of[place] = row
            code_of[place] = code[row, i] * scale
            slope_of[place] = slope[row, i] * scale
            cursor[line[i] - first] = place + 1
            i += 1
