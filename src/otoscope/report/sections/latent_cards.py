"""Cards in the gallery: when a latent fires in words, its blind score with controls, its timing and responses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from otoscope.artifacts import read_table
from otoscope.explain import DESCRIPTORS
from otoscope.explain.annotated_labels import ALPHA
from otoscope.explain.card_tables import SILENCE_DB
from otoscope.explain.frame_descriptors import descriptors_behind, pitch_hz
from otoscope.explain.temporal_profile import SLOWEST_HZ
from otoscope.formatting import NBSP, comma_list, count, decimal, interval_text, known, nothing_exceeds, percent
from otoscope.report.figures.latents import SCORED, beats_controls, card_sentence, names_nothing, too_few
from otoscope.report.run_data import RunData
from otoscope.resampling.intervals import MIN_GROUPS

FORMANTS = ("f1_hz", "f2_hz", "f3_hz")
"""Descriptors that are formants."""
MAX_RESPONSES = 3
"""Response curves shown per latent."""
MIN_SILENT = 0.05
"""Share of a latent's firing in silent frames from which on the card states it."""
MIN_R2 = 0.01
"""Share of the activation that a shown response curve explains in unseen groups, at least."""


class ResponsePlot(NamedTuple):
    """A response curve as SVG points in a box of 1000 x 100, with its description and the ends of its axis."""

    title: str
    description: str
    curve: str
    band: str
    low: str
    high: str


class CardText(NamedTuple):
    """Texts of a card; `score` begins with a warning, and `sentence` has one, if the card does not beat its controls.

    `backed` is the sentence without its conditions if the card does not beat its controls, or cannot be compared with
    them (`compared`): without a condition or a score, or with too few test groups or clips.
    """

    sentence: str
    score: str
    timing: str
    responses: Sequence[ResponsePlot]
    backed: str = ""
    beats_controls: bool = False
    silence: str = ""
    compared: bool = True
    classes: Sequence[str] = ()
    """Classes that the sentence names, as `label=class`."""
    examples: str = ""
    """Frames at quantiles of the activation, and silent ones that look alike."""
    annotated: str = ""
    """Annotated labels that the latent follows beyond chance, as a sentence."""


def card_texts(folder: Path) -> dict[int, CardText]:
    """Return the cards of a run by latent; empty if none were written."""
    paths = [folder / "explain" / f"{name}.parquet" for name in ("cards", "responses")]
    if not all(path.is_file() for path in paths):
        return {}
    cards, responses = map(read_table, paths)
    others = [folder / "explain" / f"{name}.parquet" for name in ("examples", "near_misses")]
    examples = [read_table(path) for path in others if path.is_file()]
    annotated = folder / "explain" / "annotated_labels.parquet"
    labels = read_table(annotated) if annotated.is_file() else None
    odd = sorted(filter(known, cards["intruder_logmel"]))
    spread = f"; all cards here {percent(odd[0], 0)} to {percent(odd[-1], 0)}" if len(odd) > 1 else ""
    return {
        row["latent"]: CardText(
            card_sentence(row),
            _score(row, spread),
            _timing(row),
            _plots(responses.filter(pl.col("latent") == row["latent"])),
            _backed(row),
            beats_controls(row),
            _silence(row),
            not too_few(row) and known(row["auroc"]) and not names_nothing(row),
            json.loads(row["classes"]),
            " ".join(_examples(part.filter(pl.col("latent") == row["latent"])) for part in examples).strip(),
            _annotated(labels, row["latent"]),
        )
        for row in cards.iter_rows(named=True)
    }


def measurement_note(run: RunData) -> str:
    """Return which measured quantities name no latent, and a caveat where formants name any; empty without either."""
    noun, said = str(run.corpus.get("group_noun") or "group"), list[str]()
    if (measured := run.explained("measurements")) is not None:
        left_out = measured.filter(~pl.col("names_latents"))
        names = [DESCRIPTORS[name].label.removeprefix("openSMILE's ") for name in left_out["descriptor"]]
        r = comma_list(decimal(value, 2) for value in left_out["r"])
        if names:
            said.append(
                f"openSMILE's values of {comma_list(names)} do not follow the true ones on these clips (correlation "
                f"within {noun}s {r}), so no title, card, response curve, intervention or erasure rests on them."
            )
    cards, responses = run.explained("cards"), run.explained("responses")
    sentences = [] if cards is None else cards["sentence"].to_list()
    shown = set() if responses is None else set(_shown_responses(responses)["descriptor"])
    titles = set() if run.top_clips is None else set(run.top_clips.rows["factor"])
    named = {name for title in titles for name in descriptors_behind(title)}
    if any(name in named | shown or any(DESCRIPTORS[name].label in one for one in sentences) for name in FORMANTS):
        said.append(
            "Formants are openSMILE's: where true ones are known (on the synthesiser's clips), they barely correlate "
            "with these, and linear prediction is unreliable for high voices."
        )
    return " ".join(said)


