"""Small results tables with all three claims: one by the study's own protocol, one by the strict protocol."""

from typing import Any

from otoscope.metrics.record import Record, to_table
from otoscope.metrics.results import ResultsTable
from otoscope.protocols.claims import REQUIRED_RIVALS


def table(records: list[Record]) -> ResultsTable:
    """Return records as a results table."""
    return ResultsTable(to_table(records))


def row(metric: str, value: float, representation: str, **more: Any) -> Record:
    backed = {"split": "test", "layer": 1, "encoder": "ear", "protocol": "mariotte2025"}
    return Record(**{**backed, "metric": metric, "value": value, "representation": representation, **more})


def strictly(metric: str, value: float, representation: str, **more: Any) -> Record:
    return row(metric, value, representation, **{"protocol": "strict", "groups": 5, **more})


def difference(
    metric: str, value: float, low: float, high: float, representation: str = "dense", **more: Any
) -> Record:
    """Return a paired difference of codes to a representation."""
    return strictly(f"{metric}_difference", value, representation, low=low, high=high, **more)


def small_study() -> list[Record]:
    """Two opened layers in the study's way, at two sparsities."""
    records: list[Record] = []
    for layer, dense in ((1, 0.8), (3, 0.6)):
        at = {"layer": layer}
        records += [row("probe_accuracy", dense, "dense", target="technique", **at)]
        records += [row("top_completeness", 0.5 + layer / 100, "dense", **at)]
        for sparsity, loss in ((0.75, 0.0), (0.95, 0.1)):
            codes = {"sparsity": sparsity, "sae_id": f"l{layer}-k{int(100 * sparsity)}-seed0", "seed": 0, **at}
            records += [row("probe_accuracy", dense - loss, "sae", target="technique", **codes)]
            records += [row("top_completeness", 0.7, "sae", **codes)]
            records += [row("category_count", 4.0 - layer, "sae", target="pitch", **codes)]
            records += [row("category_count", 1.0 * layer, "sae", target="formants", **codes)]
    # a layer that was probed and not opened counts for nothing
    records.append(row("probe_accuracy", 0.1, "dense", target="technique", layer=2))
    return records


def strict_study() -> list[Record]:
    """One compared layer, three sparsities, two seeds."""
    main: dict[str, Any] = {"sae_id": "layer01-k95-seed0", "sparsity": 0.95}
    records = [
        strictly("task_balanced_accuracy", 0.8, "dense", target="technique", low=0.795, high=0.805, null_high=0.2)
    ]
    for seed in (0, 1):
        for sparsity in (0.75, 0.95, 0.99):
            codes = {"sparsity": sparsity, "seed": seed, "sae_id": f"layer01-k{int(100 * sparsity)}-seed{seed}"}
            value = 0.79 - seed / 1000
            records.append(
                strictly(
                    "task_balanced_accuracy",
                    value,
                    "sae",
                    target="technique",
                    low=value - 0.005,
                    high=value + 0.005,
                    **codes,
                )
            )
        codes = {"seed": seed, "sae_id": f"layer01-k95-seed{seed}", "sparsity": 0.95}
        records.append(strictly("completeness", 0.6, "sae", n=12, **codes))
        records.append(strictly("effective_latents", 5.0 + seed, "sae", low=4.0, high=6.0, n=12, **codes))
        records.append(strictly("sparse_r2", 0.5, "sae", low=0.4, high=0.6, null_high=0.1, **codes, dimensions=4))
    for sparsity in (0.75, 0.95, 0.99):
        of = {"target": "technique", "sparsity": sparsity, "sae_id": f"layer01-k{int(100 * sparsity)}-seed0"}
        records.append(difference("task_balanced_accuracy", -0.0105, -0.0175, -0.0035, **of))
    records += [
        difference("completeness", 0.2, 0.1, 0.3, **main),
        strictly("effective_latents_ratio", 0.275, "dense", low=0.2, high=0.35, **main),
        difference("sparse_r2", 0.2, 0.1, 0.3, dimensions=4, **main),
        difference("sparse_r2", -0.4, -0.5, -0.3, dimensions=64, **main),
        *(strictly("effective_latents", 15.0, rival, n=12) for rival in REQUIRED_RIVALS),
        *(strictly("effective_latents_ratio", 0.4, r, low=0.3, high=0.5, **main) for r in REQUIRED_RIVALS),
        *(difference("sparse_r2", 0.1, 0.0, 0.2, rival, dimensions=4, **main) for rival in REQUIRED_RIVALS),
        strictly("completeness", 0.4, "dense", n=12),
        strictly("effective_latents", 20.0, "dense", low=15.0, high=25.0, n=12),
        strictly("sparse_r2", 0.3, "dense", low=0.2, high=0.4, dimensions=4),
        strictly("sparse_r2", 0.9, "dense", dimensions=64),
        strictly("layer_lead", 1.2, "dense", target="pitch before formants", low=0.6, high=2.0, null_high=0.3),
        strictly("layer_lead_p", 0.01, "dense", target="pitch before formants"),
    ]
    records += [
        strictly("category_r2", 0.5 - layer / 10, "dense", target=name, layer=layer, low=0.1, high=0.6)
        for layer in (1, 2, 3)
        for name in ("pitch", "formants")
    ]
    return records
