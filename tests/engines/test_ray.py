import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened on a cluster of two nodes, in a process of its own."""
    command = [sys.executable, "-m", "tests.engines.cluster", str(tmp_path_factory.mktemp("cluster"))]
    calm = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False, env=calm)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_task_whose_worker_died_is_done_by_another(told: dict[str, Any]):
    assert told["squares"] == [[i, i * i] for i in range(7)]


def test_an_error_of_a_task_is_raised_as_it_is(told: dict[str, Any]):
    assert told["fails"] == "ValueError: a worker's own error"


def test_a_task_that_kills_every_worker_is_given_up(told: dict[str, Any]):
    assert told["dies"].startswith("EngineError: the workers of one task died 1 times (")


def test_a_node_that_is_killed_takes_nothing_with_it_and_the_store_is_the_local_one_byte_for_byte(told: dict[str, Any]):
    assert told["lost"] == {"killed": True, "differ": [], "clips": 36, "of": 36}


def test_a_clip_that_kills_its_worker_again_and_again_is_set_aside_by_name(told: dict[str, Any]):
    reason = "its worker died 4 times, 2 of them while it was encoded alone"
    assert told["deadly"]["aside"] == [["clip003b.wav", "clip003b.wav", reason]]
    assert told["deadly"]["clips"] == [f"clip{i:03d}.wav" for i in range(8)]
