"""A training step for TopK dictionaries on the CPU that touches only what is active."""

from otoscope.sae.kernels.lanes import has_bfloat_products, has_vectors
from otoscope.sae.kernels.step import StepSettings, StepStats, TopKStep, Weights

__all__ = ["StepSettings", "StepStats", "TopKStep", "Weights", "has_bfloat_products", "has_vectors"]
