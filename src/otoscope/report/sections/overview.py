"""First section of the page: at most five short sentences, and three latents to hear."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from otoscope.explain.firing import diverse
from otoscope.factors.readable_names import readable_name
from otoscope.formatting import NBSP, comma_list, count, decimal, interval_text, known, percent, sparsity, untested
from otoscope.metrics.representation import CODES, DENSE, WITHOUT_MODEL, representation_label
from otoscope.metrics.results import Row
from otoscope.protocols.comparison import Comparison, Estimate
from otoscope.protocols.strict.results import StrictResults
from otoscope.report.estimates import (
    DENSE_SHARE,
    caution_of_codes,
    decimal_with_interval,
    describe_dimensions_read,
    describe_unlearned,
    dimensions,
    layer_width,
    predicted_by_either,
)
from otoscope.report.figures.factors import factor_layer
from otoscope.report.results import Results, between_only, predicted, too_weak
from otoscope.report.run_data import RunData
from otoscope.report.sections.findings import against_layer, unread_classes
from otoscope.report.sections.gallery import ClipCard, Gallery, LatentCard
from otoscope.report.sections.strict_factors import (
    LOW_BAR,
    describe_compactness,
    describe_counts,
    describe_readers_of_factors,
    describe_told_by_groups,
    less_compact,
    more_compact,
    unlearned_as_compact,
)
from otoscope.report.sections.strict_findings import describe_advantage, describe_chance

MAX_SENTENCES = 5
MAX_LATENTS = 3


class Overview(NamedTuple):
    """Sentences, and the warning where nothing can be claimed."""

    caution: str
    sentences: Sequence[str]


class Preview(NamedTuple):
    """A latent with its strongest clip; `evidence` is its correlation in test clips, beside chance."""

    factor: str
    status: str
    evidence: str
    sentence: str
    clip: ClipCard


class Listening(NamedTuple):
    """Latents to hear, and the number of scored cards that beat their controls; empty if no card has a score."""

    tally: str
    latents: Sequence[Preview]


def overview(run: RunData, caution: str, answers: Sequence[tuple[str, str]] = ()) -> Overview:
    """Return the section; `answers` are claims and outcomes, if claims were examined.

    With a `caution` there are no sentences: short ones read like verdicts.
    """
    if caution:
        return Overview(caution, [])
    strict = StrictResults.of(run.results.rows)
    of_claims = [f"{claim}: {outcome}." for claim, outcome in answers]
    measured = _strict(run, strict) if strict else _held_out(run)
    return Overview(caution, [*of_claims, *measured][:MAX_SENTENCES])


def previews(gallery: Gallery) -> list[Preview]:
    """Return latents of the gallery that test clips confirm, with one clip each, a test clip if there is one.

    One of each label and one of the factors come before a second of any.
    """
    confirmed = [card for card in gallery.cards if card.confirmed and card.clips]
    chosen = diverse(range(len(confirmed)), [card.kind for card in confirmed])[:MAX_LATENTS]
    return [
        Preview(card.factor, card.status, card.evidence, _sentences(card), _heard(card.clips))
        for card in (confirmed[i] for i in chosen)
    ]


def _heard(clips: Sequence[ClipCard]) -> ClipCard:
    return next((clip for clip in clips if clip.split == "test"), clips[0])


def _sentences(card: LatentCard) -> str:
    """Return the part of a card's sentence that test groups support, and notes that contradict its title."""
    if card.card is None:
        return card.note
    return " ".join(filter(None, (card.card.backed, card.card.annotated, card.note, card.card.silence)))


