import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from otoscope.cli.main import main
from otoscope.errors import ConfigError, ExecutorError
from otoscope.executors.base import LocalExecutor, WorkerLost, find_executor, run_tasks

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_run_gives_the_same_bytes_on_a_cluster(tmp_path: Path):
    pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
    sections = json.dumps({"train": {"sparsities": [0.75], "latents": 32}})
    command = [sys.executable, "-m", "tests.support.cluster_run", str(tmp_path), sections]
    calm = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False, env=calm)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["saes"] == 2
    assert not any(told["differ"].values()), told["differ"]


def test_find_executor_by_name():
    assert find_executor("local") == LocalExecutor()
    with pytest.raises(ConfigError, match=r"no executor 'rya'; did you mean ray\? Known: local, ray; ray://HOST:PORT"):
        find_executor("rya")


def test_find_executor_checks_the_options_of_ray():
    ray = pytest.importorskip("otoscope.executors.ray", reason="Ray is not installed (extra `ray`)")
    assert find_executor("ray://host:6379") == ray.RayExecutor("host:6379")
    assert find_executor("ray?silence_s=60") == ray.RayExecutor(silence_s=60.0)
    with pytest.raises(ConfigError, match="unknown option 'silence=1'; allowed: silence_s=SECONDS"):
        find_executor("ray://host:6379?silence=1")
    with pytest.raises(ConfigError, match=r"silence_s is 0.0; it must be above 0"):
        find_executor("ray?silence_s=0")


def test_unknown_executor_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "my.yaml").write_text("corpus: {kind: synth}\n")
    with pytest.raises(SystemExit) as ended:
        main(["extract", str(tmp_path / "my.yaml"), "--out", str(tmp_path / "run"), "--executor", "rayy://x"])
    assert ended.value.code == 1
    assert "no executor 'rayy://x'; did you mean ray?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class Flaky:
    """An executor that loses a task `losses` times."""

    in_process = False

    def __init__(self, losses: int) -> None:
        self.losses = losses

    def run(self, start, tasks):
        for event in LocalExecutor().run(start, tasks):
            if self.losses:
                self.losses -= 1
                yield WorkerLost(event.task, "the node went away")
                return
            yield event


def test_run_tasks_retries_lost_tasks_up_to_a_limit():
    assert list(run_tasks(Flaky(2), lambda: abs, [-3])) == [(0, 3)]
    with pytest.raises(ExecutorError, match=r"the workers of one task died 4 times \(the node went away\)"):
        list(run_tasks(Flaky(9), lambda: abs, [-3]))
