import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from otoscope.activations.tensorfile import PRECISIONS, RowFile, map_tensor, to_float32, to_stored
from otoscope.errors import DamagedArtifact

TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write(path: Path, parts: list[torch.Tensor], dtype: str, *, axes: tuple[int, ...] = (3,)) -> None:
    with RowFile(path, name="frames", axes=axes, dtype=dtype) as file:
        for part in parts:
            file.append(to_stored(part, dtype))


@pytest.mark.parametrize("dtype", sorted(PRECISIONS))
@pytest.mark.parametrize("counts", [[4], [1, 0, 5], []])
def test_safetensors_reads_what_was_appended(tmp_path: Path, dtype: str, counts: list[int]):
    parts = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in counts]
    write(tmp_path / "a.safetensors", parts, dtype)
    expected = torch.cat([torch.empty(0, 3), *parts]).to(TORCH[dtype])
    assert torch.equal(load_file(tmp_path / "a.safetensors")["frames"], expected)
    mapped = map_tensor(tmp_path / "a.safetensors", "frames")
    assert mapped.dtype == dtype
    np.testing.assert_array_equal(to_float32(*mapped), expected.float().numpy())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_bfloat16_rounds_as_torch_does(values: list[float]):
    tensor = torch.tensor(values)
    np.testing.assert_array_equal(
        to_float32(to_stored(tensor, "bfloat16"), "bfloat16"), tensor.to(torch.bfloat16).float().numpy()
    )


def test_rewinding_leaves_no_trace(tmp_path: Path):
    first, unwanted, second = torch.ones(2, 3), torch.full((5, 3), 7.0), torch.zeros(1, 3)
    write(tmp_path / "plain", [first, second], "float32")
    with RowFile(tmp_path / "rewound", name="frames", axes=(3,), dtype="float32") as file:
        file.append(to_stored(first, "float32"))
        file.append(to_stored(unwanted, "float32"))
        file.rewind(2)
        file.append(to_stored(second, "float32"))
    assert (tmp_path / "rewound").read_bytes() == (tmp_path / "plain").read_bytes()


def test_rows_of_another_width_are_refused(tmp_path: Path):
    with (
        pytest.raises(ValueError, match=r"frames takes rows of shape \(3,\), got \(4,\)"),
        RowFile(tmp_path / "a", name="frames", axes=(3,), dtype="float32") as file,
    ):
        file.append(np.zeros((2, 4), dtype=np.float32))


@pytest.mark.parametrize("keep", [0, 4, 100, 515, -1])
def test_a_file_cut_short_is_named(tmp_path: Path, keep: int):
    path = tmp_path / "a.safetensors"
    write(path, [torch.ones(4, 3)], "float16")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedArtifact, match=r"a\.safetensors is (cut short|not a whole)"):
        map_tensor(path, "frames")


def test_a_missing_file_and_a_missing_tensor_are_named(tmp_path: Path):
    write(tmp_path / "a.safetensors", [torch.ones(4, 3)], "float32")
    with pytest.raises(DamagedArtifact, match=r"with a tensor 'pooled'"):
        map_tensor(tmp_path / "a.safetensors", "pooled")
    with pytest.raises(DamagedArtifact, match=r"b\.safetensors is not a whole"):
        map_tensor(tmp_path / "b.safetensors", "frames")


def test_to_float32_starts_no_threads():
    # PyTorch's threads wait for more work in a loop, and take the cores from training
    code = """
import numpy as np, psutil, torch
from otoscope.activations.tensorfile import to_float32
before = psutil.Process().num_threads()
to_float32(np.ones((1024, 768), np.float16), "float16")
print(psutil.Process().num_threads() - before)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0"]
