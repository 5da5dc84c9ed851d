from pathlib import Path

import numpy as np
import pytest
import torch

from otoscope import SparseAutoencoder, TopK
from otoscope.errors import ConfigError, InputError


def rows(count: int = 30, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_codes_and_reconstruction_have_the_units_of_the_rows():
    sae, louder = (SparseAutoencoder(8, 32, TopK(4), seed=1) for _ in range(2))
    centre, x = torch.arange(8.0), rows() + torch.arange(8.0)
    sae.set_scaling(centre, torch.tensor(0.5))
    louder.set_scaling(centre * 10, torch.tensor(5.0))
    here, there = sae(x), louder(x * 10)
    torch.testing.assert_close(there.codes, here.codes * 10)
    torch.testing.assert_close(there.reconstruction, here.reconstruction * 10)


def test_codes_with_one_scale_are_displacements():
    sae = SparseAutoencoder(8, 32, TopK(4), decoder_bias=False)
    sae.set_scaling(torch.arange(8.0), torch.tensor(3.0))
    codes, rebuilt = sae(rows())
    torch.testing.assert_close(rebuilt, codes @ sae.decoder + sae.centre)


def test_scale_per_dimension_keeps_each_unit():
    sae = SparseAutoencoder(2, 4, TopK(4), decoder_bias=False, encoder_bias=False)
    atoms = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    with torch.no_grad():
        sae.encoder.copy_(atoms)
        sae.decoder.copy_(atoms)
    sae.set_scaling(torch.tensor([5.0, -5.0]), torch.tensor([100.0, 0.01]))
    x = torch.tensor([[205.0, -5.03], [-95.0, -4.98]])
    torch.testing.assert_close(sae(x).reconstruction, x)


def test_init_tied_has_unit_atoms():
    sae = SparseAutoencoder(8, 32, TopK(4))
    assert torch.equal(sae.encoder, sae.decoder)
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(32))
    assert sae.encoder.data_ptr() != sae.decoder.data_ptr()


def test_init_linear_matches_pytorch():
    sae = SparseAutoencoder(64, 2048, TopK(4), init="linear", unit_norm=False, decoder_bias=False)
    encoder, decoder = torch.nn.Linear(64, 2048), torch.nn.Linear(2048, 64)
    for ours, theirs in (
        (sae.encoder, encoder.weight),
        (sae.decoder, decoder.weight),
        (sae.encoder_bias, encoder.bias),
    ):
        assert ours is not None
        assert ours.max().item() == pytest.approx(theirs.max().item(), rel=0.01)
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05)


def test_init_is_seeded_without_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (SparseAutoencoder(8, 32, TopK(4), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.encoder, same.encoder)
    assert not torch.equal(one.encoder, other.encoder)


def test_weights_are_contiguous_per_latent():
    sae = SparseAutoencoder(8, 32, TopK(4))
    for weights in (sae.encoder, sae.decoder):
        assert weights.shape == (32, 8)
        assert weights.is_contiguous()


def test_encode_width_error():
    with pytest.raises(InputError, match=r"rows have width 7, this SAE has width 8"):
        SparseAutoencoder(8, 32, TopK(4)).encode(rows(width=7))


def test_set_scaling_errors():
    sae = SparseAutoencoder(2, 4, TopK(1))
    with pytest.raises(InputError, match=r"scale finite and above 0"):
        sae.set_scaling(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(InputError, match=r"do not fit 2"):
        sae.set_scaling(torch.zeros(3), torch.ones(()))


def test_init_empty_dictionary_error():
    with pytest.raises(ConfigError, match=r"at least 1, got width=8, latents=0"):
        SparseAutoencoder(8, 0, TopK(1))


@pytest.mark.parametrize("k", [1, 4, 16, 32])
def test_fit_gain_matches_the_size_of_the_rows(k: int):
    sae, x = SparseAutoencoder(8, 32, TopK(k), decoder_bias=False), rows(200)
    before = (sae(x).reconstruction - x).square().mean()
    sae.fit_gain(x)
    rebuilt = sae(x).reconstruction
    # least squares: the residual is orthogonal to the reconstruction
    assert ((x - rebuilt) * rebuilt).mean().abs() < 1e-5
    assert (rebuilt - x).square().mean() <= before + 1e-6


def test_encode_input_errors():
    sae = SparseAutoencoder(6, 16, TopK(3))
    for call in (sae.encode, sae, sae.decode):
        with pytest.raises(InputError, match=r"expected an array or a tensor \[rows, (width|latents)\], got list"):
            call([[0.0] * 6])  # pyright: ignore
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(InputError, match=rf"rows: expected real numbers, got {str(dtype)[6:]}"):
            sae.encode(torch.zeros(4, 6, dtype=dtype))
    for dtype in (bool, object, complex, "U3"):
        with pytest.raises(InputError, match=r"rows: expected real numbers, got an array of"):
            sae.encode(np.zeros((4, 6), dtype))
    for single in (torch.tensor(1.0), np.float64(1.0) * np.ones(())):
        with pytest.raises(InputError, match=r"rows: expected \[rows, width\], got a single number"):
            sae.encode(np.asarray(single) if not isinstance(single, torch.Tensor) else single)
    with pytest.raises(InputError, match=r"codes have 6 latents, this SAE has 16"):
        sae.decode(torch.zeros(4, 6))
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, ">f4"])
def test_arrays_give_arrays_with_the_codes_of_tensors(dtype: str | type):
    sae = SparseAutoencoder(6, 16, TopK(3))
    x = (10 * rows(4)[:, :6]).abs().numpy().astype(dtype)
    x.flags.writeable = False
    expected = sae(torch.from_numpy(x.astype(np.float32)))
    output = sae(x[::-1])
    for value in (*output, sae.encode(x), sae.decode(sae.encode(x))):
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.float32
    np.testing.assert_array_equal(output.codes[::-1], expected.codes.detach().numpy())
    np.testing.assert_array_equal(sae.encode(x), expected.codes.detach().numpy())
    np.testing.assert_array_equal(sae.decode(sae.encode(x)), expected.reconstruction.detach().numpy())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int16, torch.uint8])
