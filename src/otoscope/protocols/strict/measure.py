"""Everything that is measured of one representation, factor by factor, before any factor is chosen.

Which factors enter the measures of structure is known only once dense activations and codes have
both been read; what those measures need is kept here for all factors.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from otoscope.metrics.dci import explicitness
from otoscope.metrics.latent_metrics import predictability_gap
from otoscope.metrics.mutual_information import Information, measure_information
from otoscope.metrics.sparse_regression import SparseSettings, sparse_regression
from otoscope.protocols.strict.factors import Asked
from otoscope.protocols.strict.reading import Reading, read_factors
from otoscope.protocols.strict.settings import StrictSettings

PLAIN = ("gaps", "explicitness", "curve", "curve_null")


class Measured(NamedTuple):
    """One representation: what regressions, single latents and few latents say of every factor."""

    reading: Reading
    information: Information
    gaps: Float[np.ndarray, " factors"]
    explicitness: Float[np.ndarray, " factors"]
    curve: Float[np.ndarray, "factors sizes"]
    curve_null: Float[np.ndarray, "factors sizes"]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all of it as arrays by name, to be kept."""
        kept = {f"reading.{name}": np.asarray(value) for name, value in self.reading._asdict().items()}
        kept |= {f"information.{name}": _small(value) for name, value in self.information._asdict().items()}
        return kept | {name: getattr(self, name) for name in PLAIN}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> "Measured":
        """Take back what `arrays` returned."""

        def part(prefix: str) -> dict[str, NDArray[Any]]:
            return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

        rest = {name: arrays[name] for name in PLAIN}
        return cls(Reading(**part("reading.")), Information(**part("information.")), **rest)


def measure(units: Float[np.ndarray, "clips p"], asked: Asked, settings: StrictSettings, *, resamples: int) -> Measured:
    """Measure a representation of clips against every factor asked."""
    split, groups = asked.split, asked.groups
    few = SparseSettings(sizes=settings.sizes, permutations=min(settings.permutations, 5), resamples=1)
    curves = sparse_regression(units, asked.values, groups=groups, split=split, settings=few)
    return Measured(
        reading=read_factors(units, asked, settings, resamples=resamples),
        information=measure_information(units, asked.values),
        gaps=predictability_gap(units, asked.values, split=split).factors,
        explicitness=explicitness(units, asked.values, groups=groups, split=split).factors,
        curve=curves.r2,
        curve_null=curves.null_high,
    )


def _small(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) if values.ndim == 2 else values
