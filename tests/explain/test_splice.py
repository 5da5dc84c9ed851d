"""Splices whose effect is known: identity, mean ablation, the error term, and an error in one frame."""

from pathlib import Path

import numpy as np
import pytest
import torch

from otoscope.encoders.batched import BatchedEncoder
from otoscope.encoders.catalog import load_encoder
from otoscope.errors import EncoderError, UnknownLayer
from otoscope.explain.splice import (
    frame_cosine,
    mean_ablation,
    principal_components,
    random_atoms,
    recovered_share,
    score_shares,
    splice,
    splice_with,
)
from otoscope.sae import SparseAutoencoder, TopK
from tests.support.small_runs import Tiny, tone

FAMILIES = ("whisper", "wavlm", "ast", "clap", "hubert", "wav2vec2-bert")


def encoder_of(tiny: Tiny, family: str) -> BatchedEncoder:
    encoder = load_encoder(tiny(family))
    assert isinstance(encoder, BatchedEncoder)
    return encoder


def identity_sae(width: int) -> SparseAutoencoder:
    """An SAE that rebuilds every frame: its atoms are the axes and their opposites."""
    sae = SparseAutoencoder(width, 2 * width, TopK(2 * width))
    with torch.no_grad():
        both = torch.cat([torch.eye(width), -torch.eye(width)])
        sae.encoder.copy_(both)
        sae.decoder.copy_(both)
    return sae.eval().requires_grad_(False)


def waves(encoder: BatchedEncoder) -> list[np.ndarray]:
    short = max(encoder.min_samples / 16_000, 0.3)
    return [tone(220.0, seconds=max(s, short))[: round(max(s, short) * 16_000)] for s in (0.31, 0.5)]


def change(frames: int, width: int) -> torch.Tensor:
    """Grow with time, in one dimension: a layer norm removes a change that all dimensions share."""
    return torch.arange(frames, dtype=torch.float32)[:, None] * torch.eye(1, width)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_splice_of_the_frames_themselves_changes_nothing_and_of_others_only_later_layers(
    tiny: Tiny, family: str, layer: int
) -> None:
    encoder = encoder_of(tiny, family)
    clips = waves(encoder)
    layers = [0, 1, 2, 3]
    before = splice_with(encoder, layer, lambda rows: rows).encode(clips, layers)
    wanted = [encoder.encode([wave], layers) for wave in clips]
    for i, one in enumerate(wanted):
        count = one.mask.shape[1]
        assert before.mask[i].sum() == count
        for index in layers:
            assert torch.equal(before.layers[index][i, :count], one.layers[index][0])
    seen: list[torch.Tensor] = []

    def moved(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows)
        return rows + change(len(rows), rows.shape[1])

    after = splice_with(encoder, layer, moved).encode(clips, layers)
    for i, one in enumerate(wanted):
        count = one.mask.shape[1]
        # frames arrive, and are put back, in the order of time
        assert torch.equal(seen[i], one.layers[layer][0])
        wanted_state = one.layers[layer][0] + change(count, encoder.layers[layer].width)
        assert torch.allclose(after.layers[layer][i, :count], wanted_state, atol=1e-4)
        for index in range(layer):
            assert torch.equal(after.layers[index][i, :count], one.layers[index][0])
        assert not torch.allclose(after.layers[3][i, :count], one.layers[3][0], atol=1e-3)


def test_identity_sae_recovers_everything_and_the_error_term_is_exact(tiny: Tiny) -> None:
    encoder = encoder_of(tiny, "whisper")
    clips, width = waves(encoder), encoder.layers[0].width
    wanted = encoder.encode(clips, [3]).layers[3]
    sae = identity_sae(width)
    assert torch.allclose(splice(encoder, sae, 1).encode(clips, [3]).layers[3], wanted, atol=1e-5)
    poor = SparseAutoencoder(width, 4, TopK(1)).eval().requires_grad_(False)
    assert not torch.allclose(splice(encoder, poor, 1).encode(clips, [3]).layers[3], wanted, atol=1e-3)
    assert torch.equal(splice(encoder, poor, 1, error_term=True).encode(clips, [3]).layers[3], wanted)
    unchanged = splice(encoder, poor, 1, error_term=True, edit=lambda codes: codes).encode(clips, [3]).layers[3]
    assert torch.allclose(unchanged, wanted, atol=1e-5)
    ablated = splice(encoder, poor, 1, error_term=True, edit=torch.zeros_like).encode(clips, [1]).layers[1]
    frames = encoder.encode(clips, [1]).layers[1]
    contribution = poor.decode(poor.encode(frames[0])) - poor.decode(torch.zeros(len(frames[0]), 4))
    assert torch.allclose(ablated[0], frames[0] - contribution, atol=1e-5)


def test_mean_ablation_and_principal_components_replace_frames_as_defined(tiny: Tiny) -> None:
    encoder = encoder_of(tiny, "wavlm")
    clips, width = waves(encoder), encoder.layers[0].width
    (frames,) = encoder.encode(clips[:1], [1]).layers[1]
    mean = frames.mean(dim=0)
    (replaced,) = splice_with(encoder, 1, mean_ablation(mean.numpy())).encode(clips[:1], [1]).layers[1]
    assert torch.allclose(replaced, mean.expand(len(frames), -1))
    rows = np.random.default_rng(0).normal(size=(500, width)).astype(np.float32)
    every = principal_components(rows, width)(torch.from_numpy(rows))
    assert every.numpy() == pytest.approx(rows, abs=1e-4)
    given = torch.from_numpy(rows)
    errors = [float((principal_components(rows, k)(given) - given).square().sum()) for k in (1, 4, 8)]
    assert errors == sorted(errors, reverse=True)


