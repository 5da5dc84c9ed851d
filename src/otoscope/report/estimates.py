"""Text of estimates: values with their intervals, differences in points, ranges over seeds, leads in layers."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl

from otoscope import formatting
from otoscope.formatting import comma_list, count, percent, sparsity
from otoscope.metrics.representation import CODES, DENSE
from otoscope.protocols.claims import lead_beyond_null
from otoscope.protocols.comparison import Estimate
from otoscope.protocols.strict.results import LayerLead, StrictResults
from otoscope.resampling.intervals import MIN_GROUPS
from otoscope.runs.training import unlearned


def percent_with_interval(estimate: Estimate) -> str:
    """Return a fraction as a percentage with its interval."""
    return f"{percent(estimate.value)}{interval(estimate, percent)}"


def decimal_with_interval(estimate: Estimate, digits: int = 3) -> str:
    """Return a number with its interval."""
    text_of = partial(formatting.decimal, digits=digits)
    return f"{text_of(estimate.value)}{interval(estimate, text_of)}"


def with_interval_and_null(estimate: Estimate, text_of: Callable[[float], str]) -> str:
    r"""Return a number with its interval and the upper end of its null, as far as there are any.

    >>> with_interval_and_null(Estimate(0.5, 0.4, 0.6, null_high=0.1), percent)
    '50.0\xa0% (40.0\xa0% to 60.0\xa0%; permuted up to 10.0\xa0%)'
    """
    notes = [text.strip(" ()")] if (text := interval(estimate, text_of)) else []
    if estimate.untestable:
        notes.append("too few clips or groups to permute")
    elif formatting.known(estimate.null_high):
        notes.append(f"permuted up to {text_of(estimate.null_high)}")
    return f"{text_of(estimate.value)} ({'; '.join(notes)})" if notes else text_of(estimate.value)


def interval(estimate: Estimate, text_of: Callable[[float], str]) -> str:
    """Return the interval in brackets; empty where there is none or it is a point."""
    if not estimate.bounded or estimate.low == estimate.high == estimate.value:
        return ""
    return f" ({text_of(estimate.low)} to {text_of(estimate.high)})"


def spans_levels(limit: Estimate, levels: Collection[float]) -> bool:
    """Return whether the interval of a sparsity limit covers all levels, or all but a sparse one: it decides nothing.

    >>> levels = [0.75, 0.9, 0.95, 0.99]
    >>> spans_levels(Estimate(0.95, 0.75, 0.95), levels), spans_levels(Estimate(0.95, 0.9, 0.95), levels)
    (True, False)
    """
    covered = sum(limit.low <= level <= limit.high for level in levels)
    return len(levels) > 2 and limit.low <= min(levels) and covered >= len(levels) - 1


def undetermined_limits(results: StrictResults) -> list[str]:
    """Return the reason why each sparsity limit of the results is undetermined; empty where it is determined."""
    reasons: list[str] = []
    for limit in results.limits:
        reason = ""
        if limit.quantity == "task" and any(one.at_chance for one in results.task_comparisons[:1]):
            reason = "permuted targets give as much"
        elif (better := limit.better_sparsity) is not None:
            base, top = percent(limit.levels[min(limit.levels)]), percent(limit.levels[better])
            reason = f"densest {base}, sparser {top} at {sparsity(better)}"
        elif not limit.estimate.measured:
            reason = "a sparser level exceeds the densest"
        elif spans_levels(limit.estimate, limit.levels):
            reason = f"the interval covers {interval(limit.estimate, sparsity).strip(' ()')}"
        reasons.append(reason)
    return reasons


def points(difference: Estimate) -> str:
    """Return a difference of two fractions in points, with the sign and the interval of that difference.

    >>> points(Estimate(-0.0349, -0.05, 0.01)), points(Estimate(-0.0001))
    ('−3.5 points (−5.0 to +1.0)', '0.0 points')
    """
    return f"{_signed_points(difference.value)} points{interval(difference, _signed_points)}"


def _signed_points(difference: float) -> str:
    text = formatting.decimal(100 * difference, 1)
    if text.removeprefix("−") == "0.0":
        return "0.0"
    return text if text.startswith("−") else f"+{text}"


def dimensions(value: float) -> str:
    """Return a number of dimensions."""
    return formatting.decimal(value, 1)


def predicted_by_either(seeds: int) -> str:
    """Return the rule of the factors that means of R² of layer and codes cover, as a clause.

    >>> predicted_by_either(5), predicted_by_either(1)
    ('that the layer or all 5 seeds of the codes predict', 'that the layer or the codes predict')
    """
    return f"that the layer or {f'all {seeds} seeds of the codes' if seeds > 1 else 'the codes'} predict"


def seed_range(values: Sequence[float], text_of: Callable[[float], str]) -> str:
    r"""Return the number of seeds behind a mean, with the range over them; empty for one seed.

    >>> seed_range([0.7, 0.8, 0.75], percent)
    'mean of 3 seeds, ranging from 70.0\xa0% to 80.0\xa0%'
    """
    if len(values) < 2:
        return ""
    return f"mean of {len(values)} seeds, ranging from {text_of(min(values))} to {text_of(max(values))}"


def describe_lower_from(sizes: Sequence[int], subject: str = "They") -> str:
    """Return the numbers of dimensions from which codes predict less, as a sentence after a blank; empty without any.

    >>> describe_lower_from([8, 16]), describe_lower_from([])
    (' They predict less, beyond the interval, from 8 and 16 dimensions.', '')
    """
    noun = "dimension" if list(sizes) == [1] else "dimensions"
    return f" {subject} predict less, beyond the interval, from {comma_list(sizes)} {noun}." if sizes else ""


def too_few(groups: int, noun: str = "test group") -> str:
    """Return the text in place of a decision.

    >>> too_few(1), too_few(2, "group")
    ('1 test group is too few to decide (at least 3)', '2 groups are too few to decide (at least 3)')
    """
    return f"{count(groups, f'{noun} is', f'{noun}s are')} too few to decide (at least {MIN_GROUPS})"


def describe_readers(readers: Mapping[str, str]) -> str:
    """Describe the readers of layer and codes.

    >>> describe_readers({"dense": "ridge", "sae": "LASSO"})
    'the layer is read by ridge, the codes by LASSO, each chosen on groups left out'
    >>> describe_readers({"dense": "ridge", "sae": "ridge"})
    'layer and codes are read by ridge, each chosen on groups left out'
    """
    dense, codes = readers.get(DENSE, ""), readers.get(CODES, "")
    if dense == codes:
        return f"layer and codes are read by {dense}, each chosen on groups left out"
    return f"the layer is read by {dense}, the codes by {codes}, each chosen on groups left out"


def dimensions_read(reader: str) -> str:
    """Return the dimensions that a probe reads, in each fold of a cross-fit; empty if unknown.

    >>> dimensions_read("all dimensions"), dimensions_read("16 dimensions or 64 dimensions or all dimensions")
    ('all', '16, 64 or all')
    """
    *first, last = (part.split(" ")[0] for part in reader.split(" or "))
    return f"{', '.join(first)} or {last}" if first else last


def _best_dimensions(reader: str) -> str:
    read = dimensions_read(reader)
    return "all dimensions" if read == "all" else f"the best {read} {'dimension' if read == '1' else 'dimensions'}"


def read_from(row: Mapping[str, Any]) -> str:
    """Return the dimensions that a probe reads, as a clause after a blank; empty if unknown.

    >>> read_from({"reader": "8 dimensions or all dimensions"}), read_from({})
    (' from the best 8 or all dimensions', '')
    """
    return f" from {_best_dimensions(row['reader'])}" if row.get("reader") else ""


def describe_dimensions_read(dense: Mapping[str, Any], codes: Mapping[str, Any]) -> str:
    """Return the dimensions that the probes of layer and codes read, as a sentence after a blank; empty if unknown.

    >>> describe_dimensions_read({"reader": "all dimensions"}, {"reader": "4 dimensions"})
    ' The probe reads the best 4 dimensions of the codes and all dimensions of the layer, chosen on validation groups.'
    """
    if not (dense.get("reader") and codes.get("reader")):
        return ""
    of_codes, of_layer = _best_dimensions(codes["reader"]), _best_dimensions(dense["reader"])
    if of_codes == of_layer:
        return f" The probe reads {of_codes} of both, chosen on validation groups."
    return f" The probe reads {of_codes} of the codes and {of_layer} of the layer, chosen on validation groups."


RANDOM_DIRECTIONS = "random_topk"
"""Representation by fixed random directions, as many as latents: what its width alone costs."""

DENSE_SHARE = 1 / 4
"""Active latents per dimension of the layer from which codes need a caution."""


def layer_width(cards: Mapping[str, Mapping[str, Any]], sae_id: str) -> int | None:
    """Return the width of the layer of an SAE, from its card; None without one."""
    return (cards.get(sae_id, {}).get("model") or {}).get("width")


def caution_of_codes(codes: Mapping[str, Any], cards: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the caution for the codes of a row of results; empty if they are sparse, or their width is unknown."""
    width = layer_width(cards, codes["sae_id"])
    return dense_codes_caution(codes["k"], width) if width and codes["k"] else ""


