"""The study as published: its encoders, its figures with standard errors, and their comparison with new results."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import polars as pl

from otoscope.encoders.model_folder import file_names, weight_names
from otoscope.errors import ConfigError, suggest


@dataclass(frozen=True)
class StudyModel:
    """One of the four encoders: its checkpoint, its published pair of layers, and the layers to open in their place."""

    name: str
    checkpoint: str
    published: tuple[int, int]
    layers: tuple[int, ...]
    with_last: bool
    """True if the authors took the best and the last layer (speech models), False if the two best."""

    def choose_layers(self, accuracy: Mapping[int, float]) -> tuple[int, ...]:
        """Return the pair that the authors' rule selects from probe accuracy by layer; ties go to the earlier layer."""
        ranked = sorted(accuracy, key=lambda layer: (-accuracy[layer], layer))
        if self.with_last:
            last = max(accuracy)
            ranked = [next((layer for layer in ranked if layer != last), last), last]
        return tuple(sorted(set(ranked[:2])))


MODELS = {
    name: StudyModel(name, checkpoint, layers, layers, with_last)
    for name, checkpoint, layers, with_last in (
        ("AST", "MIT/ast-finetuned-audioset-10-10-0.4593", (6, 12), False),
        ("WavLM", "microsoft/wavlm-base-plus", (1, 12), True),
        ("HuBERT", "facebook/hubert-base-ls960", (3, 12), True),
        ("MERT", "m-a-p/MERT-v1-95M", (4, 7), False),
    )
}
"""Encoders in the order of the study, with the layers that it opened."""

MISRATED_LAYERS = (7, 9, 10)
"""Layers of MERT whose probes the authors ran on audio at a different sample rate (PAPER 1.3, 13)."""

PAIR = 2


def choose_models(
    *, folder: Path | None = None, overrides: Iterable[str] = (), only: Sequence[str] = ()
) -> list[StudyModel]:
    """Return the models to open.

    Args:
        folder: folder of checkpoints, named as on the hub (with or without the owner) or as in the study.
        overrides: `NAME=CHECKPOINT` or `NAME=CHECKPOINT@LAYER,LAYER`; the two layers replace the published ones.
        only: names of the models to run; all without it.

    Raises:
        ConfigError: a name is not one of the study's models.

    >>> [m.layers for m in choose_models(overrides=["HuBERT=starter@1,4"], only=["HuBERT"])]
    [(1, 4)]
    """
    selected = [_study_name(name) for name in only] or list(MODELS)
    models = dict(MODELS)
    replacements = dict(_override(text) for text in overrides)
    for name in selected:
        if name in replacements:
            models[name] = replacements[name]
        elif folder is not None:
            models[name] = _find_checkpoint(models[name], folder)
    return [model for name, model in models.items() if name in selected]


def _override(text: str) -> tuple[str, StudyModel]:
    name, sign, rest = text.partition("=")
    if not sign or not rest:
        raise ConfigError(f"--model wants NAME=CHECKPOINT or NAME=CHECKPOINT@LAYER,LAYER; got {text!r}")
    model = MODELS[_study_name(name)]
    checkpoint, at, layers = rest.rpartition("@")
    if not at:
        return model.name, replace(model, checkpoint=rest)
    return model.name, replace(model, checkpoint=checkpoint, layers=_layers(text, layers))


def _study_name(name: str) -> str:
    match = {known.lower(): known for known in MODELS}.get(name.strip().lower())
    if match is None:
        raise ConfigError(f"the study has no model {name!r}; {suggest(name, MODELS)}")
    return match


def _layers(text: str, layers: str) -> tuple[int, ...]:
    try:
        pair = tuple(int(layer) for layer in layers.split(","))
    except ValueError:
        pair = ()
    if len(set(pair)) != PAIR or min(pair) < 0:
        raise ConfigError(f"{text!r} must name two layers in place of the study's, such as @3,12; got {layers!r}")
    return pair


