"""Products in bfloat16: layers that take the place of a loaded model's own when it may be fast.

Only the operands of a product are rounded (to 8 bits, unit roundoff 2^-9); oneDNN and cuBLAS sum them in float32.
Whatever lies between the products (norms, the residual stream, positions) stays as it was.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

HALF = torch.bfloat16

Product = Callable[[Float[Tensor, "rows inputs"]], Float[Tensor, "rows outputs"]]


def half_product(weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> Product:
    """Return `x -> x W^T + b` on bfloat16 rows, with the weight laid out once in the order that the kernel reads.

    oneDNN packs a weight in blocks on a CPU whose instructions include bfloat16, which was worth a tenth on Zen 4 and
    more for few rows; elsewhere PyTorch's own product serves.
    """
    rounded = weight.detach().to(HALF).contiguous()
    shift = None if bias is None else bias.detach().to(HALF)
    ops: Any = torch.ops.mkldnn
    if weight.device.type == "cpu" and packs():
        packed = ops._reorder_linear_weight(rounded, None)
        return lambda rows: ops._linear_pointwise(rows, packed, shift, "none", [], "")
    return lambda rows: nn.functional.linear(rows, rounded, shift)


def packs() -> bool:
    """Whether this build of PyTorch and this processor pack bfloat16 weights."""
    ops: Any = torch.ops.mkldnn
    return bool(
        torch.backends.mkldnn.is_available()
        and hasattr(ops, "_reorder_linear_weight")
        and ops._is_mkldnn_bf16_supported()
    )


class HalfLinear(nn.Module):
    """A linear layer whose product is in bfloat16; what comes out has the precision of what went in."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self._product = half_product(plain.weight, plain.bias)

    def forward(self, hidden_states: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """Return `x W^T + b`."""
        rows = hidden_states.to(HALF).reshape(-1, self.in_features)
        return self._product(rows).view(*hidden_states.shape[:-1], self.out_features).to(hidden_states.dtype)


class HalfConv1d(nn.Module):
    """A convolution in bfloat16; what comes out has the precision of what went in, or `out` where that is set."""

    def __init__(self, plain: nn.Conv1d) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = plain.kernel_size, plain.stride, plain.padding
        self.dilation, self.groups = plain.dilation, plain.groups
        self.out: torch.dtype | None = None
        self.register_buffer("weight", plain.weight.detach().to(HALF), persistent=False)
        self.register_buffer("bias", None if plain.bias is None else plain.bias.detach().to(HALF), persistent=False)

    def forward(self, sound: Float[Tensor, "clips inputs steps"]) -> Float[Tensor, "clips outputs steps_out"]:
        """Return the convolution of what came in, rounded."""
        weight: Any = self.weight
        bias: Any = self.bias
        padding: Any = self.padding
        state = nn.functional.conv1d(sound.to(HALF), weight, bias, self.stride, padding, self.dilation, self.groups)
        return state.to(self.out or sound.dtype)


class HalfGroupedConv1d(nn.Module):
    """A grouped convolution of stride 1 as one product a group: two thirds of what oneDNN takes for a positional one.

    The windows of a group, `[frames, taps * channels]`, are views of one padded copy of its rows `[frames, channels]`.
    What comes out has the precision of what went in.
    """

    def __init__(self, plain: nn.Conv1d) -> None:
        super().__init__()
        groups, taps = plain.groups, plain.kernel_size[0]
        outputs, channels = plain.weight.shape[0] // groups, plain.weight.shape[1]
        self.groups, self.taps, self.channels = groups, taps, channels
        self.pad = int(plain.padding[0])
        # [groups * outputs, channels, taps] -> a matrix [outputs, taps * channels] a group
        by_group = plain.weight.detach().view(groups, outputs, channels, taps).transpose(2, 3).flatten(2)
        shifts = [None] * groups if plain.bias is None else plain.bias.detach().view(groups, outputs)
        self._products = [half_product(matrix, shift) for matrix, shift in zip(by_group, shifts, strict=True)]

    def forward(self, hidden_states: Float[Tensor, "clips inputs frames"]) -> Float[Tensor, "clips outputs frames_out"]:
        """Return the convolution, group by group."""
        clips, _, frames = hidden_states.shape
        padded = nn.functional.pad(hidden_states.to(HALF), (self.pad, self.pad))
        rows = padded.view(clips, self.groups, self.channels, -1).permute(1, 0, 3, 2).contiguous()
        windows = (
            rows.unfold(2, self.taps, 1).transpose(3, 4).flatten(3)
        )  # [groups, clips, frames out, taps * channels]
        out = [product(part.reshape(-1, part.shape[-1])) for product, part in zip(self._products, windows, strict=True)]
        count = frames + 2 * self.pad - self.taps + 1
        whole = torch.stack(out).view(self.groups, clips, count, -1).permute(1, 0, 3, 2)
        return whole.reshape(clips, -1, count).to(hidden_states.dtype)
