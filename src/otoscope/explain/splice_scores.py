"""Scores of splices: later layers and transcripts of an encoder with a replaced layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from otoscope.corpus.datasets.fsdd import SpokenString
from otoscope.encoders.batched import BatchedEncoder
from otoscope.explain.splice import (
    SpliceScore,
    Substitute,
    frame_cosine,
    mean_ablation,
    principal_components,
    random_atoms,
    score_shares,
    splice_with,
)
from otoscope.explain.transcription import Transcriber, WordErrors, word_errors
from otoscope.resampling.groups import group_sums
from otoscope.resampling.intervals import jackknife_sums
from otoscope.sae.model import SparseAutoencoder

ABLATED = "mean"
RECONSTRUCTIONS = ("sae", "principal_components", "random_atoms")
"""Substitutes of each dictionary: reconstruction, as many principal components as latents per frame, random atoms."""
ERROR_TERM = "sae_with_error"
"""The reconstruction with its error added back, which replaces nothing but by rounding."""


class Replacement(NamedTuple):
    """A substitute, and the dictionary that it belongs to with its latents per frame; none for the mean ablation."""

    substitute: str
    sae_id: str | None = None
    k: int | None = None


UNTOUCHED, MEAN = Replacement("untouched"), Replacement(ABLATED)

SCORES: dict[str, pl.DataType] = {
    "substitute": pl.String(),
    "sae_id": pl.String(),
    "k": pl.Int64(),
    "quantity": pl.String(),
    "target": pl.String(),
    **{name: pl.Float64() for name in ("value", "untouched", "ablated", "recovered", "low", "high")},
    "clips": pl.Int64(),
    "groups": pl.Int64(),
}
"""Columns of `splice.parquet`: a row per substitute of each dictionary and quantity.

`quantity` is cosine, probe_accuracy (of the label `target`), word_error_rate or words_found (the share of the spoken
words in the transcript, in their order); `k` is the number of active latents per frame.
"""


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Linear probes of a later layer's pooled frames, fitted on training clips with the untouched encoder."""

    fitted: Mapping[str, Any]

    @classmethod
    def fit(
        cls, pooled: Float[np.ndarray, "clips width"], labels: Mapping[str, Shaped[np.ndarray, " clips"]]
    ) -> "Probes":
        """Fit a logistic regression per label on clips with a known class."""
        fitted: dict[str, Any] = {}
        for name, classes in labels.items():
            known = classes != ""
            if len(np.unique(classes[known])) > 1:
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
                fitted[name] = probe.fit(pooled[known], classes[known])
        return cls(fitted=fitted)


def substitutes(
    saes: Mapping[str, tuple[SparseAutoencoder, int]], rows: Float[np.ndarray, "rows width"]
) -> dict[Replacement, Substitute]:
    """Return the mean ablation and the substitutes of the dictionaries of a layer.

    `saes` has each SAE and its active latents per frame, by id; `rows` are training frames. The error term is that of
    the first.
    """
    found = {MEAN: mean_ablation(rows.mean(axis=0))}
    for sae_id, (sae, k) in saes.items():
        own = _reconstruction(sae)
        parts = (own, principal_components(rows, min(k, sae.width)), _reconstruction(random_atoms(sae, rows)))
        found |= {Replacement(name, sae_id, k): part for name, part in zip(RECONSTRUCTIONS, parts, strict=True)}
        if len(found) == 1 + len(parts):
            found[Replacement(ERROR_TERM, sae_id, k)] = _with_error(own)
    return found


def _reconstruction(sae: SparseAutoencoder) -> Substitute:
    return lambda frames: sae(frames).reconstruction


def _with_error(substitute: Substitute) -> Substitute:
    """Return a substitute with its error added back."""

    def replaced(frames: Float[Tensor, "frames width"]) -> Float[Tensor, "frames width"]:
        found = substitute(frames)
        return found + (frames - found)

    return replaced


def later_layer_scores(
    encoder: BatchedEncoder,
    layer: int,
    replaced_by: Mapping[Replacement, Substitute],
    waves: Sequence[Float[np.ndarray, " samples"]],
    *,
    groups: Shaped[np.ndarray, " clips"],
    labels: Mapping[str, Shaped[np.ndarray, " clips"]],
    probes: Probes,
    later: int,
    mean: Float[np.ndarray, " width"],
    on_clip: Callable[[], object],
) -> list[dict[str, Any]]:
    """Return the scores of a later layer, one row per substitute and quantity.

    Cosine: frames of the spliced and the untouched pass, both relative to `mean`, the later layer's mean. Probe
    accuracy: the class of the clip from its pooled frames. Padding frames count in neither.
    """
    names = [UNTOUCHED, *replaced_by]
    cosine = {name: np.empty(len(waves)) for name in names}
    pooled: dict[Replacement, list[Float[np.ndarray, " width"]]] = {name: [] for name in names}
    for i, wave in enumerate(waves):
        reference = encoder.encode([wave], [later]).layers[later][0].numpy()
        for name in names:
            states = reference
            if name != UNTOUCHED:
                states = splice_with(encoder, layer, replaced_by[name]).encode([wave], [later]).layers[later][0].numpy()
            cosine[name][i] = frame_cosine(states, reference, mean)
            pooled[name].append(states.mean(axis=0))
        on_clip()
    rows = _rows(cosine, groups, quantity="cosine", target="")
    for label, probe in probes.fitted.items():
        known = labels[label] != ""
        if known.any():
            right = {
                name: (probe.predict(np.stack(states))[known] == labels[label][known]).astype(np.float64)
                for name, states in pooled.items()
            }
            rows += _rows(right, groups[known], quantity="probe_accuracy", target=label)
    return rows


