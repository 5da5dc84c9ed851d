"""Charts of the report from Python: one call each, returning an Altair chart.

Most functions take results: what `otoscope.load_results` or `otoscope.run` returned, a polars table with the columns of
`results.parquet`, or the path of a run folder.

- held-out protocol: `probe_by_layer`, `probe_by_sparsity`, `reconstruction`, `factors`, `categories`
- errors of probes, from `predictions.parquet`: `confusion`, `recall`, `group_accuracy`
- strict protocol: `strict_tasks`, `strict_structure`, `strict_few_dimensions`, `strict_layers`, `strict_limits`
- claims of Mariotte et al. 2025: `claim_task`, `claim_dimensions`, `claim_layers`
- explain: `cards`, `temporal_profile`, `responses` and `sweeps` of latents, their partners (`matching`), `splice`,
  `lens`, `dose_response` of interventions, `erasure_matrix`, `occlusion`
- sound: `activation`, the spectrogram of a clip with the activation of one latent over time

The charts live in `otoscope.report.figures`; this module is above `report` in the import layers. `chart.save("x.svg")`
writes a file. `EvaluationError` is raised if the results lack the rows of a chart.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from otoscope.artifacts import read_json_as, read_table
from otoscope.corpus.audio import load_audio, resample
from otoscope.encoders.base import Encoder
from otoscope.errors import EvaluationError, IncompleteArtifact, suggest
from otoscope.explain.spectrogram import spectrogram, to_png
from otoscope.metrics.predictions import require_one_probe
from otoscope.metrics.results import HasResults, ResultsTable, load_results
from otoscope.paths import user_path
from otoscope.protocols.strict.results import StrictResults
from otoscope.report.claims import examine
from otoscope.report.figures import claims, probes, strict
from otoscope.report.figures import classes as class_figures
from otoscope.report.figures import factors as factor_figures
from otoscope.report.figures import interventions as intervention_figures
from otoscope.report.figures import latents as latent_figures
from otoscope.report.figures import responses as response_figures
from otoscope.report.figures.figure import AnyChart, Figure, Panel, figure_chart
from otoscope.report.figures.theme import LIGHT_CONFIG, SAE
from otoscope.report.results import Results
from otoscope.report.run_data import categories_of, read_run
from otoscope.sae.model import SparseAutoencoder

CONFIG = {name: value for name, value in LIGHT_CONFIG.items() if value is not None}
"""Colours and fonts of the page, on the renderer's own background."""

AnyResults = ResultsTable | pl.DataFrame | str | Path | HasResults

__all__ = [
    "activation",
    "cards",
    "categories",
    "claim_dimensions",
    "claim_layers",
    "claim_task",
    "confusion",
    "dose_response",
    "erasure_matrix",
    "factors",
    "group_accuracy",
    "lens",
    "matching",
    "occlusion",
    "probe_by_layer",
    "probe_by_sparsity",
    "recall",
    "reconstruction",
    "responses",
    "splice",
    "strict_few_dimensions",
    "strict_layers",
    "strict_limits",
    "strict_structure",
    "strict_tasks",
    "sweeps",
    "temporal_profile",
]


def probe_by_layer(results: AnyResults) -> AnyChart:
    """Return the accuracy of linear probes at each layer, one panel per label.

    >>> from otoscope.metrics.record import Record, to_table
    >>> rows = [Record(metric="probe_accuracy", value=0.5 + layer / 10, split="test", representation="dense",
    ...                layer=layer, target="digit", n=40, groups=4) for layer in (1, 2, 3)]
    >>> probe_by_layer(to_table(rows)).to_dict()["title"]
    'Probe accuracy by layer: digit'
    """
    return _drawn(probes.probe_by_layer(_shown(results)), "probe_accuracy")