def test_encode_casts_real_dtypes_to_float32(dtype: torch.dtype):
    sae, given = SparseAutoencoder(6, 16, TopK(3)), (10 * rows(4)[:, :6]).abs().to(dtype)
    made, expected = sae(given), sae(given.float())
    assert made.codes.dtype == made.reconstruction.dtype == torch.float32
    assert torch.equal(made.codes, expected.codes)
    assert torch.equal(sae.encode(given), expected.codes)
    assert torch.equal(sae.decode(expected.codes.double()), expected.reconstruction)
    assert torch.equal(sae.double().encode(given), sae.encode(given.double()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_encode_non_finite_error_names_the_row(value: float):
    sae = SparseAutoencoder(6, 16, TopK(3))
    spoilt = torch.zeros(3, 5, 6)
    spoilt[1, 4, 2] = spoilt[2, 0, 0] = value
    for call in (sae.encode, sae):
        with pytest.raises(InputError, match=r"^row \[1, 4\] holds NaN or Inf \(2 such row\(s\) of 15\); remove"):
            call(spoilt)
        with pytest.raises(InputError, match=r"^row 4 holds NaN or Inf \(1 such row\(s\) of 5\)"):
            call(spoilt[1])
        with pytest.raises(InputError, match=r"^the row holds NaN or Inf"):
            call(spoilt[1, 4])


def test_encode_float32_range_error():
    """Rows with an overflowing sum can be finite."""
    sae, large = SparseAutoencoder(6, 16, TopK(3)), torch.full((4, 6), 3e38)
    assert not torch.isfinite(large.sum())
    assert sae.encode(large).shape == (4, 16)
    assert sae.encode(torch.zeros(0, 6)).shape == (0, 16)
    with pytest.raises(InputError, match=r"^row 0 holds a number too large for float32 \(4 such row\(s\) of 4\)"):
        sae.encode(10 * large.double())


def test_repr_shows_shape_and_sparsifier():
    assert repr(SparseAutoencoder(384, 2048, TopK(102))) == "SparseAutoencoder(width=384, latents=2048, TopK(k=102))"
    assert repr(SparseAutoencoder(8, 32, TopK(4), archetypes=5)).endswith("TopK(k=4), archetypes=5)")


def test_save_pretrained_keeps_the_card(tmp_path: Path):
    sae = SparseAutoencoder(8, 32, TopK(4))
    assert sae.card == {}
    sae.save_pretrained(tmp_path / "one", {"layer": 3})
    loaded = SparseAutoencoder.from_pretrained(str(tmp_path / "one"))
    assert loaded.card["layer"] == 3
    assert not loaded.training
    loaded.save_pretrained(tmp_path / "two")
    assert SparseAutoencoder.from_pretrained(tmp_path / "two").card == loaded.card
