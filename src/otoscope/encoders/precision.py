"""Precision of a loaded model: float32 as in transformers ("exact"), or bfloat16 products ("fast").

In fast mode, bfloat16 layers and attention replace the model's own. Only the operands of a product are rounded (to 8
bits, unit roundoff 2^-9); oneDNN and cuBLAS sum them in float32. Everything between the products (norms, the residual
stream, positions) is unchanged. WavLM's biased attention is replaced by a fused one in both modes. In both modes,
linear layers on the CPU have their weights packed in blocks if that is faster on this processor (see `product_speed`).
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from otoscope.encoders.product_speed import PackedLinear, bf16_is_faster, linear_layer, packing_is_faster, packs

BF16 = torch.bfloat16


class BF16Conv1d(nn.Module):
    """A convolution in bfloat16; the output has the dtype of the input, or `out` if set."""

    def __init__(self, plain: nn.Conv1d) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = plain.kernel_size, plain.stride, plain.padding
        self.dilation, self.groups = plain.dilation, plain.groups
        self.out: torch.dtype | None = None
        self.register_buffer("weight", plain.weight.detach().to(BF16), persistent=False)
        self.register_buffer("bias", None if plain.bias is None else plain.bias.detach().to(BF16), persistent=False)

    def forward(self, sound: Float[Tensor, "clips inputs steps"]) -> Float[Tensor, "clips outputs steps_out"]:
        """Return the convolution of the rounded input."""
        weight: Any = self.weight
        bias: Any = self.bias
        padding: Any = self.padding
        state = nn.functional.conv1d(sound.to(BF16), weight, bias, self.stride, padding, self.dilation, self.groups)
        return state.to(self.out or sound.dtype)


class BF16GroupedConv1d(nn.Module):
    """A grouped convolution of stride 1 as one product per group: two thirds of oneDNN's time for a positional one.

    The windows of a group, `[frames, taps * channels]`, are views of one padded copy of its rows `[frames, channels]`.
    The output has the dtype of the input.
    """

    def __init__(self, plain: nn.Conv1d) -> None:
        super().__init__()
        groups, taps = plain.groups, plain.kernel_size[0]
        outputs, channels = plain.weight.shape[0] // groups, plain.weight.shape[1]
        self.groups, self.taps, self.channels = groups, taps, channels
        self.pad = int(plain.padding[0])
        # [groups * outputs, channels, taps] -> one matrix [outputs, taps * channels] per group
        by_group = plain.weight.detach().view(groups, outputs, channels, taps).transpose(2, 3).flatten(2)
        shifts = [None] * groups if plain.bias is None else plain.bias.detach().view(groups, outputs)
        packed = plain.weight.device.type == "cpu" and packs(BF16)
        self.products = nn.ModuleList(
            PackedLinear(linear_layer(matrix, shift), dtype=BF16, packed=packed)
            for matrix, shift in zip(by_group, shifts, strict=True)
        )

    def forward(self, hidden_states: Float[Tensor, "clips inputs frames"]) -> Float[Tensor, "clips outputs frames_out"]:
        """Return the convolution, group by group."""
        clips, _, frames = hidden_states.shape
        padded = nn.functional.pad(hidden_states.to(BF16), (self.pad, self.pad))
        rows = padded.view(clips, self.groups, self.channels, -1).permute(1, 0, 3, 2).contiguous()
        windows = (
            rows.unfold(2, self.taps, 1).transpose(3, 4).flatten(3)
        )  # [groups, clips, frames out, taps * channels]
        out = [product(part.reshape(-1, part.shape[-1])) for product, part in zip(self.products, windows, strict=True)]
        count = frames + 2 * self.pad - self.taps + 1
        stacked = torch.stack(out).view(self.groups, clips, count, -1).permute(1, 0, 3, 2)
        return stacked.reshape(clips, -1, count).to(hidden_states.dtype)


BF16_ATTENTION = "otoscope_half"
"""Name of `bf16_attention` in transformers' registry."""

MAX_SCORES = 2**21
"""Attention scores computed at a time: 4 MB in bfloat16, which stay in the cache between the two products."""


