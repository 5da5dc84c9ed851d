"""What the strict protocol found, in sentences that the code writes from the numbers."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from otoscope.protocols.strict.names import CODES, DENSE, REPRESENTATIONS
from otoscope.report import words
from otoscope.report.folder import Run
from otoscope.report.html import Html, element, join
from otoscope.report.strict_rows import WORDS, StrictRows, strict_rows
from otoscope.report.strict_verdicts import against, compactness, few, lead
from otoscope.report.summary import Finding

Row = Mapping[str, Any]


def strict_findings(run: Run) -> Html | None:
    """Return what was compared, the findings, and what each representation is; None where strict was not asked."""
    rows = strict_rows(run.results.rows)
    if not rows.present:
        return None
    found = [
        *_asked(rows, run),
        *_tasks(rows),
        *_predicted(rows),
        *_compact(rows),
        *_few(rows),
        *_seeds(rows, run),
        *_layers(rows),
        *_limits(rows),
    ]
    items = (element("li", element("b", f.topic), ". ", f.text) for f in found)
    present = set(rows.rows["representation"])
    shown = [(name, what) for name, what in REPRESENTATIONS.items() if name in present]
    named = (element("li", element("b", WORDS[name]), f" ({name}): {what}.") for name, what in shown)
    glossary = element(
        "details",
        element("summary", "What each representation is"),
        element("ul", *named),
        class_="table",
    )
    bridge = element(
        "p",
        "Numbers here differ from those above, and are the ones to claim something by: penalties are chosen by leaving "
        "whole groups out, accuracy is balanced over classes, factors are ranked and near duplicates left out, and "
        "everything stands beside what a dictionary must beat.",
    )
    return join(bridge, element("ul", *items, class_="findings"), glossary)


def _asked(rows: StrictRows, run: Run) -> list[Finding]:
    main = rows.main
    if main is None:
        return []
    strict = ((run.config.get("evaluate") or {}).get("strict")) or {}
    how = [name for name in ("layer", "sparsity") if strict.get(name, "chosen") == "chosen"]
    by = f" ({words.listed(how)} chosen on groups left out of the fits, never on test groups)" if how else ""
    said = (
        f"Layer {rows.layer} and its codes at {words.sparsity(main['sparsity'])} sparsity (k={main['k']} of "
        f"{main['latents']} latents) are compared in full{by}."
    )
    ranks = {row["target"]: row for row in rows.rows.filter(pl.col("metric") == "effective_rank").iter_rows(named=True)}
    if len(ranks) == 2:
        given, asked = ranks["as given"], ranks["as asked"]
        said += (
            f" Of {given['latents']} factors {asked['latents']} are asked, as ranks: columns that a few clips rule are "
            f"dropped and near duplicates counted once. They amount to about {asked['value']:.0f} independent facts."
        )
    return [Finding("What is asked", said)]


def _tasks(rows: StrictRows) -> list[Finding]:
    found: list[Finding] = []
    for metric, target in rows.tasks:
        dense, codes = rows.one(metric, DENSE, target), rows.one(metric, CODES, target)
        if dense is None or codes is None:
            continue
        as_percent = metric != "task_r2"
        shown = words.percent if as_percent else words.decimal
        kind = "a value" if metric == "task_r2" else ("several labels at once" if " + " in target else "one label")
        seeds = rows.over_seeds(metric, target)
        spread = f", {shown(min(seeds))} to {shown(max(seeds))} over {len(seeds)} seeds" if len(seeds) > 1 else ""
        said = (
            f"{'R²' if metric == 'task_r2' else 'Balanced accuracy'} {shown(dense['value'])} from the dense layer "
            f"({words.backed(dense, as_percent=as_percent)}), {shown(codes['value'])} from the codes{spread}."
        )
        if all(_at_null(row) for row in (dense, codes)):
            said += " Neither exceeds what permuted targets reach: it cannot be read."
        elif other := rows.best_other(metric, target):
            name = WORDS[other["representation"]]
            said += f" The best of what they must beat, {name}, reaches {shown(other['value'])}."
            said += f" {against(codes, other)}"
        found.append(Finding(f"The {target} ({kind})", said))
    return found


def _predicted(rows: StrictRows) -> list[Finding]:
    dense, codes = rows.one("predicted_share", DENSE), rows.one("predicted_share", CODES)
    if dense is None or codes is None:
        return []
    said = (
        f"{_of_all(dense)} factors {'have a good R² on these clips' if few(dense) else 'are predicted well'} from the "
        f"dense layer, {_of_all(codes)} from the codes "
        f"(permuted factors: {_of_all(codes, 'null_high')} at most)."
    )
    common = rows.one("mean_factor_r2", DENSE)
    if common is not None:
        again = rows.one("mean_factor_r2", CODES)
        mean = words.decimal(again["value"], 2) if again else "–"
        said += (
            f" {common['n']} are predicted by both and every seed; over these the mean R² of a linear map is "
            f"{words.decimal(common['value'], 2)} from the dense layer and {mean} from the codes."
        )
    return [Finding("Factors", said)]


def _of_all(row: Row, column: str = "value") -> str:
    return f"{round(row[column] * row['n'])} of {row['n']}" if words.known(row[column]) else "–"


def _compact(rows: StrictRows) -> list[Finding]:
    dense, codes = rows.one("effective_latents", DENSE), rows.one("effective_latents", CODES)
    if dense is None or codes is None or not (words.known(dense["value"]) and words.known(codes["value"])):
        return []
    said = (
        f"A factor takes {words.decimal(dense['value'], 1)} effective dimensions of the dense layer and "
        f"{words.decimal(codes['value'], 1)} of the codes ({_interval(codes, 1)}; {codes['n']} common factors)."
    )
    learned = ("frozen_decoder", "untrained_sae", "random_topk")
    beside = [(name, rows.one("effective_latents", name)) for name in learned]
    shares = {name: rows.one("predicted_share", name, "common") for name in learned}
    told = [
        f"{words.decimal(row['value'], 1)} of {WORDS[name]} (which predicts {_of_all(share)} of them)"
        for name, row in beside
        if row is not None and (share := shares[name]) is not None and words.known(row["value"])
    ]
    if told:
        said += f" Without learned atoms or a trained encoder: {words.listed(told)}."
    said += f" {compactness(dense, codes)}"
    r2 = [rows.one("mean_factor_r2", name) for name in (CODES, DENSE)]
    if r2[0] is not None and r2[1] is not None and r2[0]["value"] < r2[1]["value"]:
        mean = [words.decimal(row["value"], 2) for row in r2 if row is not None]
        said += f" They also predict less (mean R² {mean[0]} against {mean[1]})."
    if any(row is not None and words.known(row["value"]) and row["value"] <= codes["high"] for _, row in beside):
        said += " What was not learned is as compact, so compactness alone does not show that anything was learned."
    return [Finding("Compactness", said)]


def _at_null(row: Row) -> bool:
    return words.known(row["null_high"]) and row["value"] <= row["null_high"]


def _few(rows: StrictRows) -> list[Finding]:
    said: list[str] = []
    for size in rows.sizes[:1] + rows.sizes[3:4]:
        at = rows.beside("sparse_r2", k=size)
        values = {row["representation"]: row["value"] for row in reversed(at.rows(named=True))}
        if DENSE in values and CODES in values:
            others = [f"{values['pca']:.2f} from principal components"] if "pca" in values else []
            unit = words.count(size, "dimension")
            parts = [f"{values[CODES]:.2f} from the codes", f"{values[DENSE]:.2f} from the dense layer", *others]
            said.append(f"{unit}: {words.listed(parts)}")
    if not said:
        return []
    return [Finding("A few dimensions", f"Mean R² of the common factors from the best {'; from '.join(said)}.")]


def _seeds(rows: StrictRows, run: Run) -> list[Finding]:
    found = {
        metric: rows.rows.filter(pl.col("metric") == metric).rows(named=True)
        for metric in ("mean_max_cosine", "matched_correlation", "reappearing_share")
    }
    if not all(found.values()):
        return []
    atoms, latents, share = (found[metric][0] for metric in found)
    recipe = run.cards.get(str(share["sae_id"]), {}).get("recipe") or {}
    start = (
        " Every seed starts with the leading principal axes of the same rows, so part of this likeness is the start."
        if recipe.get("init") == "principal"
        else ""
    )
    return [
        Finding(
            "What comes back",
            f"Over {share['n']} seeds the atoms of two dictionaries have a mean largest cosine of "
            f"{words.decimal(atoms['value'], 2)} (random dictionaries {words.decimal(atoms['null_mean'], 2)}); matched "
            f"latents correlate at {words.decimal(latents['value'], 2)} on average (clips shuffled "
            f"{words.decimal(latents['null_mean'], 2)}). {words.percent(share['value'])} of the latents that fire "
            f"reappear in at least 80{words.NBSP}% of the other seeds (shuffled "
            f"{words.percent(share['null_mean'])}); the gallery names only such latents.{start}",
        )
    ]


def _layers(rows: StrictRows) -> list[Finding]:
    said: list[str] = []
    for row in rows.of("layer_lead").iter_rows(named=True):
        if not words.known(row["value"]):
            continue
        first, then = row["target"].split(" before ")
        way = "before" if row["value"] > 0 else "after"
        said.append(
            f"the centre of {first} lies {words.decimal(abs(row['value']), 2)} layers {way} that of {then} "
            f"({_interval(row, 2)}; shuffled categories up to {words.decimal(row['null_high'], 2)}), {lead(row)}"
        )
    if not said:
        return []
    text = "; ".join(said)
    return [Finding("Pitch early, formants and phonemes late", f"{text[0].upper()}{text[1:]}.")]


def _limits(rows: StrictRows) -> list[Finding]:
    told: dict[str, list[str]] = {}
    for row in rows.of("sparsity_limit").iter_rows(named=True):
        recipe, quantity = row["target"].split(": ")
        told.setdefault(recipe, []).append(f"{quantity} {words.sparsity(row['value'])}{_ends(row)}")
    if not told:
        return []
    parts = [f"{recipe}: {words.listed(limits)}" for recipe, limits in told.items()]
    return [Finding("How sparse before it costs", f"Sparsest level within the margin, {'; '.join(parts)}.")]


def _ends(row: Row) -> str:
    if not (words.known(row["low"]) and words.known(row["high"])) or row["low"] == row["high"]:
        return ""
    return f" ({words.sparsity(row['low'])} to {words.sparsity(row['high'])})"


def _interval(row: Row, digits: int) -> str:
    if not (words.known(row["low"]) and words.known(row["high"])):
        return "no interval"
    ends = f"{words.decimal(row['low'], digits)} to {words.decimal(row['high'], digits)}"
    return f"95{words.NBSP}% interval {ends}"
