"""Metrics of structure over a chosen set of factors: one number per representation, for any subset of the factors.

The strict protocol measures every factor first and chooses the factors afterwards. Each function here takes these
measurements and a mask of factors, so that an interval can leave out one factor at a time.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from otoscope.metrics.dci import completeness, disentanglement, relative_size
from otoscope.metrics.latent_metrics import infomec, information_gap, mean_of_known
from otoscope.metrics.mutual_information import InformationHalves

FactorMask = Bool[np.ndarray, " factors"]


@runtime_checkable
class FactorMeasurements(Protocol):
    """Measurements of one representation, per factor."""

    @property
    def importance(self) -> Float[np.ndarray, "p factors"]:
        """Absolute weights of the sparse regression of each factor."""
        ...

    @property
    def live(self) -> Bool[np.ndarray, " p"]:
        """Dimensions that vary on the training rows."""
        ...

    @property
    def r2(self) -> Float[np.ndarray, " factors"]:
        """Held-out R2 of that regression."""
        ...

    @property
    def halves(self) -> InformationHalves:
        """Mutual information of each dimension and each factor on two halves of the clips."""
        ...

    @property
    def gaps(self) -> Float[np.ndarray, " factors"]:
        """SAP gap of each factor."""
        ...

    @property
    def explicitness(self) -> Float[np.ndarray, " factors"]:
        """Explicitness of each factor."""
        ...


OverFactors = Callable[[FactorMeasurements, FactorMask], float]
"""A metric over the factors that a mask selects."""


def mean_completeness(measured: FactorMeasurements, mask: FactorMask) -> float:
    """Return the mean completeness."""
    return mean_of_known(completeness(measured.importance, live=measured.live, predicted=mask).completeness)


def mean_effective_latents(measured: FactorMeasurements, mask: FactorMask) -> float:
    """Return the geometric mean of the effective number of dimensions."""
    numbers = completeness(measured.importance, live=measured.live, predicted=mask).effective_latents
    return float(np.exp(mean_of_known(np.log(numbers))))


def weighted_disentanglement(measured: FactorMeasurements, mask: FactorMask) -> float:
    """Return the disentanglement of all dimensions, each weighted by its importance."""
    return disentanglement(measured.importance, predicted=mask).value


def mean_explicitness(measured: FactorMeasurements, mask: FactorMask) -> float:
    """Return the mean explicitness."""
    return mean_of_known(measured.explicitness[mask])


def size_ratio(measured: FactorMeasurements, mask: FactorMask) -> float:
    """Return the number of factors per dimension that varies."""
    return relative_size(int(mask.sum()), measured.live)


def mean_information_gap(measured: FactorMeasurements, mask: FactorMask) -> float:
    """Return the mean mutual information gap (MIG)."""
    return information_gap(measured.halves, predicted=mask).value


def mean_predictability_gap(measured: FactorMeasurements, mask: FactorMask) -> float:
    """Return the mean SAP gap."""
    return mean_of_known(measured.gaps[mask])


def infomec_modularity(measured: FactorMeasurements, mask: FactorMask) -> float:
    """Return InfoM, the modularity of InfoMEC."""
    return infomec(measured.halves, predicted=mask).modularity


def infomec_compactness(measured: FactorMeasurements, mask: FactorMask) -> float:
    """Return InfoC, the compactness of InfoMEC."""
    return infomec(measured.halves, predicted=mask).compactness


def infomec_explicitness(measured: FactorMeasurements, mask: FactorMask) -> float:
    """Return InfoE, the explicitness of InfoMEC: mean held-out R2, negative values counted as 0.

    It is the predictive information of the linear Gaussian family (Xu et al., ICLR 2020).
    """
    return mean_of_known(np.maximum(measured.r2[mask], 0))
