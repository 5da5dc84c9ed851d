"""What a dictionary must beat: the same rows or codes put through something that learns less, or nothing."""

from otoscope.evaluate.baselines.catalog import FITTED, OF_CODES, find_fitted

__all__ = ["FITTED", "OF_CODES", "find_fitted"]
