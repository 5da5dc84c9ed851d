"""Inputs of protocols: covariates that need no setting."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.config import RunConfig
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.factors.table import FAILED, FactorTable
from otoscope.runs.inputs import clip_arrays

CLASSES = {"sex": "f f f m m m", "mood": "x y x y x y", "site": "a b c d e f", "accent": "u u u u v w"}
"""Classes of six groups; two classes of accent, and all of site, have one group each."""


@pytest.mark.parametrize(
    ("asked", "varies", "covariates"),
    [
        (None, False, ["sex", "mood"]),
        (None, True, ["sex"]),
        ([], True, []),
        (["site", "mood"], True, ["site", "mood"]),
    ],
)
def test_clip_arrays_take_labels_that_are_constant_within_groups_as_covariates(
    asked: list[str] | None, varies: bool, covariates: list[str]
) -> None:
    group = np.repeat(np.arange(6), 4)
    ids = [f"clip{i:02d}" for i in range(len(group))]
    labels = {name: np.array(classes.split())[group] for name, classes in CLASSES.items()}
    if varies:
        labels["mood"] = np.array(["x", "y"])[np.arange(len(group)) % 2]
    empty = {name: pl.Series([None] * len(ids), dtype=kind) for name, kind in COLUMNS.items()}
    clips = pl.DataFrame(empty).with_columns(
        clip_id=pl.Series(ids),
        group=pl.Series([f"s{g}" for g in group]),
        split=pl.Series(np.array(["train", "valid", "test"])[group % 3]),
        **{f"label_{name}": pl.Series(values) for name, values in labels.items()},
    )
    factors = FactorTable(pl.DataFrame({"clip_id": ids}), (), pl.DataFrame(schema=FAILED))
    corpus = Corpus("planted", Path(), clips, pl.DataFrame())
    settings = {"labels": [], "covariates": asked}
    config = RunConfig.model_validate({"name": "planted", "corpus": {"kind": "synth"}, "evaluate": settings})
    found = clip_arrays(corpus, factors, config).covariates
    assert {name: values.tolist() for name, values in found.items()} == {n: labels[n].tolist() for n in covariates}
