import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from otoscope.metrics.audit import audited_metrics, order_by_truth, smallest_difference
from otoscope.metrics.registry import METRICS
from otoscope.report.tables import metric_notes, seed_sentence

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_benchmark", ROOT / "benchmarks" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_audited_metrics_cover_the_registry(benchmark: ModuleType) -> None:
    differences = {metric.difference for metric in METRICS.values() if metric.difference}
    audited = {row.metric for row in audited_metrics()} - benchmark.OF_EXPLAIN
    assert audited | benchmark.OF_LAYERS | differences == set(METRICS)


def test_audit_in_the_package_is_the_table_of_the_documentation(benchmark: ModuleType) -> None:
    page = benchmark.DOCS.read_text(encoding="utf-8")
    table = page.split(benchmark.BEGIN)[1].split(benchmark.END)[0].strip()
    assert table == benchmark.to_markdown(audited_metrics())


def test_order_by_truth_puts_metrics_first_that_follow_the_truth() -> None:
    names = ["explained_variance", "effective_latents", "unknown", "sap"]
    ordered = order_by_truth(names)
    assert sorted(ordered) == sorted(names)
    assert ordered.index("sap") < ordered.index("explained_variance")
    assert ordered[-1] == "unknown"


def test_smallest_difference_stands_in_the_notes_of_a_table() -> None:
    import polars as pl

    assert 0 < smallest_difference("sap") < 1
    assert math.isnan(smallest_difference("layer_lead"))
    notes = metric_notes(pl.DataFrame({"metric": ["sap", "layer_lead"]}))
    assert notes.count("smallest difference beyond seeds") == 1


@pytest.mark.parametrize(
    "score", ["card_auroc", "annotation_f1", "intervention_lead", "splice_cosine_share", "erasure_dominance"]
)
def test_seed_sentence_states_the_smallest_difference_of_a_score_of_explanations(score: str) -> None:
    assert seed_sentence(score, "Score").endswith(f"by up to {smallest_difference(score):.2g}.")
    assert seed_sentence("layer_lead", "Score") == ""


def test_audit_of_scores_with_known_behaviour(benchmark: ModuleType) -> None:
    rng = np.random.default_rng(0)
    names = {of: benchmark.Name(of, "test") for of in ("follows", "mse", "noise")}
    measured = []
    for number, setting in enumerate(list(benchmark.SETTINGS) * 4):
        seed = number // len(benchmark.SETTINGS)
        true = (number % len(benchmark.SETTINGS)) / 10
        for step in benchmark.CHECKPOINTS if setting in benchmark.FOLLOWED else (1.0,):
            noise = 0.01 * rng.normal()
            scores = {
                names["follows"]: true * step + noise,
                names["mse"]: 2 - true * step - noise,
                names["noise"]: rng.normal(),
            }
            measured.append(benchmark.Measured(setting, seed, step, true, scores))
    found = {row.metric: row for row in benchmark.audit(measured)}
    assert found["follows"].truth > 0.95
    # a lower error is better
    assert found["mse"].truth == pytest.approx(found["follows"].truth)
    assert found["mse"].checkpoints == pytest.approx(found["follows"].checkpoints)
    assert abs(found["noise"].truth) < 0.6
    assert found["follows"].seeds == pytest.approx(0.01, rel=0.5)
    assert found["follows"].difference == pytest.approx(2.05 * 2**0.5 * found["follows"].seeds, rel=0.02)
    assert next(iter(found)) in ("follows", "mse")


def test_recovered_share_counts_directions_with_an_atom(benchmark: ModuleType) -> None:
    directions = np.eye(4)
    atoms = np.array([[5.0, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    assert benchmark.recovered_share(atoms, directions) == 0.5


@pytest.mark.slow
def test_scores_of_the_truth_exceed_those_of_random_atoms_in_the_world_of_the_audit(benchmark: ModuleType) -> None:
    world = benchmark.build_world()
    true, random = (benchmark.measure(benchmark.corrupted_dictionary(world, share, 0), world) for share in (0.0, 1.0))
    assert (true.recovered, random.recovered) == (1, 0)
    assert {name.metric for name in (*true.scores, *random.scores)} <= set(METRICS) | benchmark.OF_EXPLAIN
    better = {(row.metric, row.protocol) for row in audited_metrics() if row.truth > 0.8}
    compared = [name for name in true.scores if tuple(name) in better and name in random.scores]
    assert len(compared) > 15
    for name in compared:
        sign = -1 if name.metric in METRICS and METRICS[name.metric].higher_is_better is False else 1
        assert sign * true.scores[name] > sign * random.scores[name], name
