"""Sections on causal response curves of latents, and on their matches in other dictionaries."""

import polars as pl

from otoscope.explain import SWEPT
from otoscope.formatting import comma_list, count, decimal
from otoscope.report.run_data import RunData
from otoscope.report.tables import TextAndTable, seed_sentence, table

CONTROL = "mel_band"
"""Factor of the shares that is the best single mel band."""


def sweeps(run: RunData) -> TextAndTable | None:
    """Return the section on causal response curves; None if no voice was swept."""
    rows, shares = run.explained("sweeps"), run.explained("sweep_shares")
    if rows is None:
        return None
    introduction = (
        f"The synthesiser sang notes in which one factor changed and everything else stayed, by "
        f"{count(rows['singers'][0], 'singer')}. R² is the share of the activation's variance that the curve of the "
        "other singers predicts; p compares it with shuffled values of all latents and factors together. Share: the "
        "variance that the factor explains in notes in which all factors vary, which shows whether the response "
        "survives other pitches, vowels and levels. "
        + seed_sentence("response_r2", "The mean R² of a dictionary's latents")
    )
    paragraphs = [introduction, *(_sentence(part) for part in rows.partition_by("latent", maintain_order=True))]
    if shares is not None:
        control = shares.filter(pl.col("factor") == CONTROL)
        each = [
            f"{decimal(share, 2)} (latent {latent})" for share, latent in control.select("share", "latent").iter_rows()
        ]
        paragraphs.append(f"Control: share of the best single mel band {comma_list(each)}.")
    return TextAndTable(paragraphs, table(_compared(rows, shares), caption="Causal responses", digits=3))


def _sentence(rows: pl.DataFrame) -> str:
    """State the factors to which a latent responds, and where it is strongest."""
    responding = rows.filter(pl.col("responds"))
    each: list[str] = []
    for part in sorted(responding.partition_by("factor", maintain_order=True), key=lambda part: -part["r2"][0]):
        best = part.row(int(part["mean"].arg_max() or 0), named=True)
        factor = SWEPT[best["factor"]]
        where = best["class"] or f"{decimal(best['value'], 1)} {factor.unit}"
        each.append(f"{factor.label} (most at {where}; R² {decimal(best['r2'], 2)})")
    latent = f"Latent {rows['latent'][0]}"
    return f"{latent} responds to {comma_list(each)}." if each else f"{latent} responds to no factor beyond chance."


def _compared(rows: pl.DataFrame, shares: pl.DataFrame | None) -> pl.DataFrame:
    """Return one row per latent and factor."""
    curves = rows.group_by("latent", "factor", maintain_order=True).first()
    if shares is not None:
        alone = shares.filter(pl.col("other").is_null()).select("latent", "factor", "share")
        curves = curves.join(alone, on=["latent", "factor"], how="left", maintain_order="left")
    labels = {name: f"{factor.label} ({factor.unit})".replace(" ()", "") for name, factor in SWEPT.items()}
    columns = ["latent", "factor", "centre", "width", "selectivity", "r2", "p_value", "share"]
    return curves.with_columns(pl.col("factor").replace(labels)).select(c for c in columns if c in curves.columns)


def matching(run: RunData) -> TextAndTable | None:
    """Return the section on matches in other dictionaries; None if none was compared."""
    rows, families = run.explained("matching"), run.explained("families")
    if rows is None:
        return None
    introduction = (
        "Latents of the dictionary shown were matched with those of other dictionaries, one to one, by the correlation "
        "of mean codes over clips. A latent reappears if its partner is closer than every column of 19 random "
        "mixtures of the code, as they are and rectified, which hold the same information and none of its latents, and "
        "of 19 shuffles of the other code's clips: 5 % or fewer reappear by chance. Null: mean of that largest "
        "correlation. Nearest: latents of the other dictionary that are nearest to any. "
        + seed_sentence("matched_share", "The share that reappears")
    )
    paragraphs = [introduction]
    if families is not None:
        in_families, children = families.filter(pl.col("family") >= 0), families.filter(pl.col("parent") >= 0)
        paragraphs.append(
            f"Within the dictionary {count(in_families['family'].n_unique(), 'family', 'families')} of latents fire "
            f"together ({count(in_families.height, 'latent')} of {families.height:,} that fire), and "
            f"{count(children.height, 'latent')} fire only where a more frequent one does."
        )
    names = {"other": "dictionary"}
    return TextAndTable(paragraphs, table(rows.rename(names), caption="Matches", digits=2))
