"""The first lines of both pages: what was asked of whom, on which sound, and the answer in one sentence."""

from collections.abc import Sequence
from typing import NamedTuple

from otoscope.formatting import comma_list, count
from otoscope.protocols.comparing import MIN_GROUPS
from otoscope.report.evidence import Evidence
from otoscope.report.run_data import RunData

FEW_GROUPS = 5
"""Test groups up to which the opening says what an interval over so few is worth."""

STUDY = (
    "Mariotte et al. (Sparse Autoencoders Make Audio Foundation Models more Explainable, arXiv 2509.24793) claim "
    "three things of sparse autoencoders (SAEs), which rewrite what a layer of an audio model holds as a few active "
    "parts out of many: that these sparse codes keep what the layer knows of a task, that an attribute of the voice "
    "takes fewer of their dimensions, and that pitch is found in early layers, formants and phonemes in late ones. "
    "They asked AST, HuBERT, WavLM and MERT about singing techniques in VocalSet."
)


class Opening(NamedTuple):
    """Lead paragraphs of a page: the study where claims were asked, the question, the answer, a caveat."""

    study: str
    question: str
    answer: str
    caveat: str


def opening(run: RunData, rests_on: Evidence | None, answers: Sequence[tuple[str, str]] = ()) -> Opening:
    """Return the lead paragraphs; `answers` are claims and outcomes, where claims were asked."""
    caveat = ""
    if rests_on is not None and MIN_GROUPS <= rests_on.groups <= FEW_GROUPS:
        caveat = (
            f" Only {rests_on.groups} test groups stand behind it: an interval over so few is little more than the "
            "range of their values, so only large differences can be distinguished from zero."
        )
    return Opening(
        study=STUDY if answers else "",
        question=_asked(run, rests_on, claims=bool(answers)),
        answer="; ".join(f"{claim[:1].lower()}{claim[1:]} – {outcome}" for claim, outcome in answers),
        caveat=caveat,
    )


def _asked(run: RunData, rests_on: Evidence | None, *, claims: bool) -> str:
    layers = run.results.layers
    heard = f"{run.encoder}, {_layers(layers)}," if layers else run.encoder
    scored = ""
    if set(run.results.protocols) == {"mariotte2025"}:
        scored = (
            " All in the study's own way: factors are fitted and scored on the same clips, so that nothing is said of "
            "others."
        )
    elif rests_on is not None:
        scored = f" Scores are of {rests_on.description} that no fit and no choice has seen."
    if claims:
        return f"Here this is asked of {heard} listening to {_sound(run)}.{scored}"
    asked = [f"the {label}" for label in run.results.labels]
    if run.results.factors:
        asked.append(count(len(run.results.factors), "factor"))
    of = f"say what its layers{' and their sparse codes' if run.results.sparsities else ''} tell of " if asked else ""
    return f"{heard} listens to {_sound(run)}; the numbers below {of or 'describe what was recorded'}" + (
        f"{comma_list(asked)}.{scored}" if asked else f".{scored}"
    )


def _layers(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    whole = list(layers) == list(range(layers[0], layers[-1] + 1)) and len(layers) > 2
    return f"layers {layers[0]} to {layers[-1]}" if whole else f"layers {comma_list(layers)}"


def _sound(run: RunData) -> str:
    name = str(run.corpus.get("name") or run.name)
    citation = str(run.corpus.get("citation") or "")
    of = f"the corpus {name}" + (f" ({citation})" if 0 < len(citation) <= 80 else "")
    if run.clips is None:
        return of
    groups = count(run.clips["group"].n_unique(), "group")
    noun = str(run.corpus.get("group_noun") or "group")
    kind = "" if noun == "group" else f" ({noun}s)"
    return f"{count(run.clips.height, 'clip')} of {groups}{kind} of {of}"