def dense_codes_caution(k: int, width: int) -> str:
    r"""Return the caution for codes with many active latents per dimension of their layer; empty below a quarter.

    >>> dense_codes_caution(102, 384).split(",")[0]
    'Caution: k=102 is 27\xa0% of the 384 dimensions of the layer. At this sparsity'
    >>> dense_codes_caution(20, 384)
    ''
    """
    if k < DENSE_SHARE * width:
        return ""
    dense = ": such codes are not sparse for this layer" if k >= width else ""
    return (
        f"Caution: k={k} is {percent(k / width, 0)} of the {width} dimensions of the layer{dense}. At this sparsity, "
        "principal axes reconstruct as well as true features, so explained variance does not tell them apart."
    )


def describe_unlearned(cards: Mapping[str, Mapping[str, Any]], *, named: int = 0) -> str:
    """Return which dictionaries training did not improve or hardly changed, with up to `named` of their names.

    >>> describe_unlearned({"a": {"training": {"best_step": 0, "start": "principal axes"}}})
    'The dictionary is principal axes, not learned (no step improved on the start for unseen groups).'
    """
    sentences: list[str] = []
    for label, reason, names in unlearned(cards):
        more = f" and {len(names) - named} others" if len(names) > named else ""
        listed = f": {comma_list(names[:named])}{more}" if named else ""
        verb = "is" if len(names) == 1 else "are"
        of = f"Of {len(cards)} dictionaries, {len(names)} {verb}" if len(cards) > 1 else "The dictionary is"
        sentences.append(f"{of} {label} ({reason}){listed}.")
    return " ".join(sentences)


