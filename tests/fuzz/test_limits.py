"""The limits of the fuzz tests: a child counts with its own memory, without that of the process that starts it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.fuzzing import limits

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")


def test_limits_do_not_charge_a_child_with_the_memory_of_its_parent() -> None:
    held = np.ones(30_000_000)
    with limits(most_bytes=held.nbytes / 2):
        subprocess.run(["true"], check=True)


BODY = """
import subprocess, sys
from tests.support.fuzzing import limits
program = "data = bytearray(1_600_000_000); data[::4096] = b'1' * len(data[::4096])"
with limits():
    subprocess.run([sys.executable, "-c", program], check=True)
"""


def test_limits_refuse_the_memory_of_a_child() -> None:
    """In a process of its own: a child counts only if it takes more than those that ended before."""
    ran = subprocess.run([sys.executable, "-c", BODY], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "GB of memory" in ran.stderr