def _backed(row: Mapping[str, Any]) -> str:
    """Return the sentence with its conditions only if they predict the frames of test groups."""
    if beats_controls(row) or names_nothing(row):
        return row["sentence"]
    rate = row["sentence"].split(":", 1)[0]
    if not known(row["auroc"]):
        return f"{rate}; no test group can show whether a condition predicts them."
    if few := too_few(row):
        return f"{rate}; too few {few} to show whether a condition predicts them."
    return (
        f"{rate}; the conditions tried (voicing, ranges of quantities measured in the frame, classes of clips) do not "
        "predict them better than the controls of its card."
    )


def _annotated(scores: pl.DataFrame | None, latent: int) -> str:
    """Return the annotated labels that a latent follows beyond chance as a sentence; empty without any."""
    if scores is None:
        return ""
    beyond = (pl.col("p_value") < ALPHA) & (pl.col("groups") >= MIN_GROUPS)
    each: list[str] = []
    for row in scores.filter(beyond, unit="latent", number=latent).sort("f1", descending=True).iter_rows(named=True):
        name = row["label"] if row["label"] == row["tier"] else f"{row['tier']} {row['label']}"
        f1, chance = f1_and_chance(row)
        each += [f"{name} (F1 {f1}, chance up to {chance})"] if chance else []
    return (
        f"Of the annotated labels (below), it follows {comma_list(each)} in the frames of test groups." if each else ""
    )


