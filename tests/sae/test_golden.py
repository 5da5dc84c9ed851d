"""The forward pass equals that of the authors' code on the authors' weights (stored outputs of their code)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from otoscope import SparseAutoencoder, TopK
from otoscope.sae.sparsifiers.base import k_from_sparsity


@pytest.mark.shared
def test_topk_sae_matches_the_authors_code(shared: Path):
    with np.load(shared / "paper" / "golden_small.npz") as golden:
        data = {name: golden[name] for name in golden.files}
    latents, width = data["enc_weight"].shape
    k = k_from_sparsity(latents, float(data["sparsity"]))
    sae = SparseAutoencoder(width, latents, TopK(k), decoder_bias=False, unit_norm=False, init="linear")
    with torch.no_grad():
        sae.encoder.copy_(torch.from_numpy(data["enc_weight"]))
        sae.encoder_bias.copy_(torch.from_numpy(data["enc_bias"]))
        sae.decoder.copy_(torch.from_numpy(data["dec_weight"].T))
    codes, rebuilt = sae(torch.from_numpy(data["hidden"]))
    np.testing.assert_allclose(codes.detach().numpy(), data["codes"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(rebuilt.detach().numpy(), data["reconstruction"], rtol=0, atol=1e-5)
    assert ((codes > 0).sum(dim=1) == (torch.from_numpy(data["codes"]) > 0).sum(dim=1)).all()
