"""Names of representations, and what each is."""

DENSE = "dense"
CODES = "sae"

BASELINES: dict[str, str] = {
    "permuted": "the codes of other clips: rows in random order",
    "random_codes": "random codes with each row's number of active latents and each latent's values",
    "frozen_decoder": "codes of a dictionary whose atoms stayed as they were drawn; only the encoder was trained",
    "random_topk": "the k largest projections on random directions, as many as latents",
    "pca": "principal components",
    "ica": "independent components (FastICA, at most 128)",
    "nmf": "non-negative parts of the shifted activations (at most 128)",
    "kmeans": "the share of a clip's frames in each of as many clusters as latents",
    "untrained": "the same layer of the same architecture with fresh weights",
    "untrained_sae": "codes of a dictionary trained on that untrained layer",
    "logmel": "mean and deviation over time of 80 log-mel energies, without any model",
}
"""What dense activations and codes must beat, by the name in the column `representation`."""

REPRESENTATIONS: dict[str, str] = {
    DENSE: "the layer as it is, averaged over the clip's frames",
    CODES: "codes of the trained dictionary, averaged over the clip's frames",
    **BASELINES,
}

KNOWS_NOTHING = ("permuted", "random_codes")
"""Representations from which nothing can be read."""
