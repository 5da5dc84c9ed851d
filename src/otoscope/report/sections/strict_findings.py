"""What the strict protocol found, in sentences that the code writes from the numbers."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import polars as pl

from otoscope.formatting import NBSP, backed, comma_list, decimal, ends, known, percent, sparsity
from otoscope.metrics.representation import BASELINES, CODES, DENSE, REPRESENTATIONS, Representation
from otoscope.protocols.comparing import number_of
from otoscope.report.claims.formatting import lead_told, seeds_told
from otoscope.report.claims.numbers import MARGIN
from otoscope.report.run_data import RunData
from otoscope.report.sections.findings import Finding
from otoscope.report.sections.strict_limits import limit_findings
from otoscope.report.sections.strict_rows import StrictRows, listed, strict_rows
from otoscope.report.sections.strict_structure import (
    against,
    compactness_findings,
    few,
    few_findings,
    lead,
    of_all,
    within_chance,
)
from otoscope.report.tables import FoldedTable, folded

Row = Mapping[str, Any]


class StrictSummary(NamedTuple):
    """Introduction, findings, the representations compared, and a table of counts."""

    introduction: str
    findings: Sequence[Finding]
    representations: Sequence[Representation]
    counts: FoldedTable | None


def strict_findings(run: RunData) -> StrictSummary | None:
    """Return what was compared, the findings, and what each representation is; None where strict was not asked."""
    rows = strict_rows(run.results.rows)
    if not rows.present:
        return None
    found = [
        *_asked(rows, run),
        *_tasks(rows),
        *_predicted(rows),
        *compactness_findings(rows),
        *few_findings(rows),
        *_seeds(rows, run),
        *_layers(rows),
        *limit_findings(rows),
    ]
    present = set(rows.rows["representation"])
    shown = [entry for name, entry in REPRESENTATIONS.items() if name in present]
    return StrictSummary(_bridge(rows, present), found, shown, _counts(rows))


def _bridge(rows: StrictRows, present: Set[str]) -> str:
    """Say what makes these the numbers to claim by, as far as it was asked for."""
    means = "codes are means over seeds, " if len(rows.seeds) > 1 else ""
    beside = [REPRESENTATIONS[name].label for name in BASELINES if name in present]
    stands = f"and everything stands beside baselines ({comma_list(beside)})" if beside else "and no baseline was asked"
    return (
        "What may be claimed: penalties are chosen by leaving whole groups out, accuracy is balanced over classes, "
        "each factor is replaced by the rank of its value among the clips, near duplicates are asked once, "
        f"{means}{stands}."
    )


def _counts(rows: StrictRows) -> FoldedTable | None:
    """Return the table of what the sentences name and no figure draws."""
    named = ["predicted_share", "effective_rank", "mean_max_cosine", "matched_correlation", "reappearing_share"]
    title = "Table: how many factors are asked and predicted, and what comes back in other seeds"
    return folded(title, listed(rows.rows.filter(pl.col("metric").is_in(named))), "strict-counts")


def _asked(rows: StrictRows, run: RunData) -> list[Finding]:
    main = rows.main
    if main is None:
        return []
    strict = ((run.config.get("evaluate") or {}).get("strict")) or {}
    how = [name for name in ("layer", "sparsity") if strict.get(name, "chosen") == "chosen"]
    by = f" ({comma_list(how)} chosen on groups left out of the fits, never on test groups)" if how else ""
    said = (
        f"Layer {rows.layer} and its codes at {sparsity(main['sparsity'])} sparsity (k={main['k']} of "
        f"{main['latents']} latents) are compared in full{by}."
    )
    if len(rows.seeds) > 1:
        said += f" Numbers of codes are means over {len(rows.seeds)} seeds, their intervals over groups and seeds."
    ranks = {row["target"]: row for row in rows.rows.filter(pl.col("metric") == "effective_rank").iter_rows(named=True)}
    if len(ranks) == 2:
        given, asked = ranks["as given"], ranks["as asked"]
        said += (
            f" Of {given['n']} factors {asked['n']} are asked, each as the rank of its value among the "
            "clips: factors dominated by a few clips are dropped and near duplicates counted once. Many still depend "
            f"on each other; together they vary in about {asked['value']:.0f} independent directions (effective rank)."
        )
    return [Finding("What is asked", said)]


def _tasks(rows: StrictRows) -> list[Finding]:
    found: list[Finding] = []
    for metric, target in rows.tasks:
        dense, codes = rows.one(metric, DENSE, target), rows.one(metric, CODES, target)
        if dense is None or codes is None:
            continue
        as_percent = metric != "task_r2"
        shown = percent if as_percent else decimal
        kind = (
            "a value"
            if metric == "task_r2"
            else ("several labels at once, each class told or not" if " + " in target else "one label")
        )
        seeds = rows.over_seeds(metric, target)
        over = f"; {told}" if (told := seeds_told(seeds, shown)) else ""
        said = (
            f"{'R²' if metric == 'task_r2' else 'Balanced accuracy'} {shown(dense['value'])} from the dense layer "
            f"({backed(dense, as_percent=as_percent)}), {shown(codes['value'])} from the codes "
            f"({ends(codes, shown)}{over})."
        )
        if all(_at_null(row) for row in (dense, codes)):
            said += " Neither exceeds what permuted targets reach: it cannot be read."
        elif best := rows.best(metric, target):
            verb, many = ("baseline", "reaches") if len(best.names) == 1 else ("baselines", "reach")
            said += f" The best {verb}, {best.told}, {many} {shown(best.number.value)}."
            said += f" {against(number_of(codes), best.number)}{_unlearned(rows, metric, target, shown)}"
        found.append(Finding(f"The {target} ({kind})", said))
    return found


def _unlearned(rows: StrictRows, metric: str, target: str, shown: Callable[[float], str]) -> str:
    """Remark that an encoder that learned nothing tells more, where it does."""
    dense, fresh = rows.one(metric, DENSE, target), rows.one(metric, "untrained", target)
    if dense is None or fresh is None or not fresh["value"] > dense["value"] + MARGIN:
        return ""
    return (
        f" An untrained encoder tells it better than the trained layer ({shown(fresh['value'])}): it lies in the sound."
    )


def _predicted(rows: StrictRows) -> list[Finding]:
    dense, codes = rows.one("predicted_share", DENSE), rows.one("predicted_share", CODES)
    if dense is None or codes is None:
        return []
    said = (
        f"{of_all(dense)} factors {'have a good R² on these clips' if few(dense) else 'are predicted well'} from the "
        f"dense layer, {of_all(codes)} from the codes (permuted factors: {of_all(dense, 'null_high')} and "
        f"{of_all(codes, 'null_high')} at most)."
    )
    common = rows.one("mean_factor_r2", DENSE)
    if common is not None:
        again = rows.one("mean_factor_r2", CODES)
        mean = decimal(again["value"], 2) if again else "–"
        said += (
            f" {common['n']} are predicted by both and every seed; over these the mean R² of a linear map is "
            f"{decimal(common['value'], 2)} from the dense layer and {mean} from the codes."
        )
    return [Finding("Factors", said)]


def _at_null(row: Row) -> bool:
    return known(row["null_high"]) and row["value"] <= row["null_high"]


def _seeds(rows: StrictRows, run: RunData) -> list[Finding]:
    found = {
        metric: rows.rows.filter(pl.col("metric") == metric).rows(named=True)
        for metric in ("mean_max_cosine", "matched_correlation", "reappearing_share")
    }
    if not all(found.values()):
        return []
    atoms, latents, share = (found[metric][0] for metric in found)
    recipe = run.cards.get(str(share["sae_id"]), {}).get("config") or {}
    start = (
        " Every seed starts with the leading principal axes of the same rows, so part of this likeness is the start."
        if recipe.get("init") == "principal"
        else ""
    )
    return [
        Finding(
            "What comes back",
            f"Over {share['n']} seeds the atoms of two dictionaries have a mean largest cosine of "
            f"{decimal(atoms['value'], 2)} (random dictionaries {decimal(atoms['null_mean'], 2)}); "
            f"matched latents correlate at {decimal(latents['value'], 2)} on average (clips shuffled "
            f"{decimal(latents['null_mean'], 2)}, up to {decimal(latents['null_high'], 2)}). "
            f"{percent(share['value'])} of the latents that fire reappear in at least 80{NBSP}% of the "
            f"other seeds (shuffled {percent(share['null_mean'])}); the gallery names only such latents.{start}",
        )
    ]


def _layers(rows: StrictRows) -> list[Finding]:
    said: list[str] = []
    of_blocks = rows.of("layer_lead_of_blocks").rows(named=True)
    for row in rows.of("layer_lead").iter_rows(named=True):
        if known(row["value"]):
            beside = next((b for b in of_blocks if b["target"] == row["target"] and within_chance(b)), None)
            rests = ", but no more than by chance without layer 0, the input of the first block" if beside else ""
            said.append(f"{lead_told(row['target'], number_of(row))}, {lead(row)}{rests}")
    if not said:
        return []
    text = "; ".join(said)
    return [Finding("Pitch early, formants and phonemes late", f"{text[0].upper()}{text[1:]}.")]
