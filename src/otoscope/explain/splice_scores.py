"""Scores of splices: what later layers and the transcription hold of an encoder whose layer is replaced."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from otoscope.encoders.base import BatchedEncoder
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
from otoscope.explain.transcription import SpokenString, Transcriber, word_errors
from otoscope.resampling.groups import group_sums
from otoscope.resampling.intervals import jackknife_sums
from otoscope.sae.model import SparseAutoencoder

ABLATED = "mean"
SUBSTITUTES = ("sae", "principal_components", "random_atoms")
"""Substitutes that are scored: the reconstruction, as many principal components as latents per frame, random atoms."""

SCORES: dict[str, pl.DataType] = {
    "substitute": pl.String(),
    "quantity": pl.String(),
    "target": pl.String(),
    **{name: pl.Float64() for name in ("value", "untouched", "ablated", "recovered", "low", "high")},
    "clips": pl.Int64(),
    "groups": pl.Int64(),
}
"""Columns of `splice.parquet`; `quantity` is cosine, probe_accuracy (of the label `target`) or word_error_rate."""


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
    sae: SparseAutoencoder, rows: Float[np.ndarray, "rows width"], *, components: int
) -> dict[str, Substitute]:
    """Return the mean ablation and the substitutes of a layer; `rows` are training frames."""
    random = random_atoms(sae, rows)
    return {
        ABLATED: mean_ablation(rows.mean(axis=0)),
        "sae": lambda frames: sae(frames).reconstruction,
        "principal_components": principal_components(rows, min(components, sae.width)),
        "random_atoms": lambda frames: random(frames).reconstruction,
    }


def later_layer_scores(
    encoder: BatchedEncoder,
    layer: int,
    replaced_by: Mapping[str, Substitute],
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
    names = ["untouched", *replaced_by]
    cosine = {name: np.empty(len(waves)) for name in names}
    pooled: dict[str, list[Float[np.ndarray, " width"]]] = {name: [] for name in names}
    for i, wave in enumerate(waves):
        reference = encoder.encode([wave], [later]).layers[later][0].numpy()
        for name in names:
            states = reference
            if name != "untouched":
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
    replaced_by: Mapping[str, Substitute],
    strings: Sequence[SpokenString],
    *,
    groups: Shaped[np.ndarray, " strings"],
    on_string: Callable[[], object],
) -> list[dict[str, Any]]:
    """Return the word error rate of the transcription for each substitute, weighted by words."""
    names = ["untouched", *replaced_by]
    rate = {name: np.empty(len(strings)) for name in names}
    for i, spoken in enumerate(strings):
        for name in names:
            said = transcriber.transcribe(spoken.wave, layer=layer, substitute=replaced_by.get(name))
            errors, words = word_errors(spoken.words, said)
            rate[name][i] = errors / words
        on_string()
    weights = np.array([len(spoken.words) for spoken in strings], dtype=np.float64)
    return _rows(rate, groups, quantity="word_error_rate", target="digit", weights=weights)


LENS: dict[str, pl.DataType] = {
    "layer": pl.Int64(),
    "encoder": pl.String(),
    **{name: pl.Float64() for name in ("word_error_rate", "low", "high")},
    "spoken": pl.String(),
    "transcript": pl.String(),
    **{name: pl.Int64() for name in ("words", "strings", "groups")},
}
"""Columns of `lens.parquet`: the word error rate of each layer, with the first string and its transcript.

`encoder` is untouched, sae (the layer of the dictionary replaced by its reconstruction) or mean (by the mean frame).
"""


def lens_scores(
    transcriber: Transcriber,
    layer: int,
    replaced_by: Mapping[str, Substitute],
    strings: Sequence[SpokenString],
    *,
    groups: Shaped[np.ndarray, " strings"],
    on_string: Callable[[], object],
) -> list[dict[str, Any]]:
    """Return the word error rate of the transcription from each layer, from `layer` on also with it replaced."""
    rows: list[dict[str, Any]] = []
    for until in [one.index for one in transcriber.encoder.layers]:
        for name in ("untouched", *(("sae", ABLATED) if until >= layer else ())):
            errors = np.zeros((len(strings), 2))
            transcripts: list[str] = []
            for i, spoken in enumerate(strings):
                said = transcriber.transcribe(spoken.wave, layer=layer, substitute=replaced_by.get(name), until=until)
                errors[i] = word_errors(spoken.words, said)
                transcripts.append(said)
                on_string()
            value, low, high = jackknife_sums(group_sums(errors, groups), lambda sums: sums[:, 0] / sums[:, 1])
            rate = {"word_error_rate": float(value), "low": max(float(low), 0.0), "high": float(high)}
            texts = {"spoken": " ".join(strings[0].words), "transcript": transcripts[0].strip()}
            sizes = {"words": int(errors[:, 1].sum()), "strings": len(strings), "groups": len(np.unique(groups))}
            rows.append({"layer": until, "encoder": name, **rate, **texts, **sizes})
    return rows


def lens_passes(layers: int, layer: int) -> int:
    """Return the number of transcriptions per string that `lens_scores` needs, for layers 0 to `layers` - 1.

    >>> lens_passes(5, 3)
    9
    """
    return layers + 2 * (layers - layer)


def _rows(
    scores: Mapping[str, Float[np.ndarray, " clips"]],
    groups: Shaped[np.ndarray, " clips"],
    *,
    quantity: str,
    target: str,
    weights: Float[np.ndarray, " clips"] | None = None,
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in SUBSTITUTES:
        score: SpliceScore = score_shares(scores[name], scores["untouched"], scores[ABLATED], groups, weights=weights)
        found.append({"substitute": name, "quantity": quantity, "target": target, **score._asdict()})
    return found
