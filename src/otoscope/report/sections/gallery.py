"""The gallery: single latents with the clips that contain most of them, and their test on test groups."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from otoscope import formatting
from otoscope.explain.latent_choice import LatentOutcome, WithinClasses
from otoscope.factors.readable_names import readable_name
from otoscope.formatting import NBSP, comma_list, count, decimal, percent, sparsity
from otoscope.report.estimates import capitalised
from otoscope.report.evidence import containing_classes
from otoscope.report.run_data import RunData
from otoscope.report.sections.latent_cards import CardText, card_texts, measurement_note
from otoscope.report.sections.latent_sentences import (
    FactorRanks,
    also_sentence,
    class_note,
    correlation_facts,
    correlation_phrases,
    factor_ranks,
    outcome_text,
    shared_clips,
    short,
    within_classes_note,
)
from otoscope.report.tables import seed_sentence
from otoscope.resampling.intervals import MIN_GROUPS


def introduction(run: RunData) -> str:
    """Return the explanation of the cards, with the dictionary of the latents."""
    pooled = run.top_clips is not None and run.top_clips.card.get("pooling") == "pool_then_encode"
    strength = "code of the clip" if pooled else "mean code over the clip's frames, 0 where it does not fire"
    return (
        f"Each card shows the latent {_dictionary(run)} whose pooled code correlates best with {_targets(run)}; other "
        "classes and factors of the same latent are listed on its card. The latent and the class of its title were "
        "chosen on training and validation groups; further classes above chance are those on test clips. "
        f"{_compared(run)}, over all latents of classes, or of factors, together: by chance, any of "
        f"them exceeds it in 5{NBSP}% of galleries. {_agreement(run)}{_reappearing(run)}The clips are those that "
        "contain most of the latent, from different groups where possible; the caption names the split, which may be "
        "training. Strength is "
        f"the latent's {strength}; it has no unit and compares clips of one latent, not latents. The picture is a "
        "spectrogram (dark: quiet, bright: loud, 70 dB). The white curve is the activation of the latent over time, "
        "scaled from 0 to the clip's maximum. The sentence above the clips is written from the frames of train and "
        "validation groups, and scored on test groups. It tries voicing, ranges of quantities measured in each frame, "
        "and classes of clips; intervals of annotated labels are tested in a section of their own. Of the differences "
        "of its score from those of the last two controls, the one whose interval reaches lower is stated. "
        + seed_sentence("card_auroc", "Its mean score over the latents of a dictionary")
    )


def _compared(run: RunData) -> str:
    """Describe the clips that correlations compare, and the permutations of their null."""
    noun = _noun(run)
    if run.single_clip_groups:
        return (
            f"Correlations compare {noun}s, because each has a single clip. The test correlation is given with the "
            f"upper end for permuted {noun}s"
        )
    return (
        f"Correlations are computed within {noun}s, on deviations from the mean of each {noun}. The test correlation "
        f"is given with the upper end for clips permuted within each {noun}"
    )


def _agreement(run: RunData) -> str:
    """Return the number of groups that must agree, with a blank after it; empty where a group is a single clip."""
    if run.single_clip_groups:
        return ""
    return f"At least {MIN_GROUPS} test {_noun(run)}s, and most of them, must agree for a claim. "


def _noun(run: RunData) -> str:
    return str(run.corpus.get("group_noun") or "group")


def _targets(run: RunData) -> str:
    if run.top_clips is None:
        return "a factor"
    chosen = run.top_clips.rows.unique("latent")
    factors = chosen.filter(pl.col("label") == "").height
    of_factors = f"one of the {count(factors, 'factor')} that codes predict best on validation groups"
    return " or ".join([*(["a class of a label"] * (factors < chosen.height)), *([of_factors] * (factors > 0))])


def _dictionary(run: RunData) -> str:
    """Return the gallery's dictionary, and whether the charts show it."""
    card, results = (run.top_clips.card if run.top_clips else {}), run.results
    notes: list[str] = [f"layer {card['layer']}"] if "layer" in card else []
    if formatting.known(card.get("sparsity")):
        notes.append(f"{sparsity(card['sparsity'])} sparsity")
    name = f"of the dictionary {card['sae_id']}" if card.get("sae_id") else "of one dictionary"
    charted = results.of(["probe_accuracy", "factor_r2", "explained_variance"], "sae")
    if card.get("sae_id") in set(charted["sae_id"]):
        notes.append("shown in the charts")
    elif card.get("sae_id"):
        notes.append("not shown in the charts")
    if run.top_clips is not None and run.top_clips.rows["seeds_asked"].is_not_null().any():
        notes.append("its latents were matched to other seeds")
    return f"{name} ({', '.join(notes)})" if notes else name


