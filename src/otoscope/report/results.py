"""Which rows of a results table the charts and sentences are about."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

PREFERRED_POOLING = "encode_then_pool"
REFERENCE_SPARSITY = 0.9
PREDICTED_R2 = 0.1
"""A factor counts as predicted from this held-out R² on, if it also lies above its null."""

VALIDATION, TEST = "validation groups", "test groups"

SHOWN = ("dense", "sae")
"""Representations that the ordinary charts are about; the strict protocol's part of the page shows the others."""


@dataclass(frozen=True)
class Results:
    """All rows of `results.parquet`, and the views of it that the page shows.

    Charts show one protocol, one recipe, one seed and one number of latents: the first of each (the lowest
    seed, the most frequent number of latents); the tables' full download holds every row.
    """

    rows: pl.DataFrame

    @cached_property
    def shown(self) -> pl.DataFrame:
        """Rows of the protocol, seed and dictionary width that the charts are drawn of, split "test"."""
        return self.chosen.filter(pl.col("split") == "test")

    @cached_property
    def chosen(self) -> pl.DataFrame:
        """The same of all splits: layers are chosen by what was reached on validation groups."""
        rows = self.rows.filter(pl.col("protocol") == self.protocol)
        if self.recipe is not None:
            rows = rows.filter(pl.col("preset").is_null() | (pl.col("preset") == self.recipe))
        if self.seed is not None:
            rows = rows.filter(pl.col("seed").is_null() | (pl.col("seed") == self.seed))
        if self.latents is not None:
            main = ~self.in_other_pooling & (pl.col("latents") == self.latents)
            others = ((pl.col("pooling") == p) & (pl.col("latents") == self._width_in(p)) for p in self.other_poolings)
            rows = rows.filter(pl.any_horizontal(pl.col("representation") != "sae", main, *others))
        return rows

    @cached_property
    def protocols(self) -> list[str]:
        """All protocols, in the order of the table."""
        return self.rows["protocol"].unique(maintain_order=True).to_list()

    @property
    def protocol(self) -> str:
        """The protocol that the charts show."""
        return self.protocols[0] if self.protocols else ""

    @cached_property
    def recipe(self) -> str | None:
        """The training recipe that the charts show; None where dictionaries are not named by theirs."""
        named = self._of_dictionaries["preset"].drop_nulls()
        return None if named.is_empty() else str(named[0])

    @cached_property
    def seeds(self) -> list[int]:
        """All seeds of dictionaries, ascending."""
        return self._of_dictionaries["seed"].drop_nulls().unique().sort().to_list()

    @property
    def seed(self) -> int | None:
        """The seed that the charts show; None where no dictionary names one."""
        return self.seeds[0] if self.seeds else None

    @cached_property
    def latents(self) -> int | None:
        """The dictionary width that the charts show; None where there is no dictionary."""
        widths = self._of_dictionaries.filter(~self.in_other_pooling)["latents"].drop_nulls()
        if widths.is_empty():
            return None
        counted = widths.value_counts().sort(["count", "latents"], descending=[True, False])
        return int(counted["latents"][0])

    def _width_in(self, pooling: str) -> int | None:
        """The width shown of codes pooled in another way: the charts' own where it was trained, else the most rows'."""
        of_recipe = (pl.col("preset") == self.recipe).fill_null(True) if self.recipe is not None else pl.lit(True)
        widths = self._of_dictionaries.filter((pl.col("pooling") == pooling) & of_recipe)["latents"].drop_nulls()
        if self.latents in widths or widths.is_empty():
            return self.latents
        counted = widths.value_counts().sort(["count", "latents"], descending=[True, False])
        return int(counted["latents"][0])

    @property
    def not_shown(self) -> list[tuple[str, int, str]]:
        """Pooling, latents and recipe (empty where unnamed) of the dictionaries that the results hold beside."""
        named = [pl.col("pooling"), pl.col("latents"), pl.col("preset").fill_null("")]
        known = pl.col("latents").is_not_null() & (pl.col("pooling") != "")
        held, shown = (
            rows.filter(known & (pl.col("representation") == "sae")).select(named).unique()
            for rows in (self._of_dictionaries, self.chosen)
        )
        left = held.join(shown, on=held.columns, how="anti").sort(held.columns)
        return [(str(p), int(latents), str(recipe)) for p, latents, recipe in left.iter_rows()]

    @property
    def _of_dictionaries(self) -> pl.DataFrame:
        return self.rows.filter((pl.col("representation") == "sae") & (pl.col("protocol") == self.protocol))

    @cached_property
    def pooling(self) -> str:
        """How the codes that the charts show were pooled: `encode_then_pool` where present."""
        return PREFERRED_POOLING if PREFERRED_POOLING in self.poolings or not self.poolings else self.poolings[0]

    @cached_property
    def poolings(self) -> list[str]:
        """All ways in which codes were pooled for probes and factors, in the order of the table."""
        read = self._of_dictionaries.filter(pl.col("metric").str.contains("^(probe|factor)_"))
        return read["pooling"].unique(maintain_order=True).to_list()

    @property
    def other_poolings(self) -> list[str]:
        """The ways of pooling that the charts do not show as the main one."""
        return [p for p in self.poolings if p != self.pooling]

    @property
    def in_other_pooling(self) -> pl.Expr:
        """Whether a row is of codes that were pooled in another way than the charts show."""
        return pl.col("pooling").is_in(self.other_poolings)

    @cached_property
    def layers(self) -> list[int]:
        """All layers, ascending."""
        return self.rows["layer"].drop_nulls().unique().sort().to_list()

    @cached_property
    def labels(self) -> list[str]:
        """Targets of the probes, in the order of the table."""
        return self._targets("probe_accuracy")

    @cached_property
    def factors(self) -> list[str]:
        """Factors that were regressed, in the order of the table."""
        return self._targets("factor_r2")

    @cached_property
    def sparsities(self) -> list[float]:
        """Sparsities of the dictionaries, ascending."""
        return self.shown["sparsity"].drop_nulls().unique().sort().to_list()

    @cached_property
    def reference_sparsity(self) -> float | None:
        """The sparsity that stands for all where only one can be shown: the one nearest to 90 %."""
        return min(self.sparsities, key=lambda s: (abs(s - REFERENCE_SPARSITY), s), default=None)

    @cached_property
    def best_layer(self) -> "BestLayer":
        """The dense layer that stands for all where only one can be shown."""
        return _choose_layer(self, self.labels[0] if self.labels else None)

    def best_layer_for(self, label: str) -> "BestLayer":
        """The dense layer that knows a label best."""
        return _choose_layer(self, label)

    @cached_property
    def codes_layer(self) -> "BestLayer":
        """The layer whose codes stand for all; the gallery's latents are chosen by the same rule."""
        return _choose_codes_layer(self)

    def of(self, metric: str | Sequence[str], representation: str | None = None, **equal: Any) -> pl.DataFrame:
        """Return the shown rows of a metric; codes only of the pooling that the charts show."""
        metrics = [metric] if isinstance(metric, str) else list(metric)
        rows = self.shown.filter(pl.col("metric").is_in(metrics))
        rows = rows.filter((pl.col("representation") != "sae") | ~self.in_other_pooling)
        if representation is not None:
            rows = rows.filter(pl.col("representation") == representation)
        for column, value in equal.items():
            rows = rows.filter(pl.col(column).eq_missing(pl.lit(value)))
        return rows

    def one(self, metric: str, representation: str, **equal: Any) -> dict[str, Any] | None:
        """Return the first such row with a value, or None."""
        rows = self.of(metric, representation, **equal).filter(pl.col("value").is_not_nan())
        return rows.row(0, named=True) if rows.height else None

    def _targets(self, metric: str) -> list[str]:
        return self.shown.filter(pl.col("metric") == metric)["target"].unique(maintain_order=True).to_list()


