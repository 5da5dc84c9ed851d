"""Every representation that a results table may compare, defined once: dense activations, SAE codes and baselines.

The column `representation` holds the names. The configuration takes names and descriptions, the protocols the kinds,
the report labels, order and colours. To add a baseline, write one entry here and, depending on its kind, one function
in `otoscope.metrics.baselines` or one branch in `otoscope.protocols.strict`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["dense", "codes", "fitted", "from_codes", "built", "descriptors"]
"""Origin of a representation.

- `dense`: the activations.
- `codes`: the codes of the SAE.
- `fitted`: learned from the same training rows (`otoscope.metrics.baselines.FITTED`).
- `from_codes`: drawn from the SAE's codes, without information on single clips
  (`otoscope.metrics.baselines.FROM_CODES`).
- `built`: needs audio, an encoder or SAE training (`otoscope.protocols.strict.run`).
- `descriptors`: measured factors, of which the protocol `held_out` probes labels.
"""


@dataclass(frozen=True)
class Colour:
    """A colour in two forms: on a light page (and in print), and on a dark page."""

    light: str
    dark: str


@dataclass(frozen=True, kw_only=True)
class Representation:
    """Definition of a representation: `label` names it on pages, `description` is a phrase without a full stop."""

    name: str
    kind: Kind
    label: str
    description: str
    colour: Colour | None = None
    """Colour in line charts; None: no curve is drawn, the table holds its values."""
    short_label: str = ""
    """Label in the charts of the held-out protocol; empty: the name."""


DENSE = "dense"
CODES = "sae"

_ALL = (
    Representation(
        name=DENSE,
        kind="dense",
        label="dense layer",
        short_label="dense",
        description="activations of the layer, averaged over the frames of a clip",
        colour=Colour("#b8500f", "#f29a5c"),
    ),
    Representation(
        name=CODES,
        kind="codes",
        label="SAE codes",
        short_label="SAE",
        description="codes of the trained SAE, averaged over the frames of a clip",
        colour=Colour("#1c66a8", "#6fb4f0"),
    ),
    Representation(
        name="start",
        kind="built",
        label="SAE before training",
        description="codes of the same SAE at its start: random atoms, or principal axes where rows are few",
        colour=Colour("#2f3742", "#dfe5ee"),
    ),
    Representation(
        name="pca",
        kind="fitted",
        label="principal components",
        description="scores on the principal components: a rotation of the layer, which readers rescale",
        colour=Colour("#6f4b99", "#c2a2ec"),
    ),
    Representation(
        name="ica",
        kind="fitted",
        label="independent components",
        description="independent components (FastICA, at most 128)",
    ),
    Representation(
        name="nmf",
        kind="fitted",
        label="non-negative parts",
        description="weights of a non-negative matrix factorisation of the shifted activations (at most 128 parts)",
    ),
    Representation(
        name="kmeans",
        kind="fitted",
        label="k-means",
        description="share of a clip's frames in each cluster, with as many clusters as latents",
    ),
    Representation(
        name="random_topk",
        kind="fitted",
        label="random directions",
        description="the k largest projections on random directions, as many as latents",
        colour=Colour("#a8326b", "#f08ab8"),
    ),
    Representation(
        name="frozen_decoder",
        kind="built",
        label="SAE with random atoms",
        description="codes of an SAE with random, frozen atoms; only its encoder was trained",
    ),
    Representation(
        name="soft_frozen_decoder",
        kind="built",
        label="SAE with nearly random atoms",
        description="codes of an SAE whose atoms keep a cosine of 0.8 with random ones",
    ),
    Representation(
        name="untrained",
        kind="built",
        label="untrained encoder",
        description="the same layer of the same architecture with random weights",
        colour=Colour("#8a6d1f", "#d9bd6a"),
    ),
    Representation(
        name="untrained_sae",
        kind="built",
        label="SAE of untrained encoder",
        description="codes of an SAE trained on that untrained layer",
    ),
    Representation(
        name="logmel",
        kind="built",
        label="log-mel statistics",
        short_label="log-mel",
        description="mean and standard deviation over time of 80 log-mel energies, without any model",
        colour=Colour("#2c8a8a", "#6fd0cf"),
    ),
    Representation(
        name="egemaps",
        kind="descriptors",
        label="eGeMAPS descriptors",
        short_label="eGeMAPS",
        description="88 descriptors of the voice that openSMILE measures, without any model",
        colour=Colour("#6d7d16", "#c3d160"),
    ),
    Representation(
        name="random_codes",
        kind="from_codes",
        label="random codes",
        description="random codes with each row's number of active latents and each latent's values",
    ),
    Representation(
        name="permuted",
        kind="from_codes",
        label="codes of other clips",
        description="the codes of another clip of the same group (of another group where each has one clip)",
        colour=Colour("#7c7c80", "#97979d"),
    ),
)

REPRESENTATIONS: Mapping[str, Representation] = {entry.name: entry for entry in _ALL}
"""Representations by name, in the order in which pages list them."""

WITHOUT_MODEL = ("egemaps", "logmel")
"""Representations that no model takes part in; the protocol `held_out` probes each label from them."""

BASELINES: tuple[str, ...] = tuple(r.name for r in _ALL if r.kind not in ("dense", "codes", "descriptors"))
"""Names of the representations that dense activations and codes are compared with."""

UNINFORMATIVE: tuple[str, ...] = tuple(r.name for r in _ALL if r.kind == "from_codes")
"""Names of the baselines that hold no information on single clips; one of them holds that on groups."""


def representation_label(name: str) -> str:
    """Return the label of a representation; an unknown name is its own label.

    >>> representation_label("pca"), representation_label("other")
    ('principal components', 'other')
    """
    return REPRESENTATIONS[name].label if name in REPRESENTATIONS else name