def transcription_scores(
    transcriber: Transcriber,
    layer: int,
    replaced_by: Mapping[Replacement, Substitute],
    strings: Sequence[SpokenString],
    *,
    groups: Shaped[np.ndarray, " strings"],
    on_string: Callable[[], object],
) -> list[dict[str, Any]]:
    """Return the word error rate and the share of words found for each substitute, weighted by words."""
    names = [UNTOUCHED, *replaced_by]
    rate = {name: np.empty(len(strings)) for name in names}
    found = {name: np.empty(len(strings)) for name in names}
    for i, spoken in enumerate(strings):
        for name in names:
            said = transcriber.transcribe(spoken.wave, layer=layer, substitute=replaced_by.get(name))
            counted = word_errors(spoken.words, said)
            rate[name][i], found[name][i] = counted.errors / counted.words, counted.found / counted.words
        on_string()
    weights = np.array([len(spoken.words) for spoken in strings], dtype=np.float64)
    return [
        row
        for quantity, each in (("word_error_rate", rate), ("words_found", found))
        for row in _rows(each, groups, quantity=quantity, target="words", weights=weights)
    ]


LENS: dict[str, pl.DataType] = {
    "layer": pl.Int64(),
    "encoder": pl.String(),
    **{name: pl.Float64() for name in ("word_error_rate", "low", "high", "words_found")},
    "spoken": pl.String(),
    "transcript": pl.String(),
    **{name: pl.Int64() for name in ("words", "strings", "groups")},
}
"""Columns of `lens.parquet`: word error rate and share of words found of each layer, the first string and transcript.

`encoder` is untouched, sae (the layer of the dictionary replaced by its reconstruction) or mean (by the mean frame).
"""


def lens_scores(
    transcriber: Transcriber,
    layer: int,
    replaced_by: Mapping[Replacement, Substitute],
    strings: Sequence[SpokenString],
    *,
    groups: Shaped[np.ndarray, " strings"],
    on_string: Callable[[], object],
) -> list[dict[str, Any]]:
    """Return the word error rate of the transcription from each layer, from `layer` on also with it replaced.

    It is replaced by its mean frame and by the reconstruction of the first dictionary of `replaced_by`.
    """
    first = next(one for one in replaced_by if one.substitute == RECONSTRUCTIONS[0])
    rows: list[dict[str, Any]] = []
    for until in [one.index for one in transcriber.encoder.layers]:
        for name in (UNTOUCHED, *((first, MEAN) if until >= layer else ())):
            errors = np.zeros((len(strings), len(WordErrors._fields)))
            transcripts: list[str] = []
            for i, spoken in enumerate(strings):
                said = transcriber.transcribe(spoken.wave, layer=layer, substitute=replaced_by.get(name), until=until)
                errors[i] = word_errors(spoken.words, said)
                transcripts.append(said)
                on_string()
            value, low, high = jackknife_sums(group_sums(errors, groups), lambda sums: sums[:, 0] / sums[:, 1])
            rate = {"word_error_rate": float(value), "low": max(float(low), 0.0), "high": float(high)}
            rate["words_found"] = errors[:, 2].sum() / errors[:, 1].sum()
            texts = {"spoken": " ".join(strings[0].words), "transcript": transcripts[0].strip()}
            sizes = {"words": int(errors[:, 1].sum()), "strings": len(strings), "groups": len(np.unique(groups))}
            rows.append({"layer": until, "encoder": name.substitute, **rate, **texts, **sizes})
    return rows


def lens_passes(layers: int, layer: int) -> int:
    """Return the number of transcriptions per string that `lens_scores` needs, for layers 0 to `layers` - 1.

    >>> lens_passes(5, 3)
    9
    """
    return layers + 2 * (layers - layer)


def _rows(
    scores: Mapping[Replacement, Float[np.ndarray, " clips"]],
    groups: Shaped[np.ndarray, " clips"],
    *,
    quantity: str,
    target: str,
    weights: Float[np.ndarray, " clips"] | None = None,
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for one in scores:
        if one not in (UNTOUCHED, MEAN):
            score: SpliceScore = score_shares(scores[one], scores[UNTOUCHED], scores[MEAN], groups, weights=weights)
            found.append({**one._asdict(), "quantity": quantity, "target": target, **score._asdict()})
    return found