def test_random_atoms_keep_scaling_and_sparsifier(tiny: Tiny) -> None:
    del tiny
    sae = SparseAutoencoder(8, 40, TopK(3))
    sae.set_scaling(torch.full((8,), 0.3), torch.tensor(2.0))
    rows = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    twin = random_atoms(sae, rows, seed=1)
    assert torch.equal(twin.centre, sae.centre)
    assert ((twin.encode(rows) > 0).sum(axis=1) <= 3).all()
    assert not torch.allclose(twin.decoder, sae.decoder)
    error = np.square(twin(rows).reconstruction - rows).sum()
    assert error < np.square(rows - 0.3).sum()


def test_recovered_share_is_one_for_untouched_zero_for_ablated_and_undefined_without_harm() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"g{i}" for i in range(6)], 10)
    untouched = 0.9 + rng.normal(0, 0.02, 60)
    ablated = 0.3 + rng.normal(0, 0.02, 60)
    assert score_shares(untouched, untouched, ablated, groups).recovered == pytest.approx(1.0)
    assert score_shares(ablated, untouched, ablated, groups).recovered == pytest.approx(0.0)
    half = score_shares((untouched + ablated) / 2, untouched, ablated, groups)
    assert half.recovered == pytest.approx(0.5)
    assert half.low <= 0.5 <= half.high
    harmless = score_shares(untouched, untouched, untouched + rng.normal(0, 0.02, 60), groups)
    assert np.isnan([harmless.recovered, harmless.low, harmless.high]).all()
    assert np.isnan(recovered_share(0.4, 0.5, 0.49, noise=0.02))
    few = score_shares(np.full(60, 0.1), rng.normal(0, 0.01, 60), np.ones(60), groups)  # an error rate
    assert few.recovered == pytest.approx(0.9, abs=0.01)


def test_interval_of_a_share_is_that_of_paired_clips() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"g{i}" for i in range(10)], 12)
    untouched, ablated = (rng.random(120) < 0.7).astype(float), (rng.random(120) < 0.2).astype(float)
    harm = untouched.mean() - ablated.mean()
    same = score_shares(untouched, untouched, ablated, groups)
    assert same[3:6] == pytest.approx((1.0, 1 - 1.96 / 120 / harm, 1 + 1.96 / 120 / harm), abs=1e-4)
    lost = untouched.copy()
    lost[[np.flatnonzero(untouched[i : i + 12])[0] + i for i in range(0, 108, 12)]] = 0.0
    nine = score_shares(lost, untouched, ablated, groups)
    share = 1 - 9 / 120 / harm
    change = lost - share * untouched - (1 - share) * ablated
    assert nine.recovered == pytest.approx(share)
    assert share - nine.low >= 1.95 * np.sqrt(1 + np.square(change).sum()) / 120 / harm


def test_interval_of_an_equal_share_in_all_groups_is_of_clips_or_missing() -> None:
    groups = np.repeat(["a", "b", "c"], 10)
    right, wrong = np.ones(30), np.zeros(30)
    found = score_shares(right, right, wrong, groups)
    # no share exceeds that of the best accuracy
    assert found[3:6] == pytest.approx((1.0, 1 - 1.96 / 30, 1.0), abs=1e-4)
    half = np.tile([1.0, 0.0], 15)
    found = score_shares(half, right, half, groups)
    assert found[3:6] == pytest.approx((0.0, -2 * 1.96 / 30, 2 * 1.96 / 30), abs=1e-4)
    # rates of errors improve downwards
    assert score_shares(wrong, wrong, right, groups)[3:6] == pytest.approx((1.0, 1 - 1.96 / 30, 1.0), abs=1e-4)
    rates = score_shares(0.9 * right, right, 0.5 * right, groups)
    assert rates.recovered == pytest.approx(0.8)
    assert np.isnan([rates.low, rates.high]).all()
    one = score_shares(right, right, wrong, np.repeat("a", 30))
    assert np.isnan([one.low, one.high]).all()


def test_frame_cosine_of_equal_frames_is_exactly_one() -> None:
    frames = np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32)
    mean = frames.mean(axis=0)
    assert frame_cosine(frames, frames, mean) == 1.0
    assert frame_cosine(np.broadcast_to(mean, frames.shape), frames, mean) == 0.0


def test_splice_refuses_other_layers_widths_and_families(tiny: Tiny) -> None:
    whisper = encoder_of(tiny, "whisper")
    width = whisper.layers[0].width
    with pytest.raises(UnknownLayer, match="has no layer 9"):
        splice(whisper, identity_sae(width), 9)
    with pytest.raises(EncoderError, match=f"takes frames of width {width + 1}, layer 1 of .* has width {width}"):
        splice(whisper, identity_sae(width + 1), 1)
    with pytest.raises(EncoderError, match="is convolutional"):
        splice_with(encoder_of(tiny, "encodec"), 0, lambda rows: rows)


def test_replaced_states_end_with_the_block(tiny: Tiny, tmp_path: Path) -> None:
    del tmp_path
    encoder = encoder_of(tiny, "whisper")
    clips = waves(encoder)
    wanted = encoder.encode(clips, [2]).layers[2]

    def fails(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        splice_with(encoder, 1, fails).encode(clips, [2])
    assert torch.equal(encoder.encode(clips, [2]).layers[2], wanted)
