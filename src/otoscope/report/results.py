"""Results of a run as the report's charts and sentences show them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from otoscope.explain.latent_choice import PREDICTED_R2
from otoscope.formatting import LARGEST_SCORE, comma_list, count
from otoscope.metrics.representation import CODES, DENSE
from otoscope.metrics.results import ResultsTable, Row, matches

PREFERRED_POOLING = "encode_then_pool"

REFERENCE_SPARSITY = 0.9
HEADLINE_SPARSITIES = (0.9, 0.95)

VALIDATION, TEST = "validation groups", "test groups"

ONLY_SAES = "no other has SAEs"
"""Reason for a layer where there was no choice."""

SHOWN = (DENSE, CODES)
"""Representations in the charts of the held-out protocol; the section on the strict protocol shows the others."""


@dataclass(frozen=True, repr=False)
class Results(ResultsTable):
    """All rows of `results.parquet`, and the selections that the report shows.

    Charts show one protocol, preset, seed and number of latents: the first of each (the lowest seed, the most frequent
    number of latents). The downloads of the tables hold every row.
    """

    @cached_property
    def shown(self) -> ResultsTable:
        """Test rows of the protocol, preset, seed and width in the charts."""
        return self.chosen.where(split="test")

    @cached_property
    def chosen(self) -> ResultsTable:
        """The same of all splits: layers are chosen on validation groups."""
        table = self.where(protocol=self.protocol)
        if self.preset is not None:
            table = table.where(preset=(None, self.preset))
        if self.seed is not None:
            table = table.where(seed=(None, self.seed))
        if self.latents is not None:
            main = ~self.in_other_pooling & matches(latents=self.latents)
            others = (matches(pooling=p, latents=self._width_in(p)) for p in self.other_poolings)
            not_codes = pl.col("representation") != CODES
            table = ResultsTable(table.rows.filter(pl.any_horizontal(not_codes, main, *others)))
        return table

    @cached_property
    def protocols(self) -> list[str]:
        """All protocols, in the order of the table."""
        return self.unique("protocol")

    @property
    def protocol(self) -> str:
        """Protocol in the charts."""
        return self.protocols[0] if self.protocols else ""

    @cached_property
    def preset(self) -> str | None:
        """Training preset in the charts; None where the SAEs have none."""
        return next(iter(self._codes.unique("preset")), None)

    @cached_property
    def seeds(self) -> list[int]:
        """All seeds of SAEs, ascending."""
        return sorted(self._codes.unique("seed"))

    @property
    def seed(self) -> int | None:
        """Seed in the charts; None without SAEs."""
        return self.seeds[0] if self.seeds else None

    @cached_property
    def latents(self) -> int | None:
        """Width of the SAEs in the charts; None without SAEs."""
        return _most_frequent(self._codes.rows.filter(~self.in_other_pooling)["latents"])

    def _width_in(self, pooling: str) -> int | None:
        """Return the width shown for codes pooled in another way: the charts' own where it was trained, else theirs."""
        codes = self._codes.where(pooling=pooling)
        if self.preset is not None:
            codes = codes.where(preset=(None, self.preset))
        widths = codes.rows["latents"].drop_nulls()
        return self.latents if self.latents in widths else _most_frequent(widths) or self.latents

    @property
    def not_shown(self) -> list[tuple[str, int, str]]:
        """Pooling, latents and preset (empty without one) of the SAEs that the charts leave out."""
        named = [pl.col("pooling"), pl.col("latents"), pl.col("preset").fill_null("")]
        complete = pl.col("latents").is_not_null() & (pl.col("pooling") != "")
        trained, shown = (
            table.where(representation=CODES).rows.filter(complete).select(named).unique()
            for table in (self._codes, self.chosen)
        )
        left_out = trained.join(shown, on=trained.columns, how="anti").sort(trained.columns)
        return [(str(pooling), int(latents), str(preset)) for pooling, latents, preset in left_out.iter_rows()]

    @property
    def _codes(self) -> ResultsTable:
        return self.where(representation=CODES, protocol=self.protocol)

    @cached_property
    def pooling(self) -> str:
        """Pooling of the codes in the charts: `encode_then_pool` where present."""
        return PREFERRED_POOLING if PREFERRED_POOLING in self.poolings or not self.poolings else self.poolings[0]

    @cached_property
    def poolings(self) -> list[str]:
        """All poolings of codes for probes and factors, in the order of the table."""
        rows = self._codes.rows.filter(pl.col("metric").str.contains("^(probe|factor)_"))
        return rows["pooling"].unique(maintain_order=True).to_list()

    @property
    def other_poolings(self) -> list[str]:
        """Poolings that the charts do not show as the main one."""
        return [p for p in self.poolings if p != self.pooling]

    @property
    def in_other_pooling(self) -> pl.Expr:
        """Condition: codes of another pooling than the charts show."""
        return pl.col("pooling").is_in(self.other_poolings)

    @cached_property
    def layers(self) -> list[int]:
        """All layers, ascending."""
        return sorted(self.unique("layer"))

    @cached_property
    def labels(self) -> list[str]:
        """Targets of the probes, in the order of the table."""
        return self.shown.where(metric="probe_accuracy").unique("target")

    @cached_property
    def factors(self) -> list[str]:
        """Factors with a regression, in the order of the table."""
        return self.shown.where(metric="factor_r2").unique("target")

    @cached_property
    def sparsities(self) -> list[float]:
        """Sparsities of the SAEs, ascending."""
        return sorted(self.shown.unique("sparsity"))

    @cached_property
    def reference_sparsity(self) -> float | None:
        """Sparsity where only one can be shown: the nearest to 90 %."""
        return min(self.sparsities, key=lambda s: (abs(s - REFERENCE_SPARSITY), s), default=None)

    @property
    def headline_sparsities(self) -> list[float]:
        """Return 90 % and 95 % where such SAEs exist, else the reference sparsity."""
        near = [s for s in self.sparsities if any(abs(s - headline) < 1e-9 for headline in HEADLINE_SPARSITIES)]
        return near or ([self.reference_sparsity] if self.reference_sparsity is not None else [])

    @cached_property
    def best_layer(self) -> "BestLayer":
        """Dense layer where only one can be shown."""
        return _choose_layer(self, self.labels[0] if self.labels else None)

    def best_layer_for(self, label: str) -> "BestLayer":
        """Return the dense layer from which a label is predicted best."""
        return _choose_layer(self, label)

    @cached_property
    def codes_layer(self) -> "BestLayer":
        """Layer of the codes where only one can be shown; the gallery's latents are chosen by the same rule."""
        return _choose_codes_layer(self)

    def of(
        self, metric: str | Collection[str], representation: str | Collection[str] | None = None, **conditions: Any
    ) -> pl.DataFrame:
        """Return the shown rows of a metric; codes only of the pooling in the charts."""
        table = self.shown.where(metric=metric, **conditions)
        if representation is not None:
            table = table.where(representation=representation)
        return table.rows.filter((pl.col("representation") != CODES) | ~self.in_other_pooling)

    def one(self, metric: str, representation: str, **conditions: Any) -> Row | None:
        """Return the first such row with a value, or None."""
        return ResultsTable(self.of(metric, representation, **conditions)).measured.first()

    def codes_of(self, label: str, sparsity: float | None) -> Row | None:
        """Return a label's row from codes of a sparsity, at the layer of the codes."""
        return self.at_codes_layer(self.of("probe_accuracy", CODES, target=label, sparsity=sparsity))

    def at_codes_layer(self, rows: pl.DataFrame) -> Row | None:
        """Return the row of the layer of the codes, or of the layer nearest to it."""
        layer = self.codes_layer.layer or 0
        near = rows.filter(pl.col("value").is_not_nan()).sort((pl.col("layer") - layer).abs(), "layer")
        return near.row(0, named=True) if near.height else None

    def components_of(self, row: Row) -> Row | None:
        """Return the explained variance of as many principal components as an SAE has active latents, if measured."""
        same = {name: row[name] for name in ("layer", "k", "pooling")}
        return self.one("explained_variance", "pca", **same)

    @cached_property
    def unmeasured_factors(self) -> list[str]:
        """Factors without a held-out R² from any representation: unknown or constant on the test clips."""
        measured = set(self.shown.where(metric="factor_r2").measured.unique("target"))
        return [name for name in self.factors if name not in measured]

    def with_test_values(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Keep the rows of factors that have a held-out R² from some representation.

        R² within groups and the upper end of its interval are added as `within` and `within_high`, null where unknown.
        """
        keys = ["layer", "representation", "pooling", "sae_id", "target"]
        within = self.of("factor_r2_within").select(
            *keys, pl.col("value").fill_nan(None).alias("within"), pl.col("high").fill_nan(None).alias("within_high")
        )
        measured = rows.filter(~pl.col("target").is_in(self.unmeasured_factors))
        return measured.join(within.unique(keys), on=keys, how="left", nulls_equal=True, maintain_order="left")

    @cached_property
    def has_r2_within(self) -> bool:
        """True if factors have an R² within groups, which the count of predicted factors then requires."""
        return self.of("factor_r2_within").height > 0

    @property
    def unmeasured_note(self) -> str | None:
        """Number of factors that no count includes, as a clause; None where all were measured."""
        if not (missing := len(self.unmeasured_factors)):
            return None
        verb, counts = ("has", "is") if missing == 1 else ("have", "are")
        return f"{count(missing, 'further factor')} {verb} no value on the test clips and {counts} not counted"


@dataclass(frozen=True)
class BestLayer:
    """A layer, the reason for its choice as a clause, and the groups that it was chosen on."""

    layer: int | None
    reason: str
    chosen_on: str = ""

    def because(self, folds: int) -> str:
        """Return the reason; in a cross-fit, validation groups are those of all folds, in which each is tested too.

        >>> BestLayer(3, "it is best on the validation groups", "validation groups").because(5)
        'it is best on the validation groups, in the mean of 5 folds that also test each of them'
        """
        over = f", in the mean of {folds} folds that also test each of them"
        return self.reason if folds == 1 else self.reason.replace(VALIDATION, f"{VALIDATION}{over}")


def predicted() -> pl.Expr:
    """Return the condition for a predicted factor: R² beyond its null, and positive within groups.

    The rows are those of `Results.with_test_values`. R² can exceed its null and still be negative within groups: the
    prediction then follows the factor there at a wrong scale.
    """
    return _reaches() & ~_unproven()


def between_only() -> pl.Expr:
    """Return the condition for a factor that is predicted between groups only.

    It does not count as predicted, and within groups R² is surely below what a predicted factor has: the upper end of
    its interval is. The rows are those of `Results.with_test_values`.
    """
    return _unconfirmed() & (pl.col("within_high") < PREDICTED_R2).fill_null(value=False)


def too_weak() -> pl.Expr:
    """Return the condition for a factor that is not predicted but may be so within groups."""
    return _unconfirmed() & ~between_only()


def untestable() -> pl.Expr:
    """Return the condition for a factor with too few clips or groups to permute."""
    return _reaches() & without_null()


def without_null() -> pl.Expr:
    """Return the condition for a null that could not be computed, as `formatting.untested`.

    The upper end of a computed null may be 1 too, if a permutation gives the value itself.
    """
    return (pl.col("null_high") >= LARGEST_SCORE) & pl.col("null_mean").fill_nan(None).is_null()


def _unconfirmed() -> pl.Expr:
    return _reaches() & _unproven() & ~without_null()


def _reaches() -> pl.Expr:
    return pl.col("value").is_not_nan() & (pl.col("value") >= PREDICTED_R2)


def _unproven() -> pl.Expr:
    in_null = pl.col("value") <= pl.col("null_high").fill_nan(None).fill_null(float("-inf"))
    return in_null | (pl.col("within").fill_null(float("inf")) <= 0)


def median_of(rows: pl.DataFrame, column: str) -> float | None:
    """Return the median of a column without missing values."""
    median = rows[column].fill_nan(None).median()
    return median if isinstance(median, float) else None


def _choose_layer(results: Results, label: str | None) -> BestLayer:
    dense = results.chosen.where(representation=DENSE).measured
    if label is not None:
        reason = "the highest balanced accuracy of the dense probe on the validation groups"
        scored = dense.where(target=label, metric="probe_balanced_accuracy", split="valid").rows
        tied = scored.filter(pl.col("value") == pl.col("value").max())["layer"].unique().sort().to_list()
        if len(tied) == 1 == len(scored["layer"].unique()):
            return BestLayer(tied[0], "no other was probed")
        if len(tied) == 1:
            return BestLayer(tied[0], f"it has {reason}", VALIDATION)
        if tied:
            # of an even number of layers there are two in the middle
            place = "the middle one" if len(tied) % 2 else f"the later of the two{' in the middle' * (len(tied) > 2)}"
            middle = f"layers {comma_list(tied)} tie for {reason}, and it is {place}"
            return BestLayer(tied[len(tied) // 2], middle, VALIDATION)
        tested = dense.where(target=label, metric="probe_accuracy", split="test")
        if len(layers := tested.unique("layer")) == 1:
            return BestLayer(layers[0], "no other was probed")
        if layer := _highest(tested.rows):
            return BestLayer(
                layer[0],
                "it has the highest accuracy of the dense probe on the test groups, so its own number is a maximum "
                "over layers and slightly optimistic",
                TEST,
            )
    return _choose_by_factors(results, dense.where(metric="factor_r2"))


def _choose_by_factors(results: Results, of_factors: ResultsTable) -> BestLayer:
    if len(layers := of_factors.unique("layer")) == 1:
        alone = results.chosen.where(representation=CODES).unique("layer") == layers
        return BestLayer(layers[0], ONLY_SAES if alone else "factors are predicted from no other")
    for split, groups in (("valid", VALIDATION), ("test", TEST)):
        r2 = of_factors.where(split=split).rows
        if layer := _highest(r2.group_by("layer").agg(pl.col("value").median())):
            return BestLayer(layer[0], f"the dense layer's median R² over factors is highest on the {groups}", groups)
    explained = results.of("explained_variance", CODES).group_by("layer").agg(pl.col("value").mean())
    if layer := _highest(explained):
        return BestLayer(layer[0], "the SAEs explain most of its variance" if explained.height > 1 else ONLY_SAES)
    return BestLayer(results.layers[0] if results.layers else None, "it is the first")


def _choose_codes_layer(results: Results) -> BestLayer:
    codes = results.chosen.where(representation=CODES, sparsity=results.reference_sparsity).measured
    codes = ResultsTable(codes.rows.filter(~results.in_other_pooling))
    if len(layers := codes.unique("layer")) == 1:
        return BestLayer(layers[0], ONLY_SAES)
    for metric, name in (("probe_balanced_accuracy", "probes"), ("factor_r2", "factors")):
        scored = codes.where(metric=metric, split="valid").rows
        if layer := _highest(scored.group_by("layer").agg(pl.col("value").mean())):
            return BestLayer(layer[0], f"its codes do best in the {name} on the {VALIDATION}", VALIDATION)
    best = results.best_layer.layer
    trained = results.of(["probe_accuracy", "factor_r2", "explained_variance"], CODES)["layer"].unique().to_list()
    nearest = min(trained, key=lambda layer: (abs(layer - (best or 0)), layer), default=None)
    return BestLayer(nearest, "it is the layer with an SAE that is nearest to the best layer")


def _highest(rows: pl.DataFrame) -> Sequence[int]:
    return rows.sort(["value", "layer"], descending=[True, False])["layer"].head(1).to_list()


def _most_frequent(widths: pl.Series) -> int | None:
    """Return the most frequent width, the smallest of equals."""
    counted = widths.drop_nulls().rename("latents").value_counts().sort(["count", "latents"], descending=[True, False])
    return int(counted["latents"][0]) if counted.height else None