def describe_lead_with_p(lead: LayerLead) -> str:
    """Describe a lead with interval and null, and its p value before and after the correction for several leads.

    >>> lead = LayerLead("pitch", "mfcc", Estimate(-0.2, null_high=0.19), None, 0.072, 0.036, 2)
    >>> describe_lead_with_p(lead).split("; ")[-1]
    "p .036, .072 after Holm's correction for 2 leads)"
    """
    p = ""
    if formatting.known(lead.alone):
        p = f"p {_p(lead.alone)}"
        if lead.family > 1:
            p += f", {_p(lead.p)} after Holm's correction for {lead.family} leads"
    return describe_lead(lead.first, lead.second, lead.estimate, p)


def _p(value: float) -> str:
    return formatting.decimal(value, 3).removeprefix("0")


def describe_leads_beyond_null(leads: Sequence[LayerLead], curves: pl.DataFrame) -> str:
    """Return the leads with the means of their nulls subtracted, joined by semicolons; empty if none is measured."""
    found = ((lead, lead_beyond_null(lead, curves)) for lead in leads)
    return "; ".join(describe_lead(lead.first, lead.second, beyond) for lead, beyond in found if beyond.measured)


def describe_lead(first: str, second: str, lead: Estimate, p: str = "") -> str:
    """Describe the lead of one category's centre over another's in layers, with interval and null.

    >>> describe_lead("pitch", "mfcc", Estimate(-0.2, -0.37, -0.06, null_high=0.09)).split("mfcc ")[-1]
    '(0.06 to 0.37 after; categories permuted: up to 0.09 either way)'
    >>> describe_lead("pitch", "mfcc", Estimate(0.2, -0.1, 0.5))
    'the centre of pitch lies 0.20 layers before that of mfcc (from 0.10 after to 0.50 before)'
    """
    notes: list[str] = [_lead_interval(lead)] if lead.bounded else []
    if formatting.known(lead.null_high):
        notes.append(f"categories permuted: up to {_layers(lead.null_high)} either way")
    notes += [p] if p else []
    in_brackets = f" ({'; '.join(notes)})" if notes else ""
    distance = f"{_layers(lead.value)} layers {_direction(lead.value)}"
    return f"the centre of {first} lies {distance} that of {second}{in_brackets}"


def _lead_interval(lead: Estimate) -> str:
    if lead.low < 0 < lead.high:
        return f"from {_layers(lead.low)} after to {_layers(lead.high)} before"
    near, far = sorted((lead.low, lead.high), key=abs)
    return f"{_layers(near)} to {_layers(far)} {_direction(lead.value)}"


def _layers(distance: float) -> str:
    return formatting.decimal(abs(distance), 2 if abs(distance) >= 0.01 else 3)


def _direction(distance: float) -> str:
    return "after" if distance < 0 else "before"


def capitalised(text: str) -> str:
    """Return a text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