def _find_checkpoint(model: StudyModel, folder: Path) -> StudyModel:
    names = (model.checkpoint, model.checkpoint.rpartition("/")[2], model.name, model.name.lower())
    for name in names:
        path = folder / name
        if (path / "config.json").is_file() and weight_names(file_names(path)):
            return replace(model, checkpoint=str(path))
    raise ConfigError(f"{folder} holds no checkpoint of {model.name}; looked for {', '.join(names)}")


SOURCE = "Mariotte et al., arXiv 2509.24793: printed by, or read off the figures of, the authors' notebooks"

TEST_CLIPS = 400
TOP_FACTORS = 10
SPARSITIES = 6

READING = {"probe_accuracy": 0.005, "top_r2_in_sample": 0.002, "top_completeness": 0.003, "category_count": 0.05}
"""Error of reading a value off a figure, in the unit of the metric; for `mse` it is 2 % of the value."""

MSE_READING = 0.02
COMPLETENESS_DEVIATION = 0.10
"""Midpoint of the standard deviations over the ten factors in the figures (0.03 to 0.17)."""

STANDARD_ERRORS = {
    "probe_accuracy": "binomial over the 400 test clips, sqrt(p (1 - p) / 400); reading a figure adds 0.5 points",
    "mse": "only the error of reading the figure, 2 %: how it varies between clips or seeds was not published",
    "top_r2_in_sample": (
        "large-sample error of one R2 on 400 clips, 2 sqrt(R2) (1 - R2) / sqrt(400), not divided by the ten "
        "factors, which are near duplicates; reading adds 0.002"
    ),
    "top_completeness": (
        "deviation over the ten factors (0.03 to 0.17 in the figures, 0.10 taken) over sqrt(10); reading adds 0.003"
    ),
    "category_count": (
        "of a mean of six counts of n in ten, as if the six were one: sqrt(10 p (1 - p)) with p = n / 10; reading adds "
        "0.05"
    ),
}
"""Derivation of the standard error of each published figure; independent errors add in quadrature."""

KEYS = ["metric", "model", "layer", "representation", "sparsity", "target"]

AMBIGUOUS_CELL = "HuBERT", 3, 0.75
"""Cell whose label two runs share in the study; the runs cannot be told apart (PAPER 1.3, 12)."""


def published() -> pl.DataFrame:
    """Return the published figures: the keys, `value`, `how` (printed or read off a figure) and `standard_error`."""
    text = (files("otoscope.protocols.mariotte2025") / "published.csv").read_bytes()
    table = pl.read_csv(text, comment_prefix="#", schema_overrides={"sparsity": pl.Float64, "layer": pl.Int64})
    table = table.with_columns(pl.col("target").fill_null(""))
    errors = [standard_error(*row) for row in table.select("metric", "value", "how").iter_rows()]
    return table.with_columns(pl.Series("standard_error", errors))


def standard_error(metric: str, value: float, how: str) -> float:
    """Return the standard error of one published figure, as `STANDARD_ERRORS` describes.

    >>> round(standard_error("probe_accuracy", 0.75, "printed"), 4)
    0.0217
    """
    match metric:
        case "probe_accuracy":
            sampling = math.sqrt(value * (1 - value) / TEST_CLIPS)
        case "top_r2_in_sample":
            sampling = 2 * math.sqrt(max(value, 0)) * (1 - value) / math.sqrt(TEST_CLIPS)
        case "top_completeness":
            sampling = COMPLETENESS_DEVIATION / math.sqrt(TOP_FACTORS)
        case "category_count":
            sampling = math.sqrt(value * (1 - value / TOP_FACTORS))
        case _:
            sampling = 0.0
    reading = MSE_READING * value if metric == "mse" else READING[metric]
    return math.hypot(sampling, reading if how == "figure" else 0.0)


