import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_ray_executor_survives_dead_workers_nodes_and_clips(tmp_path: Path):
    """A single test in its own process, because starting the cluster takes longer than the checks."""
    command = [sys.executable, "-m", "tests.support.ray_cluster", str(tmp_path)]
    calm = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False, env=calm)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    # another worker retries a task whose worker died; an error of a task is raised unchanged
    assert told["squares"] == [[i, i * i] for i in range(7)]
    assert told["fails"] == "ValueError: a worker's own error"
    assert told["dies"].startswith("ExecutorError: the workers of one task died 1 times (")
    # a silent worker is ended, and the others continue
    assert told["hangs"] == [
        ["Done", 0],
        ["Done", 2],
        *(["TaskProgress", n, n] for n in range(3)),
        ["WorkerLost", 1, "no heartbeat for 5 s", True],
    ]
    # the store equals that of one process, byte for byte, without additional files
    assert told["lost"] == {"killed": True, "differ": [], "clips": 36, "of": 36}
    reason = "its worker died 4 times, 2 of them while encoding this clip alone"
    assert told["deadly"]["aside"] == [["clip003b.wav", "clip003b.wav", reason]]
    assert told["deadly"]["clips"] == [f"clip{i:03d}.wav" for i in range(8)]