def fused_attention(
    query: Float[Tensor, "clips heads frames size"],
    key: Float[Tensor, "clips heads keys size"],
    value: Float[Tensor, "clips heads keys size"],
    *,
    bias: Float[Tensor, "#clips #heads #frames keys"] | Bool[Tensor, "#clips #heads #frames keys"] | None,
    scaling: float,
) -> Float[Tensor, "clips heads frames size"]:
    r"""Return $\mathrm{softmax}(s\,QK^\top + B)\,V$ with both products in bfloat16, a few heads at a time.

    A boolean `bias` says what may be attended to. On Zen 4 this took two thirds of the time of PyTorch's fused
    bfloat16 kernel, and of its float32 one, at 1,214 patches.
    """
    clips, heads, frames, size = query.shape
    queries = (query * scaling).to(BF16).reshape(-1, frames, size)
    keys, values = (part.to(BF16).reshape(clips * heads, -1, size) for part in (key, value))
    if bias is not None:
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape, dtype=BF16, device=bias.device).masked_fill(~bias, -torch.inf)
        bias = bias.to(BF16).expand(clips, heads, frames, -1).reshape(clips * heads, frames, -1)
    out = torch.empty_like(queries)
    step = max(1, MAX_SCORES // (frames * keys.shape[1]))
    for first in range(0, clips * heads, step):
        part = slice(first, first + step)
        scores = torch.bmm(queries[part], keys[part].transpose(1, 2))
        if bias is not None:
            scores += bias[part]
        torch.bmm(scores.softmax(-1), values[part], out=out[part])
    return out.view(clips, heads, frames, size)


def bf16_attention(
    module: nn.Module,
    query: Float[Tensor, "clips heads frames size"],
    key: Float[Tensor, "clips heads keys size"],
    value: Float[Tensor, "clips heads keys size"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "clips frames heads size"], None]:
    """Compute attention with `fused_attention`; the signature is transformers' attention interface."""
    del module, dropout, kwargs
    if position_bias is not None:
        hidden = None if attention_mask is None else ~attention_mask
        attention_mask = position_bias if hidden is None else position_bias.masked_fill(hidden, -torch.inf)
    scale = float(query.shape[-1] ** -0.5) if scaling is None else scaling
    out = fused_attention(query, key, value, bias=attention_mask, scaling=scale)
    return out.transpose(1, 2).contiguous().to(query.dtype), None


def register_attention() -> None:
    """Register `bf16_attention` in transformers under `BF16_ATTENTION`, with masks as for "sdpa"."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(BF16_ATTENTION, bf16_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(BF16_ATTENTION, sdpa_mask)


class BiasedAttention(nn.Module):
    r"""WavLM's attention (arXiv:2110.13900, 3.1) through fused kernels; transformers also averages the weights.

    The scores get $g_i\,b_{j-i}$: a learned bias for the distance between frames, gated by the query. Only clips of
    equal length share a pass, so no padding needs a mask.
    """

    def __init__(self, plain: Any, *, rounded: bool) -> None:
        super().__init__()
        self.plain, self.rounded = plain, rounded

    def forward(
        self,
        hidden_states: Float[Tensor, "clips frames width"],
        position_bias: Float[Tensor, "heads frames frames"] | None = None,
        **_: Any,
    ) -> tuple[Float[Tensor, "clips frames width"], None, Float[Tensor, "heads frames frames"]]:
        """Return the output, no weights, and the bias before gating, which the next block reads."""
        plain = self.plain
        clips, frames, width = hidden_states.shape
        bias: Tensor = plain.compute_bias(frames, frames) if position_bias is None else position_bias
        split = hidden_states.view(clips, frames, plain.num_heads, -1).transpose(1, 2)
        gates = plain.gru_rel_pos_linear(split).view(*split.shape[:-1], 2, 4).sum(-1).sigmoid()
        gate = gates[..., :1] * (gates[..., 1:] * plain.gru_rel_pos_const - 1.0) + 2.0
        query, key, value = (
            project(hidden_states).view(clips, frames, plain.num_heads, -1).transpose(1, 2)
            for project in (plain.q_proj, plain.k_proj, plain.v_proj)
        )
        if self.rounded:
            gated = gate.to(BF16) * bias.to(BF16)
            mixed = fused_attention(query, key, value, bias=gated, scaling=plain.scaling).to(hidden_states.dtype)
        else:
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=gate * bias)
        return plain.out_proj(mixed.transpose(1, 2).reshape(clips, frames, width)), None, bias


Precision = Literal["exact", "fast"]

MIN_FEATURES = 16
"""Smallest number of inputs and outputs of a rounded product; smaller ones cost nothing (WavLM's gate).

For convolutions this is also a matter of correctness: on CPUs with AMX, oneDNN's bfloat16 convolution (PyTorch 2.13.0)
returns wrong sums (relative error 1) for 2, 4, ... 14 input channels per group and kernels of 8 to 128 taps. From 16
channels on none of 3,612 shapes differed by more than rounding.
"""

MIN_GROUP_CHANNELS = 4
"""Fewest channels per group for which a grouped convolution is faster as a product (a depthwise one is not)."""

EXACT_ONLY_FAMILIES = ("encodec",)
"""Families whose fast mode is exact. EnCodec has a dozen convolutions without a norm: the component shared by all
frames dominates their differences, and rounding is relative to the sum; a probe lost 19 points at a cosine above 0.999.
"""


def available_precision(requested: Precision, *, family: str, device: str) -> Precision:
    """Return "fast" if it was requested, the family permits it, and bfloat16 is faster on this device; else "exact"."""
    if requested == "exact" or family in EXACT_ONLY_FAMILIES:
        return "exact"
    return "fast" if bf16_is_faster(device) else "exact"


def prepare_model(model: Any, *, precision: Precision, device: str) -> Any:
    """Move a model in eval mode to its device and, in fast mode, replace modules that are faster in bfloat16; in place.

    In both modes, weight-normalised convolutions compute their weight once instead of per pass, and WavLM's attention
    is replaced; both give the same numbers up to float32 rounding.
    """
    model = model.to(device)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    fast = precision == "fast"
    _replace(
        model, lambda child: BiasedAttention(child, rounded=fast) if type(child).__name__ == "WavLMAttention" else None
    )
    on_cpu = torch.device(device).type == "cpu"
    if fast:
        if getattr(model.config, "_attn_implementation", None) == "sdpa":
            register_attention()
            model.set_attn_implementation(BF16_ATTENTION)
        packed = on_cpu and packs(BF16)
        _replace(model, lambda child: _bf16_module(child, packed=packed))
        _keep_bf16(model)
    elif on_cpu and packing_is_faster():
        _replace(model, _packed_linear)
    return model.eval().requires_grad_(False)


def _replace(module: nn.Module, build: Callable[[nn.Module], nn.Module | None]) -> None:
    for name, child in list(module.named_children()):
        replacement = build(child)
        if replacement is None:
            _replace(child, build)
        else:
            setattr(module, name, replacement)


def _keep_bf16(model: nn.Module) -> None:
    """Keep bfloat16 between the convolutions before the blocks, and return float32 from the last of them."""
    convs = {name: child for name, child in model.named_modules() if isinstance(child, BF16Conv1d)}
    stack = [conv for name, conv in convs.items() if name.startswith(("feature_extractor.", "conv1", "conv2"))]
    for conv in stack:
        conv.out = BF16
    for conv in stack[-1:]:
        conv.out = torch.float32


def _packed_linear(child: nn.Module) -> nn.Module | None:
    return PackedLinear(child, dtype=torch.float32, packed=True) if type(child) is nn.Linear else None


def _bf16_module(child: nn.Module, *, packed: bool) -> nn.Module | None:
    if isinstance(child, nn.Linear) and min(child.in_features, child.out_features) >= MIN_FEATURES:
        return PackedLinear(child, dtype=BF16, packed=packed)
    if isinstance(child, nn.Conv1d):
        inputs = child.in_channels // child.groups
        as_products = child.groups > 1 and child.stride == child.dilation == (1,) and not isinstance(child.padding, str)
        if as_products and inputs >= MIN_GROUP_CHANNELS:
            return BF16GroupedConv1d(child)
        return BF16Conv1d(child) if inputs >= MIN_FEATURES else None
    return None