def f1_and_chance(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return both as text, with another digit where they would read alike; chance is empty where no F1 exceeds it."""
    both = row["f1"], row["f1_null_high"]
    f1, chance = (decimal(value, 2) for value in both)
    if f1 == chance:
        f1, chance = (decimal(value, 3) for value in both)
    return f1, "" if nothing_exceeds(row["f1_null_high"]) else chance


def _silence(row: Mapping[str, Any]) -> str:
    """Describe the share of firing in silent frames; empty if it is small, or below half of that of all frames."""
    if not known(row["silent"]) or row["silent"] < max(MIN_SILENT, row["silence"] / 2):
        return ""
    return (
        f"{percent(row['silent'], 0)} of the frames in which it fires are silent ({SILENCE_DB:.0f} dB or more below "
        f"the loudest of their clip), against {percent(row['silence'], 0)} of all frames."
    )


def _score(row: Mapping[str, Any], spread: str) -> str:
    """Return the blind score beside its controls, and whether it beats them; `spread` is of all odd frames found."""
    groups = count(row["groups"], "test group")
    if not known(row["auroc"]):
        return "The card has no blind score: in no test group does the latent both fire and stay silent."
    if names_nothing(row):
        return "The card states no condition, so it predicts nothing."
    few = row["groups"] < MIN_GROUPS
    interval = "" if few else interval_text(row, lambda end: decimal(end, 2))
    reached = ", ".join(filter(None, [f"within {groups}", interval]))
    controls = {
        f"firing moved to other clips, over {count(row['family'], 'card')} together, up to": row["permuted_high"],
        "cards of other latents": row["others"],
        "the level alone": row["level"],
    }
    beside = ", ".join(f"{name} {decimal(value, 2)}" for name, value in controls.items() if known(value))
    if not few and known(row["lead_low"]):
        ends = interval_text({"low": row["lead_low"], "high": row["lead_high"]}, lambda end: decimal(end, 2))
        beside += f"; difference from {_nearer(row)} in the same groups {decimal(row['lead'], 2)}, {ends}"
    verdict = "" if row["beats_controls"] else "This card does not beat its controls. "
    if few:
        verdict = f"{groups}: too few to compare the card with its controls. "
    elif too_few(row):
        verdict = "Too few test clips to compare the card with its controls. "
    named = {
        "firing moved to other clips": "permuted_high",
        "cards of other latents": "others",
        "the level alone": "level",
    }
    more = [name for name, control in named.items() if known(row[control]) and row["auroc"] <= row[control]]
    if verdict and more:
        verdict += f"On these clips it predicts no more than {comma_list(more)}. "
    odd = row["intruder_logmel"]
    found = f"{percent(odd, 0)} of trials (guessing 20{NBSP}%{spread})"
    intruder = f" Odd frame out found by its spectrum in {found}." if known(odd) else ""
    return (
        f"{verdict}Frames predicted from the card alone: AUROC {decimal(row['auroc'], 2)} {reached} "
        f"({beside}).{intruder}"
    )


def _nearer(row: Mapping[str, Any]) -> str:
    """Return the control whose difference from the card is `lead`; all three scores are means over the same groups."""
    compared = [name for name in ("level", "others") if known(row[name])]
    found = min(compared, key=lambda name: abs(row["auroc"] - row[name] - row["lead"]))
    return "the level alone" if found == "level" else SCORED[found]


def _timing(row: Mapping[str, Any]) -> str:
    """Return duration, lag and modulation of firing."""
    parts: list[str] = []
    if known(row["duration_s"]):
        parts.append(f"fires for {1000 * row['duration_s']:.0f} ms at a time (median)")
    if known(row["lag_s"]):
        way = "after" if row["lag_s"] >= 0 else "before"
        heard = "" if row["lag_s"] >= 0 else "; a frame also depends on the sound after it"
        lasting = f"{row['lag_onsets']:,} of {row['onsets']:,} onsets last to its maximum"
        parts.append(f"rises {1000 * abs(row['lag_s']):.0f} ms {way} sound onsets ({lasting}{heard})")
    if known(row["syllable_share"]):
        share = percent(row["syllable_share"], 0)
        parts.append(f"{share} of its modulation above {SLOWEST_HZ:g}{NBSP}Hz is from 4 to 8{NBSP}Hz")
    return f"In time: {'; '.join(parts)}." if parts else ""


def _examples(rows: pl.DataFrame) -> str:
    """Return where a latent fires at quantiles of its activation, or is silent in frames that look alike."""
    parts: list[str] = []
    for kind, title in (("quantile", "Typical frames"), ("near_miss", "Silent although the spectrum is close")):
        each = [
            f"{row['clip_id']} at {decimal(row['start_s'], 2)}{NBSP}s"
            + (f" ({percent(row['quantile'], 0)} quantile, {decimal(row['activation'], 2)})" if row["quantile"] else "")
            for row in rows.filter(pl.col("kind") == kind).iter_rows(named=True)
        ]
        parts += [f"{title}: {comma_list(each)}."] if each else []
    return " ".join(parts)


def _plots(responses: pl.DataFrame) -> list[ResponsePlot]:
    """Return the curves that predict unseen groups beyond their null and by `MIN_R2`, best first."""
    shown = _shown_responses(responses).sort("r2", "bin", descending=[True, False], maintain_order=True)
    parts = shown.partition_by("descriptor", maintain_order=True)[:MAX_RESPONSES]
    return [_plot(part.sort("bin")) for part in parts]


def _shown_responses(responses: pl.DataFrame) -> pl.DataFrame:
    return responses.filter(pl.col("responds") & (pl.col("r2") >= MIN_R2))


def _plot(rows: pl.DataFrame) -> ResponsePlot:
    first = rows.row(0, named=True)
    descriptor = DESCRIPTORS[first["descriptor"]]
    medians, means = rows["median"].to_list(), rows["mean"].to_list()
    lows = [low if known(low) else mean for low, mean in zip(rows["low"], means, strict=True)]
    highs = [high if known(high) else mean for high, mean in zip(rows["high"], means, strict=True)]
    top = max([*highs, *means, 1e-12])
    start, span = medians[0], max(medians[-1] - medians[0], 1e-12)

    def point(x: float, y: float) -> str:
        return f"{1000 * (x - start) / span:.1f},{96 - 92 * min(max(y, 0.0), top) / top:.1f}"

    ends = [_axis(first["descriptor"], value) for value in (medians[0], medians[-1])]
    name = f"{descriptor.label} ({'Hz' if _is_pitch(first['descriptor']) else descriptor.unit})".replace(" ()", "")
    facts = (
        f"R² {decimal(first['r2'], 2)} on unseen groups, null of all curves up to {decimal(first['null_high'], 2)}, "
        f"best mel band {decimal(first['band_r2'], 2)}"
    )
    return ResponsePlot(
        title=f"{name}: {facts}",
        description=f"Mean activation against {name}, from {ends[0]} to {ends[1]}; {facts}.",
        curve=" ".join(map(point, medians, means)),
        band=" ".join([*map(point, medians, highs), *map(point, reversed(medians), reversed(lows))]),
        low=ends[0],
        high=ends[1],
    )


def _is_pitch(name: str) -> bool:
    return name == "f0_semitones"


def _axis(name: str, value: float) -> str:
    shown = pitch_hz(value) if _is_pitch(name) else value
    return decimal(shown, 0 if abs(shown) >= 10 else 1)