def probe_by_sparsity(results: AnyResults, *, label: str | None = None) -> AnyChart:
    """Return the accuracy of probes on codes against sparsity, one panel per layer.

    With a `label` other than the first, all labels but the first are drawn, at the layer of the codes.
    """
    shown = _shown(results)
    figures = probes.probe_by_sparsity(shown)
    later = label is not None and label in shown.labels[1:]
    if label is not None and label not in shown.labels:
        raise EvaluationError(f"no probe of {label!r}; the results hold {shown.labels}")
    return _drawn(figures[1 if later else 0] if figures else None, "probe_accuracy of codes")


def confusion(predictions: pl.DataFrame | str | Path, label: str) -> AnyChart:
    """Return the confusion matrix of a label's probes: true class by predicted class, in clips of test groups.

    Args:
        predictions: Path of a run folder, for the dense layer and the codes that its report shows; or rows of
            `predictions.parquet`, of at most one dense probe and one probe of codes per label.
        label: Label that was probed.

    Raises `EvaluationError` for a label without predictions, and for rows of several probes of one kind.

    >>> rows = pl.DataFrame({"label": ["vowel"] * 4, "representation": ["dense"] * 4, "group": ["x", "x", "y", "y"],
    ...                      "true_class": ["a", "e", "a", "e"], "predicted_class": ["a", "e", "a", "a"]})
    >>> sorted(confusion(rows, "vowel").to_dict()["datasets"].popitem()[1][1].items())
    [('clips', 0), ('predicted_class', 'e'), ('share', 0.0), ('true_class', 'a')]
    """
    probes = _probes(predictions, label)
    return _of_classes(f"Confusions: {label}", class_figures.confusion_panels(probes), probes)


def recall(predictions: pl.DataFrame | str | Path, label: str) -> AnyChart:
    """Return the recall of each class of a label, with intervals over groups and chance; arguments as `confusion`."""
    probes = _probes(predictions, label)
    return _of_classes(f"Recall: {label}", [class_figures.recall_panel(probes)], probes)


def group_accuracy(predictions: pl.DataFrame | str | Path, label: str) -> AnyChart:
    """Return a dot per group: the share of its test clips that are predicted right; arguments as `confusion`."""
    probes = _probes(predictions, label)
    return _of_classes(f"Accuracy by group: {label}", [class_figures.groups_panel(probes)], probes)


def reconstruction(results: AnyResults) -> AnyChart:
    """Return the explained variance of the SAEs against sparsity, one line per layer."""
    return _drawn(probes.explained_variance(_shown(results)), "explained_variance")


def factors(results: AnyResults, metric: str = "factor_r2", *, categories: Mapping[str, str] | None = None) -> AnyChart:
    """Return a metric of factors for the dense layer and each sparsity, one panel per category.

    Args:
        results: Results, or the path of a run folder.
        metric: `factor_r2` or `effective_latents`.
        categories: Category of each factor; read from `factors.json` if `results` is a run folder.
    """
    if metric not in ("factor_r2", "effective_latents"):
        raise EvaluationError(f"no chart of {metric!r}; known: factor_r2, effective_latents")
    known = _categories(results, categories)
    return _drawn(factor_figures.factors_by_sparsity(_shown(results), known, metric), metric)


def categories(results: AnyResults, *, categories: Mapping[str, str] | None = None) -> AnyChart:
    """Return the share of predicted factors by category and layer; `categories` as in `factors`."""
    return _drawn(factor_figures.category_map(_shown(results), _categories(results, categories)), "factor_r2")


def strict_tasks(results: AnyResults) -> AnyChart:
    """Return the scores of each task from the dense layer, the codes and every baseline."""
    return _strict(results, strict.tasks)


def strict_structure(results: AnyResults) -> AnyChart:
    """Return compactness and separation of each representation, over the same factors."""
    return _strict(results, strict.structure)


def strict_few_dimensions(results: AnyResults) -> AnyChart:
    """Return scores from the best k dimensions of each representation."""
    return _strict(results, strict.few_dimensions)


