"""Fast precision: how far it lies from exact, what it leaves alone, and what it must not change."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention

from otoscope.encoders.catalog import load_encoder
from otoscope.encoders.precision import (
    BF16Conv1d,
    BF16GroupedConv1d,
    available_precision,
    fused_attention,
    prepare_model,
)
from otoscope.encoders.product_speed import PackedLinear, bf16_is_faster, packs
from otoscope.encoders.starter import wheel_files
from otoscope.errors import ConfigError
from tests.support.sounds import noise
from tests.support.tiny import BLOCKS, TINY

ALL = tuple(range(BLOCKS + 1))
ROUNDING = 2.0**-8
"""bfloat16 keeps 8 bits."""

here_alone = pytest.mark.skipif(not bf16_is_faster("cpu"), reason="this processor has no bfloat16 products")
starter_here = pytest.mark.skipif(wheel_files() is None, reason="the extra starter is not installed")


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_layer_of_every_family_stays_near_exact(tiny, family):
    exact, fast = load_encoder(tiny(family)), load_encoder(tiny(family), precision="fast")
    assert exact.precision == "exact"
    assert fast.precision == available_precision("fast", family=family, device="cpu")
    waves = noise(16000, 12345, 2801, 16000)
    plain, rounded = exact.encode(waves, ALL), fast.encode(waves, ALL)
    assert torch.equal(plain.mask, rounded.mask)
    for layer in ALL:
        near = cosine_similarity(plain.layers[layer][plain.mask], rounded.layers[layer][plain.mask], dim=-1)
        assert near.mean() > 0.999, (family, layer)
        assert rounded.layers[layer].dtype == torch.float32


@pytest.mark.parametrize("family", sorted(TINY))
def test_a_probe_of_every_layer_of_every_family_changes_by_less_than_its_standard_error(tiny, family):
    """Clips repeat one of three patterns, as long as a hop, under noise; frames are told apart by their pattern."""
    exact, fast = load_encoder(tiny(family)), load_encoder(tiny(family), precision="fast")
    draw = np.random.default_rng(0)
    samples = round(0.3 * exact.rate_hz)
    patterns = draw.standard_normal((3, 320))
    waves = [
        torch.from_numpy(0.1 * (np.resize(pattern, samples) + 0.7 * draw.standard_normal(samples))).float()
        for _ in range(16)
        for pattern in patterns
    ]
    plain, rounded = exact.encode(waves, ALL), fast.encode(waves, ALL)
    clips, frames = plain.mask.shape
    assert plain.mask.all()
    classes = np.repeat(np.tile(np.arange(3), 16), frames)
    train = np.repeat(np.arange(clips) < clips // 2, frames)
    for layer in ALL:
        scores: list[float] = []
        for encoded in (plain, rounded):
            rows = encoded.layers[layer].flatten(0, 1).numpy()
            rows = (rows - rows[train].mean(0)) / rows[train].std(0)
            probe = LogisticRegression(C=0.01, max_iter=1000).fit(rows[train], classes[train])
            scores.append(float(probe.score(rows[~train], classes[~train])))
        assert 0.36 < scores[0] < 0.995, "a probe that is always right or guesses could not change"
        standard_error = np.sqrt(scores[0] * (1 - scores[0]) / (~train).sum())
        assert abs(scores[1] - scores[0]) < standard_error, (family, layer, scores)


def test_what_rounding_would_drown_is_not_rounded(tiny):
    exact, fast = load_encoder(tiny("encodec")), load_encoder(tiny("encodec"), precision="fast")
    waves = noise(9000)
    assert torch.equal(exact.encode(waves, [BLOCKS]).layers[BLOCKS], fast.encode(waves, [BLOCKS]).layers[BLOCKS])


@here_alone
@pytest.mark.parametrize("family", ["hubert", "wavlm", "whisper", "ast"])
def test_fast_rounds_and_repeats_itself_byte_for_byte(tiny, family):
    exact, fast = load_encoder(tiny(family)), load_encoder(tiny(family), precision="fast")
    again = load_encoder(tiny(family), precision="fast")
    waves = noise(16000, 12345)
    first, second, third = (encoder.encode(waves, [BLOCKS]).layers[BLOCKS] for encoder in (fast, fast, again))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert not torch.equal(first, exact.encode(waves, [BLOCKS]).layers[BLOCKS])


@pytest.mark.parametrize("clips", [1, 3])
def test_a_grouped_convolution_is_its_products(clips):
    draw = torch.Generator().manual_seed(0)
    plain = nn.Conv1d(32, 32, 12, padding=6, groups=4)
    state = torch.randn(clips, 32, 50, generator=draw)
    with torch.inference_mode():
        expected, found = plain(state), BF16GroupedConv1d(plain)(state)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 4 * ROUNDING * expected.abs().max()


@pytest.mark.parametrize("stride", [1, 2])
def test_products_and_convolutions_round_their_operands_alone(stride):
    draw = torch.Generator().manual_seed(0)
    linear, conv = nn.Linear(64, 48), nn.Conv1d(16, 24, 3, stride=stride)
    rows, sound = torch.randn(3, 5, 64, generator=draw), torch.randn(2, 16, 40, generator=draw)
    with torch.inference_mode():
        for plain, half, given in (
            (linear, PackedLinear(linear, dtype=torch.bfloat16, packed=packs(torch.bfloat16)), rows),
            (conv, BF16Conv1d(conv), sound),
        ):
            expected, found = plain(given), half(given)
            assert (found.shape, found.dtype) == (expected.shape, torch.float32)
            assert (found - expected).norm() < ROUNDING * expected.norm()
            assert half(given.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("taps", [3, 8, 16, 31])
def test_convolutions_of_sixteen_channels_per_group_round_their_operands_alone(groups, taps):
    draw = torch.Generator().manual_seed(0)
    plain = nn.Conv1d(16 * groups, 16 * groups, taps, stride=2, padding=taps // 2, groups=groups)
    sound = torch.randn(2, 16 * groups, 60, generator=draw)
    with torch.inference_mode():
        expected, rounded = plain(sound), BF16Conv1d(plain)(sound)
    assert (rounded - expected).norm() < ROUNDING * expected.norm()


@here_alone
def test_convolutions_of_few_channels_per_group_stay_exact():
    """oneDNN's bfloat16 convolution on AMX is wrong below 16 channels per group."""
    model = nn.Sequential(nn.Conv1d(1, 64, 10), nn.Conv1d(64, 64, 16, stride=2, groups=16), nn.Conv1d(64, 16, 3))
    model.config = SimpleNamespace(model_type="toy")  # pyright: ignore[reportAttributeAccessIssue]
    kinds = [type(layer) for layer in prepare_model(model, precision="fast", device="cpu")]
    assert kinds == [nn.Conv1d, nn.Conv1d, BF16Conv1d]