def _held_out(run: RunData) -> Iterator[str]:
    results, noun = run.results, str(run.corpus.get("group_noun") or "group")
    if results.labels:
        yield from _probes(run, results.labels[0], noun)
    layer, at = factor_layer(results), results.reference_sparsity
    if layer is not None and at is not None:
        rows = results.with_test_values(results.of("factor_r2", "sae", layer=layer, sparsity=at))
        if rows.height:
            held, between, weak = (rows.filter(state).height for state in (predicted(), between_only(), too_weak()))
            where = "" if run.single_clip_groups or not results.has_r2_within else f" within {noun}s"
            more = f", {between} more only between {noun}s" if between else ""
            more += f"; {weak} more {'is' if weak == 1 else 'are'} too weak to tell" if weak else ""
            yield f"The codes predict {held} of {count(rows.height, 'factor')}{where}{more}."
    row = results.at_codes_layer(results.of("explained_variance", "sae", sparsity=at))
    if row is not None:
        components = results.components_of(row)
        text = (
            f"The codes reconstruct {percent(row['value'], 0)} of the variance of layer {row['layer']} at "
            f"{sparsity(row['sparsity'])} sparsity (k={row['k']}), in {count(row['groups'], f'unseen {noun}')}."
        )
        same = f"As many principal components reconstruct {percent(components['value'], 0)}." if components else ""
        not_learned = describe_unlearned({row["sae_id"]: run.cards.get(row["sae_id"], {})})
        yield " ".join(filter(None, [text, same, not_learned, caution_of_codes(row, run.cards)]))


def _probes(run: RunData, label: str, noun: str) -> Iterator[str]:
    """Yield sentences on the layer of the codes, its codes, and probes without any model."""
    results = run.results
    codes = results.codes_of(label, results.reference_sparsity)
    layer = codes["layer"] if codes else results.best_layer.layer
    dense = results.one("probe_accuracy", "dense", target=label, layer=layer)
    if dense is not None:
        chosen = ", chosen by its codes," if results.codes_layer.chosen_on else ", the one with dictionaries,"
        chosen = chosen if codes else ""
        yield (
            f"A linear probe on layer {dense['layer']}{chosen} predicts the {label} of "
            f"{percent(dense['value'], 0)} of {count(dense['n'], 'clip')} of "
            f"{count(dense['groups'], f'unseen {noun}')}{_in_brackets(dense, run.few_groups(label, dense))}"
            f"{_other_layers(results, label)}."
            f"{unread_classes(run, label, dense)}"
        )
    if codes is not None and dense is not None:
        at, against = sparsity(codes["sparsity"]), against_layer(run, label, codes, dense)
        yield (
            f"On the codes of that layer at {at} sparsity it reaches {percent(codes['value'], 0)}, {against}."
            f"{describe_dimensions_read(dense, codes)}{unread_classes(run, label, codes)}"
        )
    rows = {name: results.one("probe_accuracy", name, target=label) for name in WITHOUT_MODEL}
    each = [
        f"{representation_label(name)} reach {percent(row['value'], 0)}"
        + (
            f", {against_layer(run, label, row, dense)}"
            if dense and run.predicted_by(label, row) is not None
            else _in_brackets(row)
        )
        for name, row in rows.items()
        if row
    ]
    if each:
        yield f"Without any model, {'; '.join(each)}."


def _other_layers(results: Results, label: str) -> str:
    """Return the range of the dense accuracies of all layers; empty for a single layer."""
    values = results.of("probe_accuracy", "dense", target=label)["value"].drop_nans().sort()
    if len(values) < 2:
        return ""
    return f"; the layers range from {percent(values[0], 0)} to {percent(values[-1], 0)}"


def _in_brackets(row: Row, groups: str = "") -> str:
    parts = list(filter(None, (interval_text(row, lambda end: percent(end, 0)), groups)))
    if untested(row):
        parts.append("too few groups to test")
    elif known(row["null_high"]):
        parts.append(f"chance up to {percent(row['null_high'], 0)}")
    return f" ({'; '.join(parts)})" if parts else ""


