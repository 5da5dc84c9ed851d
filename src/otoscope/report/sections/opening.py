"""Lead paragraphs of both pages: model, sound, question, and the answer in one sentence."""

from collections.abc import Sequence
from typing import NamedTuple

from otoscope.formatting import comma_list, count
from otoscope.report.evidence import Evidence, cross_fit_note, readers_of_run
from otoscope.report.run_data import RunData
from otoscope.resampling.intervals import MIN_GROUPS

FEW_GROUPS = 5
"""Up to this many test groups the lead explains how little an interval over so few groups says."""

STUDY = (
    "Mariotte et al. (Sparse Autoencoders Make Audio Foundation Models more Explainable, arXiv 2509.24793) make three "
    "claims about sparse autoencoders (SAEs), which rewrite the output of a layer of an audio model as a few active "
    "parts out of many: sparse codes keep the layer's information about a task, an attribute of the voice takes fewer "
    "of their dimensions, and pitch is found in early layers, formants and phonemes in late ones. The study examined "
    "AST, HuBERT, WavLM and MERT on singing techniques in VocalSet."
)


class Opening(NamedTuple):
    """Lead paragraphs of a page; `study` and `answer` are empty if no claims were examined."""

    study: str
    question: str
    answer: str
    caveat: str


def opening(run: RunData, rests_on: Evidence | None, answers: Sequence[tuple[str, str]] = ()) -> Opening:
    """Return the lead paragraphs; `answers` are claims and outcomes, if claims were examined."""
    caveat = ""
    if rests_on is not None and MIN_GROUPS <= rests_on.groups <= FEW_GROUPS:
        caveat = (
            f" Only {rests_on.groups} groups are tested: an interval over so few is little more than the range "
            "of their values, so only large differences can be distinguished from zero."
        )
    return Opening(
        study=STUDY if answers else "",
        question=_asked(run, rests_on, claims=bool(answers)),
        answer="; ".join(f"{claim[:1].lower()}{claim[1:]} – {outcome}" for claim, outcome in answers),
        caveat=caveat,
    )


def _asked(run: RunData, rests_on: Evidence | None, *, claims: bool) -> str:
    layers = run.results.layers
    model = f"{run.encoder}, {_layers(layers)}," if layers else run.encoder
    scored = ""
    if set(run.results.protocols) == {"mariotte2025"}:
        scored = (
            " All numbers follow the study's method: factors are fitted and scored on the same clips, so the numbers "
            "say nothing about other clips."
        )
    elif rests_on is not None:
        scored = f" Scores are computed on {rests_on.description} that were not used for any fit or choice."
        if note := cross_fit_note(run, readers_of_run(run)):
            scored = f" {note}."
    if run.properties:
        scored += f" Caution: {comma_list(run.properties)}."
    if claims:
        return f"Here the claims are examined for {model} on {_sound(run)}.{scored}"
    targets = [f"the {label}" for label in run.labels]
    if run.results.factors:
        targets.append(count(len(run.results.factors), "factor"))
    sources = f"its layers{' and their sparse codes' if run.results.sparsities else ''}"
    question = f"how well {sources} predict {comma_list(targets)}" if targets else "the numbers in the results"
    return f"This page shows, for {model} on {_sound(run)}: {question}.{scored}"


def _layers(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    contiguous = list(layers) == list(range(layers[0], layers[-1] + 1)) and len(layers) > 2
    return f"layers {layers[0]} to {layers[-1]}" if contiguous else f"layers {comma_list(layers)}"


def _sound(run: RunData) -> str:
    name = str(run.corpus.get("name") or run.name)
    citation = str(run.corpus.get("citation") or "")
    corpus = f"the corpus {name}" + (f" ({citation})" if 0 < len(citation) <= 80 else "")
    if run.clips is None:
        return corpus
    groups = count(run.clips["group"].n_unique(), "group")
    noun = str(run.corpus.get("group_noun") or "group")
    kind = "" if noun == "group" else f" ({noun}s)"
    return f"{count(run.clips.height, 'clip')} of {groups}{kind} of {corpus}"