def compare(results: Mapping[str, pl.DataFrame], models: Sequence[StudyModel]) -> pl.DataFrame:
    """Compare results with the published figures of the same models, one row per published figure.

    `results` holds the rows of each model by name. Columns: the keys (with the published layer), `published`,
    `standard_error`, `how`, `layer_here` (the layer used in place of the published one), `here`, `difference`, and
    `in_errors`, the difference in standard errors. Values that a model did not measure are null.
    """
    ours = pl.concat([*(_model_rows(results[model.name], model) for model in models), pl.DataFrame(schema=_SCHEMA)])
    theirs = published().filter(pl.col("model").is_in([model.name for model in models])).rename({"value": "published"})
    rows = theirs.join(ours, on=KEYS, how="left", nulls_equal=True, maintain_order="left")
    difference = pl.col("here") - pl.col("published")
    return rows.with_columns(
        difference.alias("difference"), (difference / pl.col("standard_error")).alias("in_errors")
    ).select(*KEYS, "published", "standard_error", "how", "layer_here", "here", "difference", "in_errors")


def models_not_run(comparison: pl.DataFrame) -> tuple[list[str], int]:
    """Return the study's models that a comparison lacks, and the number of their published figures."""
    left = published().filter(~pl.col("model").is_in(comparison["model"].unique().to_list()))
    return left["model"].unique(maintain_order=True).to_list(), left.height


_SCHEMA = {
    "metric": pl.String(),
    "model": pl.String(),
    "layer": pl.Int64(),
    "representation": pl.String(),
    "sparsity": pl.Float64(),
    "target": pl.String(),
    "layer_here": pl.Int64(),
    "here": pl.Float64(),
}


def _model_rows(results: pl.DataFrame, model: StudyModel) -> pl.DataFrame:
    """Return the results of one model under the published keys."""
    mine = results.filter(pl.col("split") == "test").rename({"layer": "layer_here", "value": "here"})
    mine = mine.with_columns(pl.lit(model.name).alias("model"))
    # the pair maps to the published pair in order of depth; probes of other layers keep their layer number
    pair = pl.DataFrame({"layer_here": sorted(model.layers), "layer": sorted(model.published)})
    opened = mine.join(pair, on="layer_here").select(list(_SCHEMA))
    layer_probes = (pl.col("metric") == "probe_accuracy") & (pl.col("representation") == "dense")
    same = mine.with_columns(pl.col("layer_here").alias("layer")).select(list(_SCHEMA))
    if model.layers != model.published:
        same = same.filter(~pl.col("layer").is_in(model.published))
        opened = pl.concat([opened, same.filter(layer_probes)])
    else:
        opened = pl.concat([opened.filter(~layer_probes), same.filter(layer_probes)])
    counts = pl.col("metric") == "category_count"
    averaged = (
        opened.filter(counts & (pl.col("representation") == "sae"))
        .group_by("metric", "model", "layer", "representation", "target", "layer_here", maintain_order=True)
        .agg(pl.col("here").mean())
        .with_columns(pl.lit(None, dtype=pl.Float64).alias("sparsity"))
        .select(list(_SCHEMA))
    )
    return _name_duplicates(pl.concat([opened.filter(~counts), averaged]))


def _name_duplicates(rows: pl.DataFrame) -> pl.DataFrame:
    """Name the two runs of the ambiguous cell by the order of their values."""
    model, layer, sparsity = AMBIGUOUS_CELL
    here = (
        (pl.col("metric") == "probe_accuracy")
        & (pl.col("model") == model)
        & (pl.col("layer") == layer)
        & (pl.col("sparsity") == sparsity)
    ).fill_null(False)
    twice = rows.filter(here).sort("here", descending=True)
    if twice.height == 1:
        # one run without the labelling error is compared with both
        twice = pl.concat([twice, twice])
    return pl.concat([rows.filter(~here), twice.with_columns(pl.Series("target", AMBIGUOUS_TARGETS[: twice.height]))])


AMBIGUOUS_TARGETS = ["technique (higher of two)", "technique (lower of two)"]
