"""Predicted classes of test clips: class numbers in the arrays of cached results, joined into `predictions.parquet`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int, Shaped

from otoscope.artifacts import read_table, read_tensors
from otoscope.metrics.predictions import PREDICTIONS
from otoscope.runs.cache import CachedResult
from otoscope.runs.inputs import EvaluationInputs

NOT_TESTED = -1
"""Class number of clips that no probe predicts."""

KEY = "predicted."

OF_PROBE = ("protocol", "representation", "layer", "sae_id", "sparsity", "seed")
"""Columns that all records of one cached result share."""


def predicted_key(label: str) -> str:
    """Return the name of the array with the predicted classes of a label."""
    return f"{KEY}{label}"


def class_numbers(
    predicted: Shaped[np.ndarray, " clips"], values: Shaped[np.ndarray, " clips"]
) -> Int[np.ndarray, " clips"]:
    """Return positions of predicted classes among the sorted classes of a label, `NOT_TESTED` where empty.

    >>> class_numbers(np.array(["", "b"]), np.array(["a", "b"])).tolist()
    [-1, 1]
    """
    numbers = np.searchsorted(np.unique(values[values != ""].astype(np.str_)), predicted)
    return np.where(predicted == "", NOT_TESTED, numbers).astype(np.int32)


def read_predictions(folder: Path, cached: Sequence[CachedResult], inputs: EvaluationInputs) -> pl.DataFrame:
    """Return the predicted classes of cached results, with the columns of `PREDICTIONS`."""
    return pl.concat([pl.DataFrame(schema=PREDICTIONS), *_tables(folder, cached, inputs)])


def _tables(folder: Path, cached: Sequence[CachedResult], inputs: EvaluationInputs) -> Iterator[pl.DataFrame]:
    clips, clip_ids = inputs.clips, np.asarray(inputs.store.clip_ids)
    for result in cached:
        arrays = result.table(folder).with_suffix(".safetensors")
        numbers = read_tensors(arrays) if arrays.is_file() else {}
        labels = [label for label in clips.labels if predicted_key(label) in numbers]
        probe = read_table(result.table(folder)).select(OF_PROBE).row(0, named=True) if labels else {}
        for label in labels:
            values, predicted = clips.labels[label].astype(np.str_), numbers[predicted_key(label)]
            rows = np.flatnonzero(predicted != NOT_TESTED)
            columns = {
                "clip_id": clip_ids[rows].tolist(),
                "group": clips.groups[rows].tolist(),
                "fold": [0] * len(rows) if clips.fold is None else clips.fold[rows].tolist(),
                "true_class": values[rows].tolist(),
                "predicted_class": np.unique(values[values != ""])[predicted[rows]].tolist(),
            }
            shared = {name: [value] * len(rows) for name, value in {**probe, "label": label}.items()}
            yield pl.DataFrame({**shared, **columns}, schema=PREDICTIONS)
