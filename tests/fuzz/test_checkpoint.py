"""Mutated files of an SAE: the same codes to the last bit, or a refusal."""

from pathlib import Path

import pytest
import torch

from otoscope import SparseAutoencoder, TopK, load_sae, save_sae
from otoscope.errors import OtoscopeError
from otoscope.sae.checkpoint import CARD, WEIGHTS
from tests.support.fuzzing import limits, mutations
from tests.support.mutated_text import mutated_texts

ROWS = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sae")
    save_sae(folder, SparseAutoencoder(6, 16, TopK(3), seed=1), {"layer": 3, "encoder": {"name": "tiny"}})
    return folder


@pytest.mark.parametrize("seed", mutations(30))
def test_a_mutated_checkpoint_gives_the_same_codes_or_is_refused(saved: Path, tmp_path: Path, seed: int) -> None:
    codes = load_sae(saved).sae.encode(ROWS)
    for name in (CARD, WEIGHTS):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    name = (CARD, CARD, WEIGHTS)[seed % 3]
    text = (saved / name).read_bytes().decode("latin-1")
    (data,) = mutated_texts(text, times=1, seed=seed)
    (tmp_path / name).write_bytes(
        data if name == CARD else data.decode("utf-8", "replace").encode("latin-1", "replace")
    )
    try:
        with limits():
            loaded = load_sae(tmp_path).sae
    except OtoscopeError:
        return
    assert torch.equal(loaded.encode(ROWS), codes)