def _reappearing(run: RunData) -> str:
    """Return what reappearance in other seeds does not show, with a blank after it; empty if it was not required."""
    if run.top_clips is None or run.top_clips.rows["seeds_asked"].is_null().all():
        return ""
    return (
        "Only latents found again in other seeds are shown. This alone is no sign of learning: without any training, "
        "dictionaries share latents too, above all with a common start, such as the principal axes. "
    )


MAX_BYTES = 8_000_000
"""Maximum size of sound and pictures before base64; clips beyond it are left out."""


@dataclass
class _Budget:
    left: int
    left_out: int = 0

    def take(self, size: int) -> bool:
        if size > self.left:
            self.left_out += 1
            return False
        self.left -= size
        return True


class ClipCard(NamedTuple):
    """One clip in which a latent fires; `curve` holds SVG points, empty where codes exist for whole clips only."""

    clip_id: str
    picture: str
    sound: str
    description: str
    caption: str
    curve: str
    duration_s: float
    high_hz: float
    split: str = ""


class LatentCard(NamedTuple):
    """One latent with its facts and strongest clips; `original` is the factor's name in the tables, if it differs."""

    factor: str
    original: str
    subtitle: str
    facts: str
    also: str
    clips: Sequence[ClipCard]
    card: CardText | None = None
    status: str = ""
    confirmed: bool = False
    """True if test clips of enough groups confirm the latent, of a factor also within the classes that differ in it."""
    kind: str = ""
    """The label of the latent's class; empty for a factor."""
    evidence: str = ""
    """The test correlation beside chance."""
    note: str = ""
    """Limits of the title: classes that a factor's latent may follow, another class, or other labels' clips."""


class Gallery(NamedTuple):
    """Cards of the gallery; `missing` says why there are none."""

    missing: str = ""
    introduction: str = ""
    cards: Sequence[LatentCard] = ()
    refuted: Sequence[LatentCard] = ()
    left_out: str = ""
    measured: str = ""
    """Measured quantities that name no latent, and a caveat on formants."""

    @property
    def tally(self) -> str:
        """Number of scored cards that beat their controls; empty if no card has a score to compare.

        >>> text = CardText("", "", "", [], beats_controls=True)
        >>> cards = [LatentCard("f0", "", "", "", "", [], card=one) for one in (text, text._replace(compared=False))]
        >>> Gallery(cards=cards).tally
        '1 of 1 scored card beats its controls (2 cards in all, 1 without a score to compare).'
        """
        cards = [one.card for one in (*self.cards, *self.refuted) if one.card]
        beats = [one.beats_controls for one in cards if one.compared]
        verb = "beats its" if sum(beats) == 1 else "beat their"
        unscored = len(cards) - len(beats)
        all_cards = f" ({count(len(cards), 'card')} in all, {unscored} without a score to compare)" if unscored else ""
        return f"{sum(beats)} of {count(len(beats), 'scored card')} {verb} controls{all_cards}." if beats else ""

    @property
    def refuted_title(self) -> str:
        """Heading of the latents that test groups do not confirm; their clips are hidden because they would mislead."""
        return f"{count(len(self.refuted), 'latent')} not confirmed on test groups, without clips"


def gallery(run: RunData) -> Gallery:
    """Return one card per latent with its strongest clips, or the reason why there are none."""
    top_clips = run.top_clips
    if top_clips is None or top_clips.rows.is_empty():
        return Gallery(f"No gallery: {_reason(run)}.")
    budget, places, texts = _Budget(MAX_BYTES), factor_ranks(run), card_texts(run.folder)
    labels = [name for name in run.labels if run.clips is not None and f"label_{name}" in run.clips.columns]
    shared = {} if run.clips is None else containing_classes(run.clips, labels)
    cards: list[LatentCard] = []
    refuted: list[LatentCard] = []
    for part in top_clips.rows.partition_by("latent", maintain_order=True):
        rows = part.rows(named=True)
        text = texts.get(rows[0]["latent"])
        if LatentOutcome(rows[0]["outcome"]).refutes:
            refuted.append(_latent(run, rows[:1], places, [], text, shared))
        else:
            clips = [c for row in rows if (c := _clip(row, run, places, budget))]
            cards.append(_latent(run, rows, places, clips, text, shared))
    left_out = f"{count(budget.left_out, 'clip')} left out to keep the page small." if budget.left_out else ""
    return Gallery("", introduction(run), cards, refuted, left_out, measurement_note(run))


def _reason(run: RunData) -> str:
    """Return the reason why a run has no gallery."""
    settings = run.config.get("report") or {}
    if settings.get("factors") == 0 and settings.get("classes") == 0:
        return "the configuration asks for none (`report.factors` and `report.classes` are 0)"
    if not run.factors.get("factors") and not run.labels:
        return "this run has no factors and no labels; `factors.egemaps`, `factors.truth` or `factors.table` adds some"
    if not run.cards:
        return "this run has no dictionary"
    if run.top_clips is None:
        return "no top-activating clips were written; run `otoscope explain`"
    return "no factor is predicted well enough, and no class has enough clips, to choose a latent"