@pytest.mark.parametrize("masked", [False, True])
def test_attention_a_few_heads_at_a_time_is_attention(monkeypatch, masked):
    monkeypatch.setattr("otoscope.encoders.precision.MAX_SCORES", 3 * 30 * 30)
    draw = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 30, 8, generator=draw)
    keep = torch.arange(30)[None, None, None] < torch.tensor([30, 12])[:, None, None, None]
    bias = keep if masked else torch.randn(2, 4, 30, 30, generator=draw)
    expected = scaled_dot_product_attention(query, key, value, attn_mask=bias)
    found = fused_attention(query, key, value, bias=bias, scaling=8**-0.5)
    assert (found.float() - expected).norm() < 2 * ROUNDING * expected.norm()


@starter_here
def test_a_probe_of_the_starter_model_changes_by_less_than_its_standard_error():
    exact, fast = (load_encoder("starter", context="short", precision=p) for p in ("exact", "fast"))
    draw = torch.Generator().manual_seed(0)
    time_s = torch.arange(6400) / 16000
    pitch_hz = torch.tensor([140.0, 150.0, 160.0, 170.0]).repeat(40)
    tones = [
        torch.sin(2 * torch.pi * hz * time_s).sign() * 0.05 + 0.3 * torch.randn(6400, generator=draw) for hz in pitch_hz
    ]
    layers = [layer.index for layer in exact.layers]
    plain, rounded = exact.encode(tones, layers), fast.encode(tones, layers)
    classes, train = np.tile(np.arange(4), 40), np.arange(160) < 80
    for layer in layers:
        near = cosine_similarity(plain.layers[layer], rounded.layers[layer], dim=-1)
        assert near.mean() > 0.9995
        assert near.quantile(0.01) > 0.999
        scores: list[float] = []
        for encoded in (plain, rounded):
            rows = encoded.layers[layer].mean(1).numpy()
            rows = (rows - rows[train].mean(0)) / rows[train].std(0)
            probe = LogisticRegression(C=0.1, max_iter=500).fit(rows[train], classes[train])
            scores.append(float(probe.score(rows[~train], classes[~train])))
        assert 0.3 < scores[0] < 0.999, "a probe that is always right or guesses could not change"
        standard_error = np.sqrt(scores[0] * (1 - scores[0]) / 80)
        assert abs(scores[1] - scores[0]) < standard_error


def test_an_unknown_precision_is_refused(tiny):
    with pytest.raises(ConfigError, match="precision is 'half'; allowed: exact, fast"):
        load_encoder(tiny("hubert"), precision="half")


def test_fast_is_exact_where_bfloat16_is_slower(tiny, monkeypatch):
    monkeypatch.setattr("otoscope.encoders.precision.bf16_is_faster", lambda _: False)
    exact, fast = load_encoder(tiny("hubert")), load_encoder(tiny("hubert"), precision="fast")
    waves = noise(16000)
    assert fast.precision == "exact"
    assert torch.equal(exact.encode(waves, [BLOCKS]).layers[BLOCKS], fast.encode(waves, [BLOCKS]).layers[BLOCKS])
