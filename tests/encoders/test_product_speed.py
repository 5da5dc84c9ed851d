"""Products: packed layers are the plain ones, and a machine keeps its choice between them."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn

from otoscope.encoders import product_speed
from otoscope.encoders.product_speed import PackedLinear, bf16_is_faster, packing_is_faster, packs

needs_packing = pytest.mark.skipif(not packs(torch.float32), reason="PyTorch packs no weights on this processor")


@pytest.fixture
def unmeasured(tmp_path, monkeypatch):
    """Use an empty cache folder, and forget what this process has measured."""
    monkeypatch.setenv("OTOSCOPE_CACHE", str(tmp_path / "cache"))
    for choice in (packing_is_faster, bf16_is_faster):
        choice.cache_clear()
    yield tmp_path / "cache"
    for choice in (packing_is_faster, bf16_is_faster):
        choice.cache_clear()


@pytest.fixture
def time_as(monkeypatch):
    """Set the measured seconds of the default form and of the other one."""

    def set_seconds(default_s, other_s):
        monkeypatch.setattr(product_speed, "_time_layers", lambda *_, **__: [default_s, other_s])

    return set_seconds


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 5, 64), (3, 7, 64), (250, 64), (64,)])
def test_packed_linear_equals_the_plain_layer(shape, bias):
    generator = torch.Generator().manual_seed(0)
    plain = nn.Linear(64, 48, bias=bias)
    rows = torch.randn(*shape, generator=generator)
    packed = PackedLinear(plain, dtype=torch.float32, packed=True)
    with torch.inference_mode():
        torch.testing.assert_close(packed(rows), plain(rows), rtol=1e-5, atol=1e-6)
    assert torch.equal(packed.weight, plain.weight)


@needs_packing
@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_packed_linear_is_copied_and_pickled_whole(again):
    packed = PackedLinear(nn.Linear(32, 16), dtype=torch.float32, packed=True).eval()
    rows = torch.randn(4, 32)
    with torch.inference_mode():
        assert torch.equal(again(packed)(rows), packed(rows))


@needs_packing
def test_packed_linear_passes_gradients_to_its_input():
    plain = nn.Linear(32, 16)
    packed = PackedLinear(plain, dtype=torch.float32, packed=True)
    rows = torch.randn(4, 32)
    gradients = [
        torch.autograd.grad(layer(given).square().sum(), given)[0]
        for layer in (plain, packed)
        for given in [rows.clone().requires_grad_()]
    ]
    torch.testing.assert_close(gradients[1], gradients[0])


@needs_packing
@pytest.mark.parametrize(("plain_s", "packed_s", "faster"), [(1.2, 1.0, True), (1.02, 1.0, False), (0.8, 1.0, False)])
def test_packing_is_measured_once_per_machine(unmeasured, time_as, plain_s, packed_s, faster):
    time_as(plain_s, packed_s)
    assert packing_is_faster() is faster
    packing_is_faster.cache_clear()
    time_as(packed_s, plain_s)
    assert packing_is_faster() is faster, "another process must get the kept choice"
    assert list(json.loads((unmeasured / "products.json").read_text()).values()) == [faster]


@needs_packing
@pytest.mark.parametrize("damage", ["", "[]", "null", '{"a": 1}', "[" * 100_000, "\x00"])
def test_a_damaged_choice_is_measured_again(unmeasured, time_as, damage):
    unmeasured.mkdir()
    (unmeasured / "products.json").write_text(damage)
    time_as(2.0, 1.0)
    assert packing_is_faster() is True


def test_packing_is_off_where_the_choice_cannot_be_kept(unmeasured, time_as):
    unmeasured.write_text("a file in the place of the folder")
    time_as(2.0, 1.0)
    assert packing_is_faster() is False


@pytest.mark.skipif(not packs(torch.bfloat16), reason="PyTorch packs no bfloat16 weights on this processor")
@pytest.mark.parametrize(("exact_s", "rounded_s", "faster"), [(2.0, 1.0, True), (1.1, 1.0, False), (1.0, 3.0, False)])
def test_bfloat16_is_used_only_where_it_is_clearly_faster(unmeasured, time_as, exact_s, rounded_s, faster):
    time_as(exact_s, rounded_s)
    assert bf16_is_faster("cpu") is faster


def test_time_layers_orders_a_small_and_a_large_product():
    inputs = product_speed.PROBE[1]
    small_s, large_s = product_speed._time_layers(nn.Linear(inputs, 8), nn.Linear(inputs, 4096), device="cpu")
    assert 0 < small_s < large_s