def _strict(run: RunData, results: StrictResults) -> Iterator[str]:
    main = results.main
    for comparison in results.task_comparisons[:1]:
        question = comparison.metric, DENSE, comparison.target
        codes_read = "the codes of the first seed" if len(results.sae_ids) > 1 else "the codes"
        rows = {"the layer": results.one(*question), codes_read: results.first_codes(question[0], question[2])}
        unread = [unread_classes(run, question[2], row, source=name) for name, row in rows.items() if row]
        of_task = _task(comparison, results, at=_sparsity(run, main) if main is not None else "")
        yield f"{of_task}{''.join(unread)}"
    dense, codes = results.one("predicted_share", DENSE), results.one("predicted_share", CODES)
    if dense is not None and codes is not None and known(dense["value"]) and known(codes["value"]):
        counts = [round(row["value"] * row["n"]) for row in (dense, codes)]
        compared = results.comparison("predicted_share")
        more = describe_counts(compared) if compared is not None else ""
        mean_r2 = results.comparison("mean_factor_r2")
        yield (
            f"{counts[0]} of {dense['n']} factors are predicted from the layer by LASSO ({LOW_BAR}), "
            f"{counts[1]} from the codes{more}. Counts have no interval and do not rank."
            f"{describe_told_by_groups(results)}"
            f"{_mean_r2(mean_r2.change, results) if mean_r2 is not None else ''}"
        )
    comparison = results.comparison("effective_latents")
    if comparison is not None and comparison.dense.measured and comparison.codes.measured:
        yield _compactness(comparison)


def _mean_r2(change: Estimate, results: StrictResults) -> str:
    """Return the paired difference of the mean R² as a sentence after a blank, because counts have no interval."""
    if not change.bounded or change.too_few_groups:
        return ""
    decision = describe_readers_of_factors(results)
    covered = predicted_by_either(len(results.sae_ids))
    return (
        f" Over the factors {covered}, the mean R² of the codes minus that of the layer is "
        f"{decimal_with_interval(change, 2)} by ridge regression{decision}."
    )


def _sparsity(run: RunData, codes: Row) -> str:
    """Return the sparsity of codes as a phrase, with the share of the layer's dimensions if that is large."""
    width = layer_width(run.cards, str(codes["sae_id"]))
    share = codes["k"] / width if width and codes["k"] else 0.0
    many = f" (k={codes['k']}, {percent(share, 0)} of the layer's dimensions)" if share >= DENSE_SHARE else ""
    return f" at {sparsity(codes['sparsity'])} sparsity{many}"


def _task(comparison: Comparison, results: StrictResults, *, at: str) -> str:
    text_of = decimal if comparison.metric == "task_r2" else percent

    def spanned(estimate: Estimate, interval: str = "") -> str:
        ends = f" ({interval}{text_of(estimate.low)} to {text_of(estimate.high)})" if estimate.bounded else ""
        return f"{text_of(estimate.value)}{ends}"

    score = "R²" if comparison.metric == "task_r2" else "balanced accuracy"
    numbers = (
        f"The {readable_name(comparison.target)}: {score} "
        f"{spanned(comparison.dense, f'95{NBSP}% interval ')} from layer {results.layer}, "
        f"{spanned(comparison.codes)} from its codes{at}"
    )
    if comparison.at_chance or comparison.untestable:
        return f"{numbers}. {describe_chance(comparison, results, text_of)}"
    if (best := comparison.best_baseline) is None:
        return f"{numbers}."
    baseline = f"{spanned(best.estimate)} from {best.label}, the {best.noun}"
    return f"{numbers}, {baseline}. {describe_advantage(comparison)}"


def _compactness(comparison: Comparison) -> str:
    equal, fewer = unlearned_as_compact(comparison), map(representation_label, more_compact(comparison))
    unlearned = f" The codes do not take fewer, beyond the interval, than {equal[0]}." if equal else ""
    if more := comma_list(fewer):
        unlearned = f" They take more, beyond the interval, than {more}."
    if less := comma_list(map(representation_label, less_compact(comparison))):
        unlearned += f" They take fewer, beyond the interval, than {less}."
    return (
        f"A factor takes {dimensions(comparison.dense.value)} effective dimensions of the layer and "
        f"{dimensions(comparison.codes.value)} of the codes. {describe_compactness(comparison)}{unlearned}"
    )
