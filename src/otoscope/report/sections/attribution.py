"""Attribution: decisions as sums over latents, occluded cells of the sound, and firing regions played alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from otoscope.artifacts import resolve_inside
from otoscope.formatting import comma_list, count, decimal, in_brackets, known, percent
from otoscope.report.run_data import RunData
from otoscope.report.sections.gallery import embed
from otoscope.report.tables import Table, seed_sentence, table
from otoscope.resampling.intervals import MIN_GROUPS


class RegionSound(NamedTuple):
    """A latent, and the sound of its firing region as a data address."""

    latent: int
    source: str


class Attribution(NamedTuple):
    """Paragraphs, the table of masked sounds, and sounds to hear."""

    paragraphs: Sequence[str]
    masked: Table | None
    sounds: Sequence[RegionSound]


def attribution(run: RunData) -> Attribution | None:
    """Return the section; None if nothing was attributed."""
    decisions, masked, summary = (run.explained(name) for name in ("decisions", "masked", "attribution"))
    if decisions is None and summary is None:
        return None
    paragraphs: list[str] = []
    if decisions is not None:
        lead = seed_sentence("ablation_flip_lead", "The share of flipped decisions beyond the control")
        paragraphs += [
            f"{DECISIONS} {lead}",
            *(_decision(part) for part in decisions.partition_by("label", maintain_order=True)),
        ]
    means = {} if summary is None else {row["quantity"]: row for row in summary.iter_rows(named=True)}
    if "deletion_lead" in means:
        paragraphs.append(_occlusion(means))
    if masked is None or "retained" not in means:
        return Attribution(paragraphs, None, [])
    folder = run.folder / "explain"
    shown = masked.group_by("latent", maintain_order=True).agg(
        pl.len().alias("clips"), pl.col("area", "energy", "in_region", "retained", "random", "random_energy").mean()
    )
    sounds = [
        RegionSound(row["latent"], embed("audio/flac", resolve_inside(folder, row["audio"])))
        for row in masked.filter(pl.col("audio") != "").iter_rows(named=True)
    ]
    return Attribution(
        [*paragraphs, _masked(means)], table(shown, caption="Firing regions played alone", digits=2), sounds
    )


DECISIONS = (
    "A probe of the pooled reconstruction decides for a class; its margin over the second-best class is a sum with "
    "one term per latent. Latents with the largest terms were set to zero. The control sets as many other active "
    "latents of the clip to zero, scaled to the same change of the reconstruction."
)


def _decision(rows: pl.DataFrame) -> str:
    first = rows.row(0, named=True)
    each = [
        f"{count(row['removed'], 'latent')} {percent(row['flipped'], 0)} (random latents {percent(row['others'], 0)})"
        for row in rows.iter_rows(named=True)
    ]
    above = [row["removed"] for row in rows.iter_rows(named=True) if known(row["low"]) and row["low"] > 0]
    verdict = "never beyond random latents" if not above else f"beyond random latents with {comma_list(above)}"
    few = "; too few test groups for a claim" if first["groups"] < MIN_GROUPS else ""
    return (
        f"{first['label']} (accuracy {percent(first['accuracy'], 0)}, {count(first['clips'], 'test clip')}): share of "
        f"decisions flipped by {comma_list(each)}; {verdict}{few}."
    )


def _occlusion(means: Mapping[str, Mapping[str, Any]]) -> str:
    """Compare the areas under the curves of relevance with those of the spectrogram and of a random order."""
    titles = {"relevance": "relevance", "spectrogram": "the spectrogram's energy", "random": "chance"}
    each = [
        f"{decimal(means[f'deletion_{name}']['value'], 2)} and {decimal(means[f'insertion_{name}']['value'], 2)} in "
        f"the order of {title}"
        for name, title in titles.items()
    ]
    deletion, insertion = means["deletion_lead"], means["insertion_lead"]
    leads = f"leads {decimal(deletion['value'], 2)}{in_brackets(deletion)} and "
    leads += f"{decimal(insertion['value'], 2)}{in_brackets(insertion)}"
    if not known(deletion["low"]):
        verdict = f"The comparison with the spectrogram has no interval ({leads})."
    elif min(deletion["low"], insertion["low"]) > 0:
        verdict = f"Relevance finds the cells that matter better than the spectrogram itself ({leads})."
    else:
        verdict = f"Relevance does not beat the spectrogram itself on both measures ({leads})."
    return (
        f"Cells of a time-frequency grid were silenced in one clip of each of {count(deletion['clips'], 'latent')}. "
        "Relevance is the decrease of the latent's mean activation when one cell is silenced. Mean activation left, "
        f"relative to the untouched clip, while cells are silenced and while they are restored: {comma_list(each)}. "
        f"{verdict}"
    )


def _masked(means: Mapping[str, Mapping[str, Any]]) -> str:
    own, random, lead = (means[name] for name in ("retained", "random", "retained_lead"))
    return (
        "Only the frames in which a latent exceeds half of its maximum were played and encoded again. The retained "
        "share of the clip's summed activation is compared with that of regions of equal area and similar energy, "
        f"moved in time. Mean over {count(own['clips'], 'clip')} of {count(own['groups'], 'test group')}: "
        f"{decimal(own['value'], 2)} against {decimal(random['value'], 2)}, a difference of "
        f"{decimal(lead['value'], 2)}{in_brackets(lead)}."
    )
