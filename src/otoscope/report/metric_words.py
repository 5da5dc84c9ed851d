"""What each metric of a results table is, in one line, for the reader of a table."""

import polars as pl

METRIC_WORDS: dict[str, str] = {
    "explained_variance": "share of the variance around the training mean that the reconstruction explains",
    "mse": "mean squared error of the reconstruction, in squared units of the activations",
    "cosine": "mean cosine between a row and its reconstruction",
    "l0": "latents active in a row, on average",
    "dead_fraction": "share of latents that no row makes fire",
    "always_on_fraction": "share of latents that nearly every row makes fire",
    "probe_accuracy": "share of clips that a linear probe names rightly",
    "probe_balanced_accuracy": "mean over the classes of the share named rightly",
    "probe_macro_f1": "mean over the classes of F1",
    "factor_r2": "R² of one factor on held-out groups",
    "completeness": "1 when one dimension tells a factor, 0 when all share it alike; scaled by the size of the code",
    "effective_latents": "effective dimensions: over how many the weights of a factor's regression are spread",
    "disentanglement": "1 when a dimension serves one factor only",
    "factor_r2_in_sample": "R² of one factor on the clips it was fitted on, as the study has it",
    "top_r2_in_sample": "mean of that over the ten best factors",
    "top_completeness": "mean completeness of ten factors, as the study has it",
    "category_count": "factors of a category among the ten best",
    "factor_entropy": "entropy of a factor's values",
    "completeness_against_entropy": "correlation of completeness with that entropy",
    "mig": "mutual information gap: how much more the best dimension tells of a factor than the second best",
    "sap": "the same gap for the R² of a straight line on one dimension",
    "modularity": "1 when each dimension shares information with one factor only",
    "infom": "modularity as InfoMEC has it, corrected for bins and for inactive dimensions",
    "infoc": "compactness as InfoMEC has it",
    "infoe": "explicitness as InfoMEC has it: what a linear model tells, of what can be told",
    "explicitness": (
        "1 when a linear map reads all that can be read, 0 when each larger map reads more, below 0 when only the "
        "largest reads anything"
    ),
    "relative_size": "common factors over dimensions that vary: 1 for as many of both, near 0 for a wide code",
    "predicted_share": "share of the factors that are predicted well",
    "effective_rank": "how many independent directions the factors amount to",
    "sparse_r2": "mean R² of the common factors, each from its best k dimensions",
    "sparse_probe_balanced_accuracy": "balanced accuracy from the best k dimensions",
    "sparse_detection_balanced_accuracy": "balanced accuracy of telling one class from all others by k dimensions",
    "mean_max_cosine": "mean over atoms of the cosine to the nearest atom of another seed",
    "matched_correlation": "mean correlation of latents with their partners in another seed",
    "reappearing_share": "share of the latents that have a partner in at least 80 % of the other seeds",
    "category_r2": "mean R² of a category's factors",
    "centre_layer": "mean layer number, weighted with a category's R² in each layer",
    "earliest_layer": "first layer that has 90 % of a category's best R²",
    "layer_lead": "by how many layers one category's centre lies before another's; below 0: behind it",
    "layer_lead_of_blocks": "the same without layer 0, the input of the first block",
    "sparsity_limit": "sparsest level of which no level up to it loses more than the margin against the densest",
    "sparsity_knee": "sparsity at which two straight lines fitted to the curve meet",
    "task_balanced_accuracy": "balanced accuracy of a ridge classifier",
    "task_r2": "R² of a ridge regression",
    "mean_factor_r2": "mean R² of the common factors from a ridge regression on all dimensions",
}
"""Each metric in words; a law holds that none is missing."""

COLUMNS = (
    "n: how many clips, frames, factors, levels or dictionaries a value is made of; null: the same with targets dealt "
    "out to the wrong clips, its mean and its upper end."
)
"""What the columns of a table of results hold that do not say so themselves."""


def told(rows: pl.DataFrame) -> str:
    """Return what the metrics of a table are; empty for a table that has no such column.

    >>> told(pl.DataFrame({"metric": ["cosine"], "n": [3]})).split(": ", 1)[0]
    'cosine'
    """
    if "metric" not in rows.columns:
        return ""
    names = [name for name in rows["metric"].unique(maintain_order=True) if name in METRIC_WORDS]
    each = [f"{name}: {METRIC_WORDS[name]}" for name in names]
    return f"{'; '.join(each)}. {COLUMNS}" if "n" in rows.columns else f"{'; '.join(each)}."