def strict_layers(results: AnyResults) -> AnyChart:
    """Return the mean R² of each category of factors by layer."""
    return _strict(results, strict.layers)


def strict_limits(results: AnyResults) -> AnyChart:
    """Return reconstruction, factors and the first task against sparsity, with one line per preset."""
    return _strict(results, strict.limits)


def claim_task(results: AnyResults) -> AnyChart:
    """Return the loss of codes against their layer: published, in the study's way, and on held-out groups."""
    return _drawn(claims.task_figure(examine(_rows(results)).sources), "the claim about tasks")


def claim_dimensions(results: AnyResults) -> AnyChart:
    """Return how many dimensions a factor takes, from the same three sources."""
    return _drawn(claims.dimensions_figure(examine(_rows(results)).sources), "the claim about dimensions")


def claim_layers(results: AnyResults) -> AnyChart:
    """Return the layers in which pitch, formants and MFCC are read, from the same three sources."""
    return _drawn(claims.layers_figure(examine(_rows(results)).sources), "the claim about layers")


def dose_response(interventions: pl.DataFrame | str | Path) -> AnyChart:
    """Return the effect of interventions against their size, from `interventions.parquet` or the path of a run folder.

    Raises `IncompleteArtifact` for a run without this table.
    """
    return _drawn(intervention_figures.dose_response(_explained(interventions, "interventions")), "interventions")


def erasure_matrix(erasure: pl.DataFrame | str | Path) -> AnyChart:
    """Return the gain lost by each readout for each erased concept, from `erasure.parquet` or the path of a run folder.

    Raises `IncompleteArtifact` for a run without this table.
    """
    return _drawn(intervention_figures.erasure_matrix(_explained(erasure, "erasure")), "erasure")


def cards(rows: pl.DataFrame | str | Path) -> AnyChart:
    """Return the blind scores of all cards beside their controls, from `cards.parquet` or the path of a run folder.

    Raises `IncompleteArtifact` for a run without this table.
    """
    return _drawn(latent_figures.cards(_explained(rows, "cards")), "cards")


def temporal_profile(rows: pl.DataFrame | str | Path) -> AnyChart:
    """Return lag, duration, persistence and modulation of latents, from `cards.parquet` or the path of a run folder.

    Raises `IncompleteArtifact` for a run without this table.
    """
    return _drawn(latent_figures.temporal_profile(_explained(rows, "cards")), "temporal profiles")


def splice(scores: pl.DataFrame | str | Path) -> AnyChart:
    """Return the shares recovered with a replaced layer by k, from `splice.parquet` or the path of a run folder.

    Raises `IncompleteArtifact` for a run without this table.
    """
    return _drawn(latent_figures.splice(_explained(scores, "splice")), "a splice with a defined share")


def matching(matches: pl.DataFrame | str | Path) -> AnyChart:
    """Return the correlation of latents with their partners, from `matches.parquet` or the path of a run folder.

    Raises `IncompleteArtifact` for a run without this table.
    """
    return _drawn(latent_figures.matching(_explained(matches, "matches")), "matches with other dictionaries")


def lens(scores: pl.DataFrame | str | Path) -> AnyChart:
    """Return the word error rate of transcripts from each layer, from `lens.parquet` or the path of a run folder.

    Raises `IncompleteArtifact` for a run without this table.
    """
    return _drawn(intervention_figures.lens(_explained(scores, "lens")), "lens")


def occlusion(curves: pl.DataFrame | str | Path) -> AnyChart:
    """Return deletion and insertion curves of occluded cells, from `occlusion.parquet` or the path of a run folder.

    Raises `IncompleteArtifact` for a run without this table.
    """
    return _drawn(intervention_figures.occlusion(_explained(curves, "occlusion")), "occlusion")


