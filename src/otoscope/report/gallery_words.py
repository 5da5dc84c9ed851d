"""What the gallery says: which dictionary its latents are of, and how far test groups bear each out."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from otoscope.explain.selection import MIN_ROWS
from otoscope.protocols.comparing import MIN_GROUPS
from otoscope.report import words
from otoscope.report.folder import Run
from otoscope.report.html import Html, element

CHANCE = "Not beyond chance on test clips"
TURNED = "Turned round on test clips"


def standing(row: Mapping[str, Any]) -> str:
    """Say when a latent fires, or why test clips do not show it.

    The size of the test correlation must exceed its null and its sign must be that of the training clips; with
    fewer than three test groups what is said is of these clips.
    """
    train_r, test_r, null_high = row["train_r"], row["test_r"], row["null_high"]
    way = "fires when the factor is high" if train_r >= 0 else "fires when the factor is low"
    if row["test_clips"] < MIN_ROWS:
        return f"Not tested, on fewer than {MIN_ROWS} test clips; on training and validation clips it {way}"
    if not words.known(test_r) or (words.known(null_high) and abs(test_r) <= null_high):
        return CHANCE
    if (test_r >= 0) != (train_r >= 0):
        return TURNED
    if row["test_groups"] < MIN_GROUPS:
        return f"In the clips of {words.count(row['test_groups'], 'test group')}, too few for a claim, it {way}"
    return way.capitalize()


def is_refuted(said: str) -> bool:
    """Tell whether test clips were asked and do not show what training clips did."""
    return said in (CHANCE, TURNED)


def tested_r2(run: Run, row: Mapping[str, Any]) -> list[str]:
    """Return how well all codes of the gallery's dictionary predict the factor on test groups; nothing if unknown."""
    card = run.moments.card if run.moments else {}
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
    bounded = words.known(one["low"]) and words.known(one["high"])
    within = f"95{words.NBSP}% interval {words.decimal(one['low'], 2)} to {words.decimal(one['high'], 2)}"
    return [
        f"R² from all codes on test groups {words.decimal(one['value'], 2)} ({within if bounded else 'no interval'})"
    ]


def introduction(run: Run) -> Html:
    """Say what a card of the gallery shows, and of which dictionary."""
    pooled = run.moments is not None and run.moments.card.get("pooling") == "pool_then_encode"
    strength = "code of the clip" if pooled else "mean code over the clip's frames, 0 where it does not fire"
    return element(
        "p",
        f"For each of the {_factors(run)} that codes predict best on validation groups, the one latent "
        f"{_dictionary(run)} whose pooled code follows it best; further factors of the same latent stand on its card. "
        "The latent was chosen on training and validation groups; the correlation on test groups stands beside it, "
        "with the upper end of what the same choice gives for shuffled factors. Below are the clips in which the "
        "latent fires most, of different groups as far as they go; they may be of training groups, the caption says "
        f"which. Strength is the latent's {strength}; it has no unit and compares clips of one latent, not latents. "
        "The picture is a spectrogram (dark: quiet, bright: loud, 70 dB); the white curve is the latent's activation "
        "over time, on its own scale from 0 to the clip's maximum. These are the extremes, not typical clips.",
        class_="caption",
    )


def _factors(run: Run) -> str:
    return words.count(run.moments.rows["factor"].n_unique() if run.moments else 0, "factor")


def _dictionary(run: Run) -> str:
    """Name the gallery's dictionary, and say whether it is one that the charts are drawn of."""
    card, results = (run.moments.card if run.moments else {}), run.results
    known: list[str] = [f"layer {card['layer']}"] if "layer" in card else []
    if words.known(card.get("sparsity")):
        known.append(f"{words.sparsity(card['sparsity'])} sparsity")
    named = f"of the dictionary {card['sae_id']}" if card.get("sae_id") else "of one dictionary"
    charted = results.of(["probe_accuracy", "factor_r2", "explained_variance"], "sae")
    if card.get("sae_id") in set(charted["sae_id"]):
        known.append("one of those that the charts show")
    elif card.get("sae_id"):
        known.append("not one of those that the charts show")
    if run.moments is not None and run.moments.rows["seeds_asked"].is_not_null().any():
        known.append("its latents were looked for in other seeds")
    return f"{named} ({', '.join(known)})" if known else named
