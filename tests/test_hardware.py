import platform
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from otoscope import hardware
from otoscope.errors import ConfigError
from otoscope.hardware import (
    available_cores,
    available_threads,
    column_sums,
    find_device,
    flop_per_s,
    peak_memory_bytes,
    return_freed_memory,
)

NO_GPU = not torch.cuda.is_available()
METAL = torch.backends.mps.is_available()


def write_quota(folder: Path, quota: str, period: str | None = None) -> Path:
    limit = folder / ("cpu.max" if period is None else "cpu.cfs_quota_us")
    limit.write_text(quota + "\n")
    if period is not None:
        (folder / "cpu.cfs_period_us").write_text(period + "\n")
    return limit


def test_available_cores_is_the_affinity_without_a_quota(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "CGROUP_LIMITS", (tmp_path / "absent",))
    assert available_cores() == len(psutil.Process().cpu_affinity())


@pytest.mark.parametrize(
    ("quota", "period"), [("100000 100000", None), ("50000 100000", None), ("100000", "100000"), ("1", "100000")]
)
def test_available_cores_is_capped_by_a_quota_rounded_up(monkeypatch, tmp_path, quota, period):
    monkeypatch.setattr(hardware, "CGROUP_LIMITS", (write_quota(tmp_path, quota, period),))
    assert available_cores() == 1


@pytest.mark.parametrize(
    ("quota", "period"), [("max 100000", None), ("-1", "100000"), ("", None), ("a b", None), ("1 0", None), ("7", "x")]
)
def test_available_cores_ignores_a_missing_or_odd_quota(monkeypatch, tmp_path, quota, period):
    monkeypatch.setattr(hardware, "CGROUP_LIMITS", (write_quota(tmp_path, quota, period),))
    assert available_cores() == len(psutil.Process().cpu_affinity())


def test_available_cores_without_affinity_masks_counts_all(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "CGROUP_LIMITS", ())
    monkeypatch.delattr(psutil.Process, "cpu_affinity")
    monkeypatch.setattr(hardware.os, "cpu_count", lambda: 12)
    assert available_cores() == 12


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library keeps no freed memory")
def test_return_freed_memory_shrinks_the_process():
    blocks = [np.ones(60_000, np.uint8) for _ in range(3000)]
    del blocks[:-1]  # the last one keeps the heap from shrinking by itself
    before = psutil.Process().memory_info().rss
    return_freed_memory()
    assert psutil.Process().memory_info().rss < before - 100_000_000
    assert blocks[0].all()


def test_peak_memory_bytes_grows_with_an_allocation():
    before = peak_memory_bytes()
    block = bytearray(before + 50_000_000)
    assert peak_memory_bytes() >= before + len(block) // 2
    assert peak_memory_bytes() >= psutil.Process().memory_info().rss // 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cpuu", "no device 'cpuu'; give auto, cpu, cuda"),
        ("meta", "device 'meta' is not supported; give auto, cpu"),
        pytest.param("mps", "PyTorch finds no Metal device", marks=pytest.mark.skipif(METAL, reason="has Metal")),
        pytest.param(
            "cuda", r"PyTorch finds 0 GPU\(s\) here", marks=pytest.mark.skipif(not NO_GPU, reason="has a GPU")
        ),
        ("cuda:99", r"device 'cuda:99': PyTorch finds \d+ GPU"),
    ],
)
def test_find_device_errors(name: str, message: str):
    with pytest.raises(ConfigError, match=message):
        find_device(name)


@pytest.mark.parametrize(
    ("cuda", "metal", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_find_device_auto_is_the_fastest_kind_present(monkeypatch, cuda, metal, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: metal)
    assert find_device("auto").type == expected


def test_column_sums_are_float64_and_close_without_float64(monkeypatch):
    rows = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    exact = column_sums(rows)
    monkeypatch.setattr(hardware, "WITHOUT_FLOAT64", frozenset({"cpu"}))
    assert exact.dtype == column_sums(rows).dtype == torch.float64
    torch.testing.assert_close(exact, rows.double().sum(0), rtol=0, atol=0)
    torch.testing.assert_close(column_sums(rows), exact, rtol=1e-5, atol=1e-4)


def test_flop_per_s_measures_this_machine() -> None:
    assert flop_per_s() > 1e8


def test_flop_per_s_measures_a_slow_product_on_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = iter([0.0, 5.0, 5.0, 9.0])  # of 16 rows, without instructions for the number type; a third would fail
    monkeypatch.setattr("otoscope.hardware.time", SimpleNamespace(perf_counter=lambda: next(times_s)))
    assert flop_per_s(dtype=torch.bfloat16) == 2 * 16 * 768 * 2048 / 4.0


def test_available_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert available_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert available_threads() >= 1
