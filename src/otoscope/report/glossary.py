"""The words of the pages, explained once for someone who sees them for the first time."""

from otoscope.report import words
from otoscope.report.html import Html, element

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
        f"where the number would lie in 95{words.NBSP}% of draws of other test groups from these, as far as so few "
        "groups can tell: with three or four it is little more than the range from the lowest to the highest."
    ),
    "null, chance": (
        "the same fit on labels or factors that were dealt out to the wrong clips. “Up to” is what "
        f"95{words.NBSP}% of these refits do not exceed (with fewer than 20 refits, the highest)."
    ),
    "effective dimensions": (
        "over how many dimensions a regression spreads its weights for a factor: 1 when one carries it all "
        "(exponential of the entropy of the absolute weights)."
    ),
    "completeness": (
        "the same as a share: 1 when one dimension carries a factor, 0 when all do alike. It is divided by the "
        "logarithm of how many dimensions there are, so a wide code gets more for the same."
    ),
    "centre of a category": (
        "the mean of the layers' numbers, each weighted with the mean R² of the category's factors there. One "
        "category leads another by the distance of their centres, in layers."
    ),
    "seed": "the number from which a training draws its chance; other seeds give other dictionaries of the same kind.",
    "margin": "the loss that was called none before anything was measured: 2 points of accuracy or of R².",
    "points": "hundredths: from 70 % to 68 % is 2 points.",
}
"""What each word means here."""


def glossary(*, title: str = "What the words mean") -> Html:
    """Return the words as a list that opens on a click."""
    items = (element("li", element("b", word), ": ", meaning) for word, meaning in TERMS.items())
    return element("details", element("summary", title), element("ul", *items), class_="table")