@dataclass(frozen=True)
class BestLayer:
    """A layer, the sentence that says how it was chosen, and the groups that chose it."""

    layer: int | None
    reason: str
    chosen_on: str = ""


def predicted() -> pl.Expr:
    """Return the rule by which a row of `factor_r2` counts as predicted."""
    above_null = pl.col("value") > pl.col("null_high").fill_nan(None).fill_null(float("-inf"))
    return pl.col("value").is_not_nan() & (pl.col("value") >= PREDICTED_R2) & above_null


def _choose_layer(results: Results, label: str | None) -> BestLayer:
    dense = results.chosen.filter((pl.col("representation") == "dense") & pl.col("value").is_not_nan())
    if label is not None:
        probes = dense.filter(pl.col("target") == label)
        held = (pl.col("metric") == "probe_balanced_accuracy") & (pl.col("split") == "valid")
        reason = "the highest balanced accuracy of the dense probe on the validation groups"
        scored = probes.filter(held)
        alike = scored.filter(pl.col("value") == pl.col("value").max())["layer"].unique().sort().to_list()
        if len(alike) == 1:
            return BestLayer(alike[0], f"it has {reason}", VALIDATION)
        if alike:
            tied = ", ".join(map(str, alike))
            said = f"layers {tied} tie for {reason}, and it lies in their middle"
            return BestLayer(alike[len(alike) // 2], said, VALIDATION)
        if layer := _highest(probes.filter((pl.col("metric") == "probe_accuracy") & (pl.col("split") == "test"))):
            return BestLayer(
                layer[0],
                "it has the highest accuracy of the dense probe on the test groups, so its own number is a maximum "
                "over layers and a little optimistic",
                TEST,
            )
    for split, groups in (("valid", VALIDATION), ("test", TEST)):
        r2 = dense.filter((pl.col("metric") == "factor_r2") & (pl.col("split") == split))
        if layer := _highest(r2.group_by("layer").agg(pl.col("value").median())):
            said = f"the dense layer's median R² over the factors is highest there on the {groups}"
            return BestLayer(layer[0], said, groups)
    rebuilt = results.of("explained_variance", "sae").group_by("layer").agg(pl.col("value").mean())
    if layer := _highest(rebuilt):
        return BestLayer(layer[0], "the dictionaries explain most of its variance")
    return BestLayer(results.layers[0] if results.layers else None, "it is the first")


def _choose_codes_layer(results: Results) -> BestLayer:
    codes = results.chosen.filter((pl.col("representation") == "sae") & pl.col("value").is_not_nan())
    codes = codes.filter(~results.in_other_pooling & (pl.col("sparsity") == pl.lit(results.reference_sparsity)))
    if codes["layer"].n_unique() == 1:
        return BestLayer(codes["layer"][0], "no other has dictionaries")
    for metric, what in (("probe_balanced_accuracy", "probes"), ("factor_r2", "factors")):
        held = codes.filter((pl.col("metric") == metric) & (pl.col("split") == "valid"))
        if layer := _highest(held.group_by("layer").agg(pl.col("value").mean())):
            return BestLayer(layer[0], f"its codes do best in the {what} on the {VALIDATION}", VALIDATION)
    best = results.best_layer.layer
    having = results.of(["probe_accuracy", "factor_r2", "explained_variance"], "sae")["layer"].unique().to_list()
    nearest = min(having, key=lambda layer: (abs(layer - (best or 0)), layer), default=None)
    return BestLayer(nearest, "it is the nearest to the best layer that has a dictionary")


def _highest(rows: pl.DataFrame) -> list[int]:
    return rows.sort(["value", "layer"], descending=[True, False])["layer"].head(1).to_list()
