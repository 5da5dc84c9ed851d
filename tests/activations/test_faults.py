import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from otoscope.activations.store import ActivationStore
from tests.support.activations import RATE_HZ, contents, write_corpus

ROOT = Path(__file__).resolve().parents[2]


def toy(*arguments: object) -> tuple[str, str]:
    command = [sys.executable, "-m", "tests.support.activations", *map(str, arguments)]
    # One arena, large blocks mapped on their own and returned when freed: otherwise the peak includes free memory that
    # the allocator keeps, up to 90 MB more or less by chance on a loaded machine (in one run of three), 1 MB with this.
    calm = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    calm["PYTHONWARNINGS"] = "ignore:This process:DeprecationWarning"  # of forks beside threads, since Python 3.12
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True, env=calm)
    return done.stdout, done.stderr


@pytest.mark.slow
def test_extract_killed_at_twenty_random_moments_leaves_the_bytes_of_an_unbroken_run(tmp_path: Path):
    write_corpus(tmp_path / "sound", [0.2 + 0.05 * (i % 50) for i in range(60)])
    told = json.loads(toy("kill", tmp_path / "sound", tmp_path, 20)[0])
    assert told["status"] == 0
    assert told["killed"] == 20
    unbroken = contents(tmp_path / "unbroken")
    for store in ["broken", *(f"whole{i}" for i in range(told["whole"]))]:
        assert contents(tmp_path / store) == unbroken, store
        ActivationStore.open(tmp_path / store, verify=True)


@pytest.mark.parametrize("room", [1000, 30000])
def test_a_full_disk_is_one_error_and_the_next_run_goes_on(tmp_path: Path, room: int):
    write_corpus(tmp_path / "sound", [0.5] * 8 + [9.0] * 4)
    out, told = toy("fill", tmp_path / "sound", tmp_path, room)
    outcome = json.loads(out)
    assert outcome["full"] != 0
    assert told.startswith("StorageFull: no room left to write")
    assert outcome["left"] == []
    assert outcome["status"] == 0
    assert contents(tmp_path / "filled") == contents(tmp_path / "unbroken")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path):
    write_corpus(tmp_path / "once", [4.0] * 40)
    write_corpus(tmp_path / "twice", [4.0] * 80)
    grown: list[float] = []
    # what the kernel counts jumps by chance on a busy machine; memory that truly grows does so in every round
    while len(grown) < 4 and not (grown and min(grown) < 0.1):
        stores = tmp_path / f"stores{len(grown)}"
        out, _ = toy("memory", tmp_path / "once", tmp_path / "twice", stores, 512)
        once, twice = json.loads(out)
        stored = sum(len(data) for data in contents(stores / "once" / "0").values()) / 1024
        assert stored > 90_000, "the store must be large beside what a process needs anyway"
        grown.append((twice - once) / stored)
    assert min(grown) < 0.1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path: Path):
    write_corpus(tmp_path / "short", [61.0])
    write_corpus(tmp_path / "long", [1800.0])
    decoded_kib = 1800.0 * RATE_HZ * 4 / 1024
    grown: list[float] = []
    while len(grown) < 4 and not (grown and min(grown) < 0.6):
        out, _ = toy("memory", tmp_path / "short", tmp_path / "long", tmp_path / f"stores{len(grown)}", 2)
        short, long = json.loads(out)
        grown.append((long - short) / decoded_kib)
    # the index of 180,000 frames takes a third; sound that is decoded whole would take more than one
    assert min(grown) < 0.6
