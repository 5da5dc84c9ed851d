"""A training step for TopK dictionaries on the CPU that touches only what is active.

Compiled code is cached beside the sources. Numba looks only at the file that a cached function stands in:
after editing anything that another file here imports, delete this folder's `__pycache__`.
"""

from otoscope.sae.kernels.lanes import has_bfloat_products, has_vectors
from otoscope.sae.kernels.settings import StepSettings, Weights
from otoscope.sae.kernels.step import StepStats, TopKStep
from otoscope.sae.kernels.team import available_threads

__all__ = [
    "StepSettings",
    "StepStats",
    "TopKStep",
    "Weights",
    "available_threads",
    "has_bfloat_products",
    "has_vectors",
]
