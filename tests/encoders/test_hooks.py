"""Activations at named points of any module."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import otoscope
from otoscope.encoders.hooks import capture
from otoscope.errors import EncoderError, UnknownLayer


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.passes = 0

    def forward(self, state: Tensor) -> Tensor:
        self.passes += 1
        state = state + self.attention(state, state, state)[0]
        return state + self.mlp(state)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 8, 10, stride=5)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.unused = nn.Linear(8, 8)

    def forward(self, sound: Tensor) -> dict[str, Tensor]:
        state = self.conv(sound[:, None]).transpose(1, 2)
        for block in self.blocks:
            state = block(state)
        return {"state": state}


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


SOUND = torch.linspace(-1, 1, 105)[None]


def test_every_kind_of_point_gives_what_the_module_gives(model):
    states = capture(model, ["conv", "blocks.0.attention", "blocks.1", "blocks.1.mlp", "blocks.1.mlp:input"])(SOUND)
    with torch.inference_mode():
        conv = model.conv(SOUND[:, None])
        first = conv.transpose(1, 2)
        attended = model.blocks[0].attention(first, first, first)[0]
        second = model.blocks[1](model.blocks[0](first))
    torch.testing.assert_close(states["conv"], conv)
    torch.testing.assert_close(states["blocks.0.attention"], attended)
    torch.testing.assert_close(states["blocks.1"], second)
    torch.testing.assert_close(states["blocks.1.mlp:input"] + states["blocks.1.mlp"], second)


def test_a_call_stops_behind_the_last_point_whatever_the_order_of_names(model):
    capture(model, ["blocks.1", "conv"])(SOUND)
    assert [block.passes for block in model.blocks] == [1, 1, 0]


def test_reading_along_lets_the_model_finish_and_leaves_no_hook(model):
    with capture(model, "blocks.1.mlp") as seen:
        whole = model(SOUND)["state"]
    assert seen.states["blocks.1.mlp"].shape == (1, 20, 8)
    assert whole.requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_error_of_the_model_leaves_no_hook_and_comes_out(model):
    with pytest.raises(RuntimeError, match="input"):
        capture(model, "blocks.1")(torch.ones(2, 2, 2, 2))
    assert not any(module._forward_hooks for module in model.modules())


def test_rows_can_be_trained_on(model):
    sounds = [torch.randn(2, 105, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    rows = capture(model, ["blocks.1.mlp", "conv"]).rows(sounds)
    assert rows["blocks.1.mlp"].shape == rows["conv"].shape == (8 * 2 * 20, 8)
    with torch.inference_mode():
        np.testing.assert_allclose(rows["conv"][20], model.conv(sounds[0][1:2, None])[0, :, 0].numpy(), atol=1e-6)
    train, valid = otoscope.ArrayRows(rows["blocks.1.mlp"][:240]), otoscope.ArrayRows(rows["blocks.1.mlp"][240:])
    assert otoscope.fit(train, valid, "default", latents=16, sparsity=0.75).sae.width == 8


@pytest.mark.parametrize(
    ("given", "meant"), [("blocks.1.mpl", "blocks.1.mlp"), ("block.2", "blocks.2"), ("cnv", "conv")]
)
def test_a_wrong_point_is_met_with_the_nearest(model, given, meant):
    with pytest.raises(UnknownLayer, match=f"no sub-module '{given}' among its .*did you mean .*{meant}"):
        capture(model, [given])


def test_points_that_give_nothing_are_refused(model):
    with pytest.raises(EncoderError, match="did not run unused; choose points"):
        capture(model, ["conv", "unused"])(SOUND)
    with pytest.raises(EncoderError, match="no point to capture"):
        capture(model, [])
    with pytest.raises(EncoderError, match="gives NoneType and no tensor"):
        capture(nn.Sequential(Nothing()), ["0"])(SOUND)


class Nothing(nn.Module):
    def forward(self, _: Tensor) -> None:
        return None


@pytest.mark.parametrize("point", ["0", "1", "1.0"])
def test_capture_refuses_points_in_compiled_code(point: str):
    inner = nn.Sequential(nn.Linear(2, 3), nn.ReLU()).eval()
    for compiled in (torch.jit.script(inner), torch.jit.trace(inner, torch.ones(4, 2))):
        model = nn.Sequential(nn.Linear(2, 2), compiled)
        if point == "0":
            assert capture(model, [point])(torch.ones(4, 2))["0"].shape == (4, 2)
        else:
            with pytest.raises(EncoderError, match=r"is compiled \(TorchScript\)"):
                capture(model, [point])
