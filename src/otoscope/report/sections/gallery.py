"""The gallery: what single latents sound and look like when they fire.

What the gallery says: which dictionary its latents are of, and how far test groups bear each out.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from otoscope import formatting
from otoscope.explain.selection import MIN_ROWS
from otoscope.formatting import NBSP, comma_list, count, decimal, percent, sparsity
from otoscope.protocols.comparing import MIN_GROUPS
from otoscope.report.run_data import RunData
from otoscope.report.sections.factor_ranks import FactorRanks, factor_ranks, short

CHANCE = "Not beyond chance on test clips"
TURNED = "Turned round on test clips"


def latent_status(row: Mapping[str, Any]) -> str:
    """Say when a latent fires, or why test clips do not show it.

    The size of the test correlation must exceed its null and its sign must be that of the training clips; with
    fewer than three test groups what is said is of these clips.
    """
    train_r, test_r, null_high = row["train_r"], row["test_r"], row["null_high"]
    way = "fires when the factor is high" if train_r >= 0 else "fires when the factor is low"
    if row["test_clips"] < MIN_ROWS:
        return f"Not tested, on fewer than {MIN_ROWS} test clips; on training and validation clips it {way}"
    if not formatting.known(test_r) or (formatting.known(null_high) and abs(test_r) <= null_high):
        return CHANCE
    if (test_r >= 0) != (train_r >= 0):
        return TURNED
    if row["test_groups"] < MIN_GROUPS:
        return f"In the clips of {count(row['test_groups'], 'test group')}, too few for a claim, it {way}"
    return way.capitalize()


def is_refuted(said: str) -> bool:
    """Tell whether test clips were asked and do not show what training clips did."""
    return said in (CHANCE, TURNED)


def test_r2_notes(run: RunData, row: Mapping[str, Any]) -> list[str]:
    """Return how well all codes of the gallery's dictionary predict the factor on test groups; nothing if unknown."""
    card = run.top_clips.card if run.top_clips else {}
    # where other seeds were asked, the strict protocol ranked the factors
    protocol = "strict" if row.get("seeds_asked") else run.results.protocol
    found = run.results.rows.filter(
        (pl.col("metric") == "factor_r2")
        & (pl.col("split") == "test")
        & (pl.col("protocol") == protocol)
        & (pl.col("sae_id") == card.get("sae_id", ""))
        & (pl.col("target") == row["factor"])
        & pl.col("value").is_not_nan()
    )
    if found.is_empty():
        return []
    one = found.row(0, named=True)
    bounded = formatting.known(one["low"]) and formatting.known(one["high"])
    within = f"95{NBSP}% interval {decimal(one['low'], 2)} to {decimal(one['high'], 2)}"
    return [f"R² from all codes on test groups {decimal(one['value'], 2)} ({within if bounded else 'no interval'})"]


def introduction(run: RunData) -> str:
    """Return what a card of the gallery shows, and of which dictionary."""
    pooled = run.top_clips is not None and run.top_clips.card.get("pooling") == "pool_then_encode"
    strength = "code of the clip" if pooled else "mean code over the clip's frames, 0 where it does not fire"
    return (
        f"For each of the {_factors(run)} that codes predict best on validation groups, the one latent "
        f"{_dictionary(run)} whose pooled code follows it best; further factors of the same latent stand on its card. "
        "The latent was chosen on training and validation groups; the correlation on test groups stands beside it, "
        "with the upper end of what the same choice gives for shuffled factors. Below are the clips in which the "
        "latent fires most, of different groups as far as they go; they may be of training groups, the caption says "
        f"which. Strength is the latent's {strength}; it has no unit and compares clips of one latent, not latents. "
        "The picture is a spectrogram (dark: quiet, bright: loud, 70 dB); the white curve is the latent's activation "
        "over time, on its own scale from 0 to the clip's maximum. These are the extremes, not typical clips."
    )


def _factors(run: RunData) -> str:
    return count(run.top_clips.rows["factor"].n_unique() if run.top_clips else 0, "factor")


def _dictionary(run: RunData) -> str:
    """Name the gallery's dictionary, and say whether it is one that the charts are drawn of."""
    card, results = (run.top_clips.card if run.top_clips else {}), run.results
    known: list[str] = [f"layer {card['layer']}"] if "layer" in card else []
    if formatting.known(card.get("sparsity")):
        known.append(f"{sparsity(card['sparsity'])} sparsity")
    named = f"of the dictionary {card['sae_id']}" if card.get("sae_id") else "of one dictionary"
    charted = results.of(["probe_accuracy", "factor_r2", "explained_variance"], "sae")
    if card.get("sae_id") in set(charted["sae_id"]):
        known.append("one of those that the charts show")
    elif card.get("sae_id"):
        known.append("not one of those that the charts show")
    if run.top_clips is not None and run.top_clips.rows["seeds_asked"].is_not_null().any():
        known.append("its latents were looked for in other seeds")
    return f"{named} ({', '.join(known)})" if known else named


MAX_ALSO = 5
"""Further factors of the same latent that are named; the rest is counted."""
MAX_BYTES = 8_000_000
"""Sound and pictures that the gallery may hold, before base64; later clips are left out beyond it."""


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


