"""The gallery: what single latents sound and look like when they fire."""

import re
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otoscope.report import words
from otoscope.report.folder import Run
from otoscope.report.html import Html, element, join

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


def gallery(run: Run, *, max_bytes: int = MAX_BYTES) -> Html:
    """Return a card a latent with its strongest clips, or a sentence that says why there are none."""
    moments = run.moments
    if moments is None:
        return element("p", "No gallery: this run has no moments (it has no factors, no dictionary, or no sound).")
    if moments.rows.is_empty():
        return element("p", "No gallery: no factor is predicted well enough for a latent to stand for it.")
    budget = _Budget(max_bytes)
    folder = run.folder / "moments"
    cards = [
        _latent(run, part.rows(named=True), folder, budget)
        for part in moments.rows.partition_by("latent", maintain_order=True)
    ]
    out = element("p", f"{words.count(budget.left_out, 'clip')} left out to keep the page small.", class_="quiet")
    return join(_introduction(moments.card), *cards, out if budget.left_out else None)


def _introduction(card: dict[str, Any]) -> Html:
    known: list[str] = []
    if "layer" in card:
        known.append(f"layer {card['layer']}")
    if words.known(card.get("sparsity")):
        known.append(f"{words.sparsity(card['sparsity'])} sparsity")
    of = f" of the dictionary at {', '.join(known)}" if known else ""
    return element(
        "p",
        f"For each of the best-predicted factors, the one latent{of} whose pooled code follows it best. The latent was "
        "chosen on training and validation groups; the correlation on test groups stands beside it, with the upper end "
        "of what the same choice gives for shuffled factors. Below are the clips in which the latent fires most, at "
        "most one a group first. The picture is a spectrogram (dark: quiet, bright: loud, 70 dB); the white curve is "
        "the latent's activation over time, on its own scale from 0 to the clip's maximum. These are the extremes, "
        "not typical clips.",
        class_="caption",
    )


def _latent(run: Run, rows: list[dict[str, Any]], folder: Path, budget: _Budget) -> Html:
    first = rows[0]
    direction = _direction(first["train_r"], first["test_r"], first["null_high"])
    facts = [
        f"test correlation {words.decimal(first['test_r'], 2)} on {words.count(first['test_clips'], 'clip')} of "
        f"{words.count(first['test_groups'], 'group')}",
        f"null |r| up to {words.decimal(first['null_high'], 2)}",
        f"train {words.decimal(first['train_r'], 2)}",
        f"R² of the factor from all codes on held-out groups {words.decimal(first['score'], 2)}",
        f"active in {words.percent(first['firing'], 0)} of clips",
    ]
    if first.get("seeds_asked"):
        facts.append(f"found again in {first['seeds_found']} of {first['seeds_asked']} other seeds")
    also = _also(first["also"]) if first["also"] else None
    clips = [clip for row in rows if (clip := _clip(row, folder, budget))]
    return element(
        "article",
        element(
            "h3",
            element("span", first["factor"], class_="factor"),
            " ",
            element("span", f"latent {first['latent']}, {run.category(first['factor'])}", class_="quiet"),
        ),
        element("p", f"{direction}: {'; '.join(facts)}.", class_="quiet"),
        element("p", also, class_="quiet") if also else None,
        element("div", *clips, class_="clips"),
        class_="latent",
    )


def _direction(train_r: float, test_r: float, null_high: float) -> str:
    """Say when a latent fires, or that test clips do not show it.

    The size of the test correlation must exceed its null and its sign must be that of the training clips.
    """
    if not words.known(test_r) or (words.known(null_high) and abs(test_r) <= null_high):
        return "Not beyond chance on test clips"
    if (test_r >= 0) != (train_r >= 0):
        return "Turned round on test clips"
    return "Fires when it is high" if train_r >= 0 else "Fires when it is low"


def _also(factors: list[str]) -> str:
    named, rest = factors[:MAX_ALSO], len(factors) - MAX_ALSO
    more = [words.count(rest, "further factor")] if rest > 0 else []
    return f"Also the best single latent for {words.listed([*named, *more])}."


def _clip(row: dict[str, Any], folder: Path, budget: _Budget) -> Html | None:
    sound, picture = folder / row["audio"], folder / row["picture"]
    if not sound.is_file() or not picture.is_file() or not budget.take(sound.stat().st_size + picture.stat().st_size):
        return None
    return element(
        "figure",
        _picture(row, picture),
        element(
            "audio", controls=True, preload="none", src=_data("audio/flac", sound), aria_label=f"Play {row['clip_id']}"
        ),
        element("figcaption", *_caption(row)),
        class_="clip",
    )


def _caption(row: dict[str, Any]) -> list[Html]:
    where = f"group {row['group']}" + (f", {row['split']}" if row["split"] else "")
    parts = [where, f"strength {words.decimal(row['strength'], 2)}"]
    if words.known(row["factor_value"]):
        parts.append(f"{row['factor']} = {_short(row['factor_value'])}")
    if row["from_s"] > 0:
        parts.append(f"cut from {row['from_s']:.2f} s on")
    return [element("span", _breakable(row["clip_id"]), class_="id"), element("span", "; ".join(parts), class_="quiet")]


def _breakable(name: str) -> Html:
    """Let a long name break after its slashes and underscores first."""
    pieces = re.findall(r"[^/_]*[/_]?", name)
    return join(*(join(piece, element("wbr")) for piece in pieces if piece))


def _picture(row: dict[str, Any], path: Path) -> Html:
    peak = f", strongest at {row['peak_s']:.2f} s" if words.known(row["peak_s"]) else ""
    alt = (
        f"Spectrogram of {row['clip_id']}, {row['duration_s']:.2f} s, 0 to {row['high_hz'] / 1000:.1f} kHz; "
        f"latent {row['latent']} drawn over it{peak}."
    )
    duration = row["duration_s"]
    return element(
        "div",
        element("img", src=_data("image/png", path), alt=alt, width=480, height=160, decoding="async"),
        _curve(row),
        element("span", class_="playhead", aria_hidden="true"),
        element("span", f"{row['high_hz'] / 1000:.3g} kHz", class_="tick top", aria_hidden="true"),
        element("span", "0 s", class_="tick left", aria_hidden="true"),
        element("span", f"{duration:.2f} s", class_="tick right", aria_hidden="true"),
        class_="picture",
        data_duration=f"{duration:.4f}",
    )


def _curve(row: dict[str, Any]) -> Html | None:
    """Draw the activation as steps, one a frame; nothing where codes exist for whole clips only."""
    if not row["activation"]:
        return None
    largest = max([*row["activation"], 1e-12])
    points: list[str] = []
    for value, start_s, end_s in zip(row["activation"], row["start_s"], row["end_s"], strict=True):
        y = 98 - 88 * max(value, 0.0) / largest
        for time_s in (start_s, end_s):
            points.append(f"{1000 * min(max(time_s / row['duration_s'], 0), 1):.1f},{y:.1f}")
    line = " ".join(points)
    outline = element("polyline", points=line, class_="halo", vector_effect="non-scaling-stroke")
    curve = element("polyline", points=line, vector_effect="non-scaling-stroke")
    return element("svg", outline, curve, viewBox="0 0 1000 100", preserveAspectRatio="none", aria_hidden="true")


def _short(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _data(kind: str, path: Path) -> str:
    return f"data:{kind};base64,{b64encode(path.read_bytes()).decode()}"