def responses(curves: pl.DataFrame | str | Path, latent: int, *, sweeps: pl.DataFrame | None = None) -> AnyChart:
    """Return the observed response curves of a latent, from `responses.parquet` or the path of a run folder.

    Causal curves stand beside them, with the agreement of both, if `sweeps` is given, or if the run folder has
    `sweeps.parquet`. Raises `IncompleteArtifact` for a run without responses, `EvaluationError` for a latent that it
    does not explain.
    """
    rows = _explained(curves, "responses")
    _require_latent(rows, latent, "responses")
    if sweeps is None and not isinstance(curves, pl.DataFrame):
        path = user_path(curves) / "explain" / "sweeps.parquet"
        sweeps = read_table(path) if path.is_file() else None
    return _drawn(response_figures.responses(rows, latent, sweeps), "responses")


def sweeps(curves: pl.DataFrame | str | Path, *, latent: int | None = None) -> AnyChart:
    """Return causal response curves, one panel per factor, from `sweeps.parquet` or the path of a run folder.

    Curves of the four latents that respond most clearly are drawn, or those of one `latent`. Raises
    `IncompleteArtifact` for a run without this table, `EvaluationError` for a latent that it does not hold.
    """
    rows = _explained(curves, "sweeps")
    if latent is not None:
        _require_latent(rows, latent, "sweep")
    return _drawn(response_figures.sweeps(rows, latent), "sweeps")


def activation(
    clip: str | Path | Float[np.ndarray, " samples"],
    latent: int,
    *,
    sae: SparseAutoencoder,
    encoder: Encoder,
    layer: int,
    rate_hz: int | None = None,
    high_hz: float | None = 8000.0,
) -> AnyChart:
    """Return the spectrogram of a clip above the activation of one latent over time.

    Args:
        clip: Path of a sound file, or mono samples together with `rate_hz`.
        latent: Index of the latent in `sae`.
        sae: Autoencoder trained on the frames of `layer`.
        encoder: Encoder of the activations.
        layer: Layer that `sae` was trained on.
        rate_hz: Sample rate of an array.
        high_hz: Highest frequency drawn; None draws everything up to half the sample rate.
    """
    if not 0 <= latent < sae.latents:
        raise EvaluationError(f"latent {latent} does not exist; the SAE has latents 0 to {sae.latents - 1}")
    wave = _wave(clip, rate_hz, encoder.rate_hz)
    frames = encoder.frames(wave.size)
    dense = encoder.encode([wave], [layer]).layers[layer][0, : len(frames.start_s)]
    with torch.inference_mode():
        codes = sae.encode(dense)[:, latent].float().cpu().numpy()
    data = pl.DataFrame({"start_s": frames.start_s, "end_s": frames.end_s, "code": codes.astype(np.float64)})
    return _activation_chart(wave, data, rate_hz=encoder.rate_hz, high_hz=high_hz, title=f"Latent {latent}")


def _activation_chart(
    wave: Float[np.ndarray, " samples"], codes: pl.DataFrame, *, rate_hz: int, high_hz: float | None, title: str
) -> alt.VConcatChart:
    shown = spectrogram(wave, rate_hz=rate_hz, high_hz=high_hz)
    picture = base64.b64encode(to_png(shown.levels, max_frames=640, max_bands=200)).decode()
    corner = pl.DataFrame(
        {"url": [f"data:image/png;base64,{picture}"], "start_s": [0.0], "frequency_khz": [shown.high_hz / 1000]}
    )
    time = alt.Scale(domain=[0, shown.duration_s], nice=False)
    image = alt.Chart(corner).mark_image(width=640, height=200, align="left", baseline="top", aspect=False)
    frequency = alt.Y("frequency_khz:Q").title("kHz").scale(domain=[0, shown.high_hz / 1000], nice=False)
    upper = image.encode(x=alt.X("start_s:Q").title(None).scale(time).axis(grid=False), y=frequency, url="url:N")
    lower = alt.Chart(codes).mark_rect(color=SAE.light)
    lower = lower.encode(
        x=alt.X("start_s:Q").title("time (s)").scale(time), x2="end_s:Q", y=alt.Y("code:Q").title("activation")
    )
    lower = lower.encode(tooltip=[alt.Tooltip(f"{name}:Q", format=".3f") for name in codes.columns])
    sheet = alt.vconcat(upper.properties(width=640, height=200), lower.properties(width=640, height=90), title=title)
    return sheet.configure(**CONFIG)