class LatentCard(NamedTuple):
    """One latent with its facts and its strongest clips."""

    factor: str
    subtitle: str
    facts: str
    also: str
    clips: Sequence[ClipCard]


class Gallery(NamedTuple):
    """Cards of the gallery; `missing` says why there are none."""

    missing: str = ""
    introduction: str = ""
    cards: Sequence[LatentCard] = ()
    refuted: Sequence[LatentCard] = ()
    left_out: str = ""

    @property
    def refuted_title(self) -> str:
        """Heading over the latents that test groups do not bear out; their clips would mislead."""
        return f"{count(len(self.refuted), 'latent')} that test groups do not bear out, without clips"


def gallery(run: RunData, *, max_bytes: int = MAX_BYTES) -> Gallery:
    """Return one card per latent with its strongest clips, or the reason why there are none."""
    top_clips = run.top_clips
    if top_clips is None:
        return Gallery(
            "No gallery: this run has no top-activating clips (it has no factors, no dictionary, or no sound)."
        )
    if top_clips.rows.is_empty():
        return Gallery("No gallery: no factor is predicted well enough for a latent to stand for it.")
    budget, places = _Budget(max_bytes), factor_ranks(run)
    cards: list[LatentCard] = []
    refuted: list[LatentCard] = []
    for part in top_clips.rows.partition_by("latent", maintain_order=True):
        rows = part.rows(named=True)
        if is_refuted(latent_status(rows[0])):
            refuted.append(_latent(run, rows[:1], places, []))
        else:
            cards.append(_latent(run, rows, places, [c for row in rows if (c := _clip(row, run, places, budget))]))
    left_out = f"{count(budget.left_out, 'clip')} left out to keep the page small." if budget.left_out else ""
    return Gallery("", introduction(run), cards, refuted, left_out)


def _latent(run: RunData, rows: list[dict[str, Any]], places: FactorRanks, clips: list[ClipCard]) -> LatentCard:
    first = rows[0]
    facts = [
        *_tested(first),
        f"train {decimal(first['train_r'], 2)}",
        *test_r2_notes(run, first),
        f"active in {percent(first['firing'], 0)} of clips",
    ]
    if first.get("seeds_asked"):
        facts.append(f"found again in {first['seeds_found']} of {first['seeds_asked']} other seeds")
    if clips and (span := places.span(first["factor"])):
        facts.append(span)
    return LatentCard(
        factor=first["factor"],
        subtitle=f"latent {first['latent']}, {run.category(first['factor'])}",
        facts=f"{latent_status(first)}: {'; '.join(facts)}.",
        also=_also(first["also"]) if first["also"] else "",
        clips=clips,
    )


def _tested(row: dict[str, Any]) -> list[str]:
    on = f"on {count(row['test_clips'], 'clip')} of {count(row['test_groups'], 'group')}"
    if not formatting.known(row["test_r"]):
        return [f"no test correlation {on}"]
    chance = [f"by chance |r| up to {decimal(row['null_high'], 2)}"] if formatting.known(row["null_high"]) else []
    return [f"test correlation {decimal(row['test_r'], 2)} {on}", *chance]


def _also(factors: list[str]) -> str:
    named, rest = factors[:MAX_ALSO], len(factors) - MAX_ALSO
    more = [count(rest, "further factor")] if rest > 0 else []
    return f"Also the best single latent for {comma_list([*named, *more])}."


def _clip(row: dict[str, Any], run: RunData, places: FactorRanks, budget: _Budget) -> ClipCard | None:
    folder = run.folder / "explain"
    sound, picture = folder / row["audio"], folder / row["picture"]
    if not sound.is_file() or not picture.is_file() or not budget.take(sound.stat().st_size + picture.stat().st_size):
        return None
    peak = f", strongest at {row['peak_s']:.2f} s" if formatting.known(row["peak_s"]) else ""
    return ClipCard(
        clip_id=row["clip_id"],
        picture=_data("image/png", picture),
        sound=_data("audio/flac", sound),
        description=(
            f"Spectrogram of {row['clip_id']}, {row['duration_s']:.2f} s, 0 to {row['high_hz'] / 1000:.1f} kHz; "
            f"latent {row['latent']} drawn over it{peak}."
        ),
        caption="; ".join(_caption(row, places)),
        curve=_curve(row),
        duration_s=row["duration_s"],
        high_hz=row["high_hz"],
    )


def _caption(row: dict[str, Any], places: FactorRanks) -> list[str]:
    where = f"group {row['group']}" + (f", {row['split']}" if row["split"] else "")
    parts = [where, f"strength {decimal(row['strength'], 2)}"]
    if formatting.known(row["factor_value"]):
        rank = places.rank(row["factor"], row["factor_value"])
        parts.append(f"{row['factor']} = {short(row['factor_value'])}" + (f", {rank}" if rank else ""))
    if row["from_s"] > 0:
        parts.append(f"cut from {row['from_s']:.2f} s on")
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


def _data(kind: str, path: Path) -> str:
    return f"data:{kind};base64,{b64encode(path.read_bytes()).decode()}"
