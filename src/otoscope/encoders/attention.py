"""Attention as otoscope computes it: in bfloat16 where a model may be fast, and WavLM's with its biased scores."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from otoscope.encoders.half import HALF

HALF_ATTENTION = "otoscope_half"
"""The name under which transformers' models find `half_attention`."""

SCORES = 2**21
"""Scores held at once: 4 MB in bfloat16, so that they stay in the cache between the two products."""


def attend(
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
    queries = (query * scaling).to(HALF).reshape(-1, frames, size)
    keys, values = (part.to(HALF).reshape(clips * heads, -1, size) for part in (key, value))
    if bias is not None:
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape, dtype=HALF, device=bias.device).masked_fill(~bias, -torch.inf)
        bias = bias.to(HALF).expand(clips, heads, frames, -1).reshape(clips * heads, frames, -1)
    out = torch.empty_like(queries)
    step = max(1, SCORES // (frames * keys.shape[1]))
    for first in range(0, clips * heads, step):
        part = slice(first, first + step)
        scores = torch.bmm(queries[part], keys[part].transpose(1, 2))
        if bias is not None:
            scores += bias[part]
        torch.bmm(scores.softmax(-1), values[part], out=out[part])
    return out.view(clips, heads, frames, size)


def half_attention(
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
    """Serve transformers' attention interface with `attend`."""
    del module, dropout, kwargs
    if position_bias is not None:
        hidden = None if attention_mask is None else ~attention_mask
        attention_mask = position_bias if hidden is None else position_bias.masked_fill(hidden, -torch.inf)
    scale = float(query.shape[-1] ** -0.5) if scaling is None else scaling
    out = attend(query, key, value, bias=attention_mask, scaling=scale)
    return out.transpose(1, 2).contiguous().to(query.dtype), None


def register() -> None:
    """Make `half_attention` known to transformers under `HALF_ATTENTION`; masks come as for "sdpa"."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(HALF_ATTENTION, half_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(HALF_ATTENTION, sdpa_mask)


class BiasedAttention(nn.Module):
    r"""WavLM's attention (arXiv:2110.13900, 3.1) through fused kernels: transformers' own always averages the weights.

    The scores get $g_i\,b_{j-i}$: a learned bias of the distance between frames, gated by the query. Only clips of
    equal length may share a pass, so there is no padding to mask.
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
        """Return the output, no weights, and the bias before gating, which the next block takes."""
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
            gated = gate.to(HALF) * bias.to(HALF)
            mixed = attend(query, key, value, bias=gated, scaling=plain.scaling).to(hidden_states.dtype)
        else:
            mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=gate * bias)
        return plain.out_proj(mixed.transpose(1, 2).reshape(clips, frames, width)), None, bias