def _latent(
    run: RunData,
    rows: list[dict[str, Any]],
    places: FactorRanks,
    clips: list[ClipCard],
    card: CardText | None,
    shared: Mapping[str, Sequence[str]],
) -> LatentCard:
    first = rows[0]
    facts = [
        *correlation_facts(first, _noun(run)),
        f"training correlation {decimal(first['train_r'], 2)}",
        f"active in {percent(first['firing'], 0)} of clips",
    ]
    if first.get("seeds_asked"):
        found = f"{first['seeds_found']} of {first['seeds_asked']} other seeds"
        facts.append(f"found again in {found}, a condition for every latent shown")
    if clips and not first["label"] and (span := places.span(first["factor"])):
        facts.append(span)
    name, status, note = readable_name(first["factor"]), outcome_text(first), ""
    kind = run.category(first["factor"])
    if first["label"]:
        name, kind = f"{first['label']}: {first['factor']}", "class of a label"
        note = class_note(run.explained("firing"), first, card.classes if card else ())
    elif first["train_r"] < 0:
        kind = f"{kind}, more of it where the value is low"
    within = WithinClasses(first["within_classes"])
    if within is WithinClasses.BETWEEN_CLASSES:
        name = f"{name}: between {comma_list(first['class_labels'])} classes only"
    classes = [f"{first['label']} {one}" for one in (first["factor"], *first["other_classes"])]
    named = classes if first["label"] else [first["of_class"]]
    named += [one.replace("=", " ", 1) for one in (card.classes if card else ())]
    note = " ".join(filter(None, [within_classes_note(first), note, *shared_clips(shared, named)]))
    return LatentCard(
        factor=name,
        original=first["factor"] if name != first["factor"] and not first["label"] else "",
        note=note,
        subtitle=f"latent {first['latent']}, {kind}",
        facts=f"{capitalised('; '.join(facts))}.",
        also=also_sentence(first["also"]) if first["also"] else "",
        clips=clips,
        card=card,
        status=status,
        confirmed=LatentOutcome(first["outcome"]) is LatentOutcome.CONFIRMED
        and within in (WithinClasses.HOLDS, WithinClasses.NOT_ASKED),
        kind=first["label"],
        evidence=", ".join(correlation_phrases(first, _noun(run))) if formatting.known(first["test_r"]) else "",
    )


def _clip(row: dict[str, Any], run: RunData, places: FactorRanks, budget: _Budget) -> ClipCard | None:
    folder = run.folder / "explain"
    sound, picture = folder / row["audio"], folder / row["picture"]
    if not sound.is_file() or not picture.is_file() or not budget.take(sound.stat().st_size + picture.stat().st_size):
        return None
    peak = f", strongest at {row['peak_s']:.2f} s" if formatting.known(row["peak_s"]) else ""
    return ClipCard(
        clip_id=row["clip_id"],
        picture=embed("image/png", picture),
        sound=embed("audio/flac", sound),
        description=(
            f"Spectrogram of {row['clip_id']}, {row['duration_s']:.2f} s, 0 to {row['high_hz'] / 1000:.1f} kHz; "
            f"activation of latent {row['latent']}{peak}."
        ),
        caption="; ".join(_caption(row, run, places)),
        curve=_curve(row),
        duration_s=row["duration_s"],
        high_hz=row["high_hz"],
        split=row["split"] or "",
    )


def _caption(row: dict[str, Any], run: RunData, places: FactorRanks) -> list[str]:
    group = f"group {row['group']}" + (f", {row['split']}" if row["split"] else "")
    labels = [f"{name} {value}" for name, value in run.labels_of(row["clip_id"]).items()]
    parts = [*([", ".join(labels)] if labels else []), group, f"strength {decimal(row['strength'], 2)}"]
    if formatting.known(row["factor_value"]):
        # correlations are those within groups, so that all clips are no comparison
        group = row["group"] if row["within"] else None
        rank = places.rank(row["factor"], row["factor_value"], group=group, sign=row["train_r"])
        parts.append(f"{readable_name(row['factor'])} = {short(row['factor_value'])}" + (f", {rank}" if rank else ""))
    if row["from_s"] > 0:
        parts.append(f"starts at {row['from_s']:.2f} s of the clip")
    return parts


def _curve(row: dict[str, Any]) -> str:
    """Return the activation as points of a step curve, one step per frame."""
    largest = max([*row["activation"], 1e-12])
    points: list[str] = []
    for value, start_s, end_s in zip(row["activation"], row["start_s"], row["end_s"], strict=True):
        y = 98 - 88 * max(value, 0.0) / largest
        for time_s in (start_s, end_s):
            points.append(f"{1000 * min(max(time_s / row['duration_s'], 0), 1):.1f},{y:.1f}")
    return " ".join(points)


def embed(kind: str, path: Path) -> str:
    """Return a file as a data address."""
    return f"data:{kind};base64,{b64encode(path.read_bytes()).decode()}"
