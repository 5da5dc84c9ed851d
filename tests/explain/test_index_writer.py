"""Writing of the activation index: the range of float16, interrupted calls, and SAEs that do not fit the store."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from otoscope.activations.store import ActivationStore
from otoscope.errors import EvaluationError, IncompleteArtifact
from otoscope.explain.activation_index import ActivationIndex
from otoscope.explain.index_writer import write_activation_index
from tests.support.activations import contents
from tests.support.index_run import SMALL, sae_of, store_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return store_of(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("unit", [1e-9, 1e7])
def test_codes_of_any_size_fit_in_float16(store: ActivationStore, tmp_path: Path, unit: float) -> None:
    sae = sae_of()
    sae.set_scaling(torch.zeros(6), torch.tensor(unit))
    wanted = {clip: sae.encode(frames) for clip, frames in store.iter_clips(1)}
    index = write_activation_index(tmp_path, store, sae, 1, part_entries=100)
    for clip, codes in wanted.items():
        assert np.isfinite(codes).all()
        assert index.codes_of(clip) == pytest.approx(codes, rel=1e-3, abs=1e-6 * float(codes.max()))


def test_a_killed_index_resumes_to_the_same_bytes_within_bounded_memory(tmp_path: Path) -> None:
    """Dense codes of the clips of the memory test take 105 MB, and a tensor of them is held several times."""
    store, sae = store_of(tmp_path), sae_of()
    whole = write_activation_index(tmp_path / "whole", store, sae, 1, **SMALL)
    command = [sys.executable, "-m", "tests.support.index_run", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert int(ended.stdout) < 96 * 1024
    with pytest.raises(IncompleteArtifact, match="no finished index"):
        ActivationIndex.open(tmp_path / "killed")
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("part-*")}
    assert 0 < len(left) < len(whole.card["parts"])
    write_activation_index(tmp_path / "killed", store, sae, 1, **SMALL)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert all((tmp_path / "killed" / name).stat().st_mtime_ns == at for name, at in left.items())


def test_parts_of_another_dictionary_are_written_again(store: ActivationStore, tmp_path: Path) -> None:
    write_activation_index(tmp_path, store, sae_of(k=3), 1)
    index = write_activation_index(tmp_path, store, sae_of(k=5), 1)
    first = store.clip_ids[0]
    assert index.codes_of(first) == pytest.approx(sae_of(k=5).encode(store.frames_of(1, first)), rel=1e-3)


def test_an_sae_of_another_width_layer_or_pooling_is_refused(store: ActivationStore, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"takes rows of width 7, layer 1 .* has width 6"):
        write_activation_index(tmp_path, store, sae_of(width=7), 1)
    for name, value in (("layer", 3), ("pooling", "pool_then_encode")):
        trained = sae_of()
        trained.card[name] = value
        with pytest.raises(
            EvaluationError, match=rf"was trained with {name} {value}, not with .*; give {name} {value}"
        ):
            write_activation_index(tmp_path, store, trained, 1)


@pytest.mark.parametrize("name", ["part-00001.safetensors", "block-00000.safetensors"])
def test_a_damaged_file_of_a_killed_index_is_written_again(store: ActivationStore, tmp_path: Path, name: str) -> None:
    write_activation_index(tmp_path, store, sae_of(), 1, **SMALL)
    whole, data = contents(tmp_path), bytearray((tmp_path / name).read_bytes())
    data[-9] ^= 1
    (tmp_path / name).write_bytes(data)
    (tmp_path / "card.json").unlink()
    write_activation_index(tmp_path, store, sae_of(), 1, **SMALL)
    assert contents(tmp_path) == whole
