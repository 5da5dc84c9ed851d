"""Numbers of the claims as a reader sees them: each with its interval, differences in points, leads in layers."""

from collections.abc import Callable, Sequence
from functools import partial

from otoscope import formatting
from otoscope.formatting import known, percent
from otoscope.protocols.comparing import Number


def shown(number: Number) -> str:
    """Return a fraction with its interval."""
    return f"{percent(number.value)}{within(number, percent)}"


def decimal(number: Number, digits: int = 3) -> str:
    """Return a number with its interval."""
    tell = partial(formatting.decimal, digits=digits)
    return f"{tell(number.value)}{within(number, tell)}"


def within(number: Number, tell: Callable[[float], str]) -> str:
    """Return a number's interval in brackets, both ends told alike; nothing where it has none or is a point."""
    if not number.bounded or number.low == number.high == number.value:
        return ""
    return f" ({tell(number.low)} to {tell(number.high)})"


def points(difference: float) -> str:
    """Return a difference of two fractions in points.

    >>> points(-0.0349), points(0.01), points(0.0)
    ('3.5 points less', '1.0 points more', 'as much')
    """
    if abs(difference) < 0.0005:
        return "as much"
    way = "less" if difference < 0 else "more"
    return f"{formatting.decimal(100 * abs(difference), 1)} points {way}"


def signed(difference: float) -> str:
    """Return a difference of two fractions as points with their sign.

    >>> signed(-0.0349), signed(0.01)
    ('−3.5', '+1.0')
    """
    text = formatting.decimal(100 * difference, 1)
    return text if text.startswith("−") else f"+{text}"


def seeds_told(values: Sequence[float], tell: Callable[[float], str]) -> str:
    r"""Return that a number is a mean over seeds, and what single seeds reach; nothing for one seed.

    >>> seeds_told([0.7, 0.8, 0.75], words.percent)
    'mean of 3 seeds, which reach 70.0\xa0% to 80.0\xa0%'
    """
    if len(values) < 2:
        return ""
    return f"mean of {len(values)} seeds, which reach {tell(min(values))} to {tell(max(values))}"


def lead_told(name: str, lead: Number) -> str:
    """Return by how many layers one category's centre lies before or after another's, with interval and null.

    >>> lead_told("pitch before mfcc", Number(-0.2, -0.37, -0.06, null_high=0.09))
    'the centre of pitch lies 0.20 layers after that of mfcc (0.06 to 0.37 after; by chance up to 0.09 either way)'
    >>> lead_told("pitch before mfcc", Number(0.2, -0.1, 0.5))
    'the centre of pitch lies 0.20 layers before that of mfcc (from 0.10 after to 0.50 before)'
    """
    first, _, then = name.partition(" before ")
    notes: list[str] = [_ends(lead)] if lead.bounded else []
    if known(lead.null_high):
        notes.append(f"by chance up to {_layers(lead.null_high)} either way")
    beside = f" ({'; '.join(notes)})" if notes else ""
    return f"the centre of {first} lies {_layers(lead.value)} layers {_way(lead.value)} that of {then}{beside}"


def _ends(lead: Number) -> str:
    if lead.low < 0 < lead.high:
        return f"from {_layers(lead.low)} after to {_layers(lead.high)} before"
    near, far = sorted((lead.low, lead.high), key=abs)
    return f"{_layers(near)} to {_layers(far)} {_way(lead.value)}"


def _layers(distance: float) -> str:
    return formatting.decimal(abs(distance), 2 if abs(distance) >= 0.01 else 3)


def _way(distance: float) -> str:
    return "after" if distance < 0 else "before"
