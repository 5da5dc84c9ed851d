"""Pooled states of a reproduction, sorted into the views that the study trains, chooses and reports on."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint
from otoscope.factors.table import FactorTable
from otoscope.protocols.mariotte2025.clips import LABEL
from otoscope.protocols.mariotte2025.judge import Known, Views


class Reader:
    """Reads views of any layer out of a model's stores, and knows the clips' labels and factors.

    `takes` is what `clips.takes` gives; `stores` may lack "whole" (factors are then read from crops) and the two
    of the wrong rate.
    """

    def __init__(
        self, takes: pl.DataFrame, stores: Mapping[str, ActivationStore], factors: FactorTable, *, crops: int
    ) -> None:
        self.stores, self.crops = stores, crops
        self._by = {
            name: rows.sort("path", "crop") for (name,), rows in takes.partition_by("take", as_dict=True).items()
        }
        self.factors = factors

    @property
    def layers(self) -> list[int]:
        """All layers."""
        return self.stores["train"].layers

    @cached_property
    def identity(self) -> str:
        """All that views and labels are a function of."""
        stores = {name: store.as_read() for name, store in self.stores.items()}
        labels = {
            name: rows.select("path", "clip_id", f"label_{LABEL}", "group").rows() for name, rows in self._by.items()
        }
        return fingerprint(stores, labels, self.crops)

    @cached_property
    def known(self) -> Known:
        """Labels, singers and factors, in the order of the views."""
        whole = self._by["test"]
        return Known(
            train_labels={LABEL: self._labels(self._by["train"].unique("path", maintain_order=True))},
            valid_labels={LABEL: self._labels(self._by["valid"])},
            test_labels={LABEL: self._labels(whole)},
            test_groups=whole["group"].to_numpy(),
            whole_groups=whole["group"].to_numpy(),
            factors=self.factors.values(whole["path"].to_list()),
            factor_names=tuple(self.factors.names),
        )

    def views(self, layer: int) -> Views:
        """Return the states that dictionaries and regressions are fitted to."""
        return self._views(layer, "train", "check")

    def probed(self, layer: int) -> Views:
        """Return the states that the layer's own probe was fitted to: of the wrong rate where the authors slipped."""
        wrong = self.stores.get("train-misrated")
        if wrong is None or layer not in wrong.layers:
            return self.views(layer)
        return self._views(layer, "train-misrated", "check-misrated")

    def _views(self, layer: int, train: str, check: str) -> Views:
        valid, test = (self._pooled(check, layer, self._by[side]) for side in ("valid", "test"))
        whole = self._pooled("whole", layer, self._by["whole"]) if "whole" in self.stores else test
        return Views(self._crops(train, layer), valid, test, whole)

    def _crops(self, store: str, layer: int) -> Float[np.ndarray, "crops files width"]:
        """Return each file's crops; where a file has fewer, they come again."""
        rows = self._by["train"]
        names = rows.group_by("path", maintain_order=True).agg("clip_id")["clip_id"].to_list()
        wanted = [clips[crop % len(clips)] for crop in range(self.crops) for clips in names]
        found = self.stores[store].pooled(layer)
        place = {clip_id: i for i, clip_id in enumerate(self.stores[store].clip_ids)}
        return found[[place[clip] for clip in wanted]].reshape(self.crops, len(names), -1)

    def _pooled(self, store: str, layer: int, rows: pl.DataFrame) -> Float[np.ndarray, "clips width"]:
        return np.ascontiguousarray(self.stores[store].pooled(layer, rows["clip_id"].to_list()))

    @staticmethod
    def _labels(rows: pl.DataFrame) -> Shaped[np.ndarray, " clips"]:
        return rows[f"label_{LABEL}"].fill_null("").to_numpy()
