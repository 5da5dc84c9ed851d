import numpy as np
import pytest
import torch

from otoscope.errors import ConfigError, TrainingError
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.base import TopK


def rows(count: int = 30, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_codes_and_reconstructions_carry_the_units_of_the_rows():
    sae, louder = (SparseAutoencoder(8, 32, TopK(4), seed=1) for _ in range(2))
    centre, x = torch.arange(8.0), rows() + torch.arange(8.0)
    sae.set_scaling(centre, torch.tensor(0.5))
    louder.set_scaling(centre * 10, torch.tensor(5.0))
    here, there = sae(x), louder(x * 10)
    torch.testing.assert_close(there.codes, here.codes * 10)
    torch.testing.assert_close(there.rebuilt, here.rebuilt * 10)


def test_with_one_scale_codes_are_displacements_along_atoms():
    sae = SparseAutoencoder(8, 32, TopK(4), decoder_bias=False)
    sae.set_scaling(torch.arange(8.0), torch.tensor(3.0))
    codes, rebuilt = sae(rows())
    torch.testing.assert_close(rebuilt, codes @ sae.decoder + sae.centre)


def test_scale_by_dimension_rebuilds_each_in_its_own_unit():
    sae = SparseAutoencoder(2, 4, TopK(4), decoder_bias=False, encoder_bias=False)
    atoms = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    with torch.no_grad():
        sae.encoder.copy_(atoms)
        sae.decoder.copy_(atoms)
    sae.set_scaling(torch.tensor([5.0, -5.0]), torch.tensor([100.0, 0.01]))
    x = torch.tensor([[205.0, -5.03], [-95.0, -4.98]])
    torch.testing.assert_close(sae(x).rebuilt, x)


def test_tied_start_and_unit_atoms():
    sae = SparseAutoencoder(8, 32, TopK(4))
    assert torch.equal(sae.encoder, sae.decoder)
    torch.testing.assert_close(sae.decoder.norm(dim=1), torch.ones(32))
    assert sae.encoder.data_ptr() != sae.decoder.data_ptr()


def test_linear_start_is_that_of_pytorch():
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


def test_seeds_decide_and_leave_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (SparseAutoencoder(8, 32, TopK(4), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.encoder, same.encoder)
    assert not torch.equal(one.encoder, other.encoder)


def test_weights_are_contiguous_rows_of_latents():
    sae = SparseAutoencoder(8, 32, TopK(4))
    for weights in (sae.encoder, sae.decoder):
        assert weights.shape == (32, 8)
        assert weights.is_contiguous()


def test_refuses_rows_of_another_width():
    with pytest.raises(TrainingError, match=r"rows are 7 wide, this dictionary was made for 8"):
        SparseAutoencoder(8, 32, TopK(4)).encode(rows(width=7))


def test_refuses_scaling_that_would_blow_up():
    sae = SparseAutoencoder(2, 4, TopK(1))
    with pytest.raises(TrainingError, match=r"scale finite and above 0"):
        sae.set_scaling(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(TrainingError, match=r"do not fit 2"):
        sae.set_scaling(torch.zeros(3), torch.ones(()))


def test_refuses_an_empty_dictionary():
    with pytest.raises(ConfigError, match=r"at least 1, got width=8, latents=0"):
        SparseAutoencoder(8, 0, TopK(1))


@pytest.mark.parametrize("k", [1, 4, 16, 32])
def test_the_gain_starts_every_budget_at_the_size_of_the_rows(k: int):
    sae, x = SparseAutoencoder(8, 32, TopK(k), decoder_bias=False), rows(200)
    before = (sae(x).rebuilt - x).square().mean()
    sae.fit_gain(x)
    rebuilt = sae(x).rebuilt
    # least squares: what is left over is orthogonal to the reconstruction
    assert ((x - rebuilt) * rebuilt).mean().abs() < 1e-5
    assert (rebuilt - x).square().mean() <= before + 1e-6


def test_arrays_and_wrong_shapes_are_refused_in_our_words():
    sae = SparseAutoencoder(6, 16, TopK(3))
    rows, codes = np.zeros((4, 6), np.float32), np.zeros((4, 16), np.float32)
    for call, given in ((sae.encode, rows), (sae, rows), (sae.decode, codes), (sae.encode, rows.tolist())):
        with pytest.raises(TrainingError, match=r"give a tensor \[rows, (width|latents)\].*torch\.as_tensor\(array"):
            call(given)
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(
            TrainingError, match=rf"rows are {str(dtype)[6:]}; give real numbers, floating point or whole"
        ):
            sae.encode(torch.zeros(4, 6, dtype=dtype))
    with pytest.raises(TrainingError, match=r"rows are a single number; give a tensor \[rows, width\]"):
        sae.encode(torch.tensor(1.0))
    with pytest.raises(TrainingError, match=r"codes have 6 latents, this dictionary has 16"):
        sae.decode(torch.zeros(4, 6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int16, torch.uint8])
def test_rows_of_any_real_kind_are_taken_over_as_float32(dtype: torch.dtype):
    sae, given = SparseAutoencoder(6, 16, TopK(3)), (10 * rows(4)[:, :6]).abs().to(dtype)
    made, expected = sae(given), sae(given.float())
    assert made.codes.dtype == made.rebuilt.dtype == torch.float32
    assert torch.equal(made.codes, expected.codes)
    assert torch.equal(sae.encode(given), expected.codes)
    assert torch.equal(sae.decode(expected.codes.double()), expected.rebuilt)
    assert torch.equal(sae.double().encode(given), sae.encode(given.double()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_is_refused_by_its_place(value: float):
    sae = SparseAutoencoder(6, 16, TopK(3))
    spoilt = torch.zeros(3, 5, 6)
    spoilt[1, 4, 2] = spoilt[2, 0, 0] = value
    for call in (sae.encode, sae):
        with pytest.raises(TrainingError, match=r"^row \[1, 4\] holds NaN or Inf \(2 such row\(s\) of 15\); remove it"):
            call(spoilt)
        with pytest.raises(TrainingError, match=r"^row 4 holds NaN or Inf \(1 such row\(s\) of 5\)"):
            call(spoilt[1])
        with pytest.raises(TrainingError, match=r"^the row holds NaN or Inf"):
            call(spoilt[1, 4])


def test_numbers_as_large_as_float32_holds_are_taken_and_larger_ones_refused():
    """Rows whose sum overflows are finite all the same."""
    sae, large = SparseAutoencoder(6, 16, TopK(3)), torch.full((4, 6), 3e38)
    assert not torch.isfinite(large.sum())
    assert sae.encode(large).shape == (4, 16)
    assert sae.encode(torch.zeros(0, 6)).shape == (0, 16)
    with pytest.raises(TrainingError, match=r"^row 0 holds a number too large for float32 \(4 such row\(s\) of 4\)"):
        sae.encode(10 * large.double())
