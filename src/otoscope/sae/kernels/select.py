"""The k largest pre-activations of a row, exactly, without sorting.

The upper 16 bits of a positive float32 order like an integer. Counting the keys above a border takes one
comparison for 32 of them, so bisection over the border finds the k-th largest key in at most 15 counts;
only where more keys lie on the border than fit are the full values compared.
"""

import numpy as np
from numba import njit

from otoscope.sae.kernels.gather import COMPILED, Array
from otoscope.sae.kernels.keys import count_at_least, positions_at_least
from otoscope.sae.kernels.lanes import LANES, address

_ABOVE_ALL = 0x7FFF


@njit(**COMPILED)
def make_keys(values: Array, bias: Array, single: Array, keys: Array) -> None:
    """Add the bias, rectify in place, and write the 16-bit keys: 0 for what is not above 0 (NaN included)."""
    count = bias.shape[0]
    for j in range(count):
        value = values[j] + bias[j]
        value = value if value > 0 else values.dtype.type(0)
        values[j] = value
        single[j] = np.float32(value)
    bits = single.view(np.uint32)
    for j in range(count):
        keys[j] = np.int16(bits[j] >> np.uint32(16))


@njit(**COMPILED)
def keep_only(keys: Array, wanted: Array) -> None:
    """Take latents out of the choice: `wanted` `[latents]` is -1 for those that may be chosen, else 0."""
    for j in range(wanted.shape[0]):
        keys[j] &= wanted[j]


@njit(**COMPILED)
def choose(values: Array, keys: Array, k: int, places: Array) -> int:
    """Write the ascending positions of the k largest values above 0 to `places`; return how many there are.

    Of equal values the lowest position wins. `places` has room for 16 more than the number of keys.
    """
    blocks = keys.shape[0] // (2 * LANES)
    line = address(keys, 0)
    low, high = 1, _ABOVE_ALL
    if count_at_least(line, blocks, np.int16(low)) <= k:
        return positions_at_least(line, blocks, np.int16(low), address(places, 0))
    while high - low > 1:
        middle = (low + high) >> 1
        found = count_at_least(line, blocks, np.int16(middle))
        if found == k:
            return positions_at_least(line, blocks, np.int16(middle), address(places, 0))
        if found > k:
            low = middle
        else:
            high = middle
    found = positions_at_least(line, blocks, np.int16(low), address(places, 0))
    return _drop_smallest(values, keys, low, k, places, found)


@njit(**COMPILED)
def _drop_smallest(values: Array, keys: Array, border: int, k: int, places: Array, found: int) -> int:
    """Thin out the places on the border, smallest values and highest positions first, until k are left."""
    on_border = np.empty(found, values.dtype)
    ties = 0
    for i in range(found):
        if keys[places[i]] == border:
            on_border[ties] = values[places[i]]
            ties += 1
    room = k - (found - ties)
    last = np.sort(on_border[:ties])[ties - room]
    equal = room
    for i in range(ties):
        equal -= on_border[i] > last
    kept = 0
    for i in range(found):
        place = places[i]
        if keys[place] == border:
            if values[place] < last:
                continue
            if values[place] == last:
                if equal == 0:
                    continue
                equal -= 1
        places[kept] = place
        kept += 1
    return kept
