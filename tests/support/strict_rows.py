"""Rows of results of the strict protocol."""

from dataclasses import replace
from typing import Any

from otoscope.metrics.record import Record, to_table
from otoscope.metrics.registry import METRICS
from otoscope.metrics.representation import CODES, DENSE
from otoscope.protocols.strict.results import StrictResults

SHARED = Record(metric="mig", value=0.5, split="test", representation=DENSE, layer=3, protocol="strict", n=40, groups=4)
SAE: dict[str, Any] = {"latents": 64, "k": 6, "sparsity": 0.9, "pooling": "encode_then_pool"}


def row(metric: str, representation: str, value: float, **more: Any) -> Record:
    return replace(SHARED, metric=metric, representation=representation, value=value, **more)


def codes(metric: str, value: float, *, seed: int = 0, **more: Any) -> Record:
    named = {**SAE, "sae_id": f"layer03-frames-default-m64-k6-seed{seed}"}
    return row(metric, CODES, value, seed=seed, **{**named, **more})


def against(metric: str, low: float, high: float, representation: str = DENSE, **more: Any) -> Record:
    """Return the paired difference of the codes to a representation; a ratio for dimensions."""
    named = {"sparsity": SAE["sparsity"], "sae_id": "layer03-frames-default-m64-k6-seed0"}
    return row(METRICS[metric].difference, representation, (low + high) / 2, low=low, high=high, **named, **more)


def rows_of(*records: Record) -> StrictResults:
    return StrictResults.of(to_table([codes("reappearing_share", 0.4, split="all"), *records]))