def _wave(
    clip: str | Path | Float[np.ndarray, " samples"], rate_hz: int | None, wanted_hz: int
) -> Float[np.ndarray, " samples"]:
    if isinstance(clip, str | Path):
        return load_audio(clip, rate_hz=wanted_hz)
    if rate_hz is None:
        raise EvaluationError("rate_hz is missing; give the sample rate of the array, or a path")
    wave = np.asarray(clip, dtype=np.float32)
    return wave if rate_hz == wanted_hz else resample(wave, from_hz=rate_hz, to_hz=wanted_hz)


def _explained(table: pl.DataFrame | str | Path, name: str) -> pl.DataFrame:
    if isinstance(table, pl.DataFrame):
        return table
    path = user_path(table) / "explain" / f"{name}.parquet"
    rows = read_table(path) if path.is_file() else None
    if rows is None or rows.is_empty():
        state = "is missing" if rows is None else "has no rows"
        raise IncompleteArtifact(
            f"{path} {state}: `explain` has not run, or its step was skipped; `otoscope explain {table}` prints why"
        )
    return rows


def _require_latent(rows: pl.DataFrame, latent: int, what: str) -> None:
    if latent not in rows["latent"]:
        raise EvaluationError(
            f"no {what} of latent {latent}; the table holds {rows['latent'].unique().sort().to_list()}"
        )


def _probes(predictions: pl.DataFrame | str | Path, label: str) -> class_figures.Probes:
    if isinstance(predictions, pl.DataFrame):
        of_label = predictions.filter(pl.col("label") == label)
        parts = {
            series: of_label.filter(pl.col("representation") == name) for name, series in class_figures.SERIES.items()
        }
        probes = {series: rows for series, rows in parts.items() if rows.height}
        known = predictions["label"].unique().to_list()
    else:
        run = read_run(user_path(predictions))
        probes = class_figures.shown_probes(run, label)
        known = run.results.rows.filter(pl.col("metric") == "probe_accuracy")["target"].unique().to_list()
    for rows in probes.values():
        require_one_probe(rows)
    if not probes:
        advice = suggest(label, known) if known else "`otoscope evaluate` writes them"
        raise EvaluationError(f"no predictions of {label!r} from a layer or codes; {advice}")
    return probes


def _of_classes(title: str, panels: Sequence[Panel], probes: class_figures.Probes) -> AnyChart:
    figure = Figure(
        "classes", title, "", panels, pl.DataFrame(), height=class_figures.height(probes), legend=list(probes)
    )
    return figure_chart(figure, CONFIG)


def _rows(results: AnyResults) -> pl.DataFrame:
    if isinstance(results, pl.DataFrame):
        return results
    return (results if isinstance(results, ResultsTable) else load_results(results)).rows


def _shown(results: AnyResults) -> Results:
    return Results(_rows(results))


def _categories(results: AnyResults, categories: Mapping[str, str] | None) -> Mapping[str, str]:
    if categories is not None or not isinstance(results, str | Path):
        return categories or {}
    card = user_path(results) / "factors.json"
    return categories_of(read_json_as(card, dict[str, Any])) if card.is_file() else {}


def _strict(results: AnyResults, figure_of: Callable[[StrictResults], Figure | None]) -> AnyChart:
    return _drawn(figure_of(StrictResults.of(_rows(results))), "this chart of the protocol strict")


def _drawn(figure: Figure | None, what: str) -> AnyChart:
    if figure is None:
        raise EvaluationError(f"the results hold no rows for {what}; evaluate it first")
    return figure_chart(figure, CONFIG)
