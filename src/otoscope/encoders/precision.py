"""How exactly a loaded model computes: float32 as transformers does, or as fast as this processor can."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from otoscope.encoders.attention import HALF_ATTENTION, BiasedAttention, register
from otoscope.encoders.half import HALF, HalfConv1d, HalfGroupedConv1d, HalfLinear, packs

Precision = Literal["exact", "fast"]

SMALLEST = 16
"""Products over fewer inputs or outputs than this are not worth rounding: they cost nothing (WavLM's gate)."""

SMALLEST_GROUP = 4
"""Channels of a group from which on a grouped convolution is a product worth its copy (a depthwise one is not)."""

NOT_ROUNDED = ("encodec",)
"""Families whose fast mode is exact: behind EnCodec's dozen convolutions without a norm between them what all frames
share outweighs what tells them apart, and rounding goes by the sum; a probe fell by 19 points at a cosine above 0.999.
"""


def prepare(model: Any, *, precision: Precision, device: str) -> Any:
    """Move a model in eval mode to its device and, if it may be fast, replace what is faster in bfloat16; in place.

    Weight-normalised convolutions get their weight computed once instead of at every pass, and WavLM's attention is
    replaced in either precision: both give the same numbers to float32's rounding.
    """
    model = model.to(device)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    fast = precision == "fast" and rounds_faster(device) and model.config.model_type not in NOT_ROUNDED
    _replace(
        model, lambda child: BiasedAttention(child, rounded=fast) if type(child).__name__ == "WavLMAttention" else None
    )
    if fast:
        if getattr(model.config, "_attn_implementation", None) == "sdpa":
            register()
            model.set_attn_implementation(HALF_ATTENTION)
        _replace(model, _half)
        _chain(model)
    return model.eval().requires_grad_(False)


def rounds_faster(device: str) -> bool:
    """Whether bfloat16 products are faster than float32 here: a GPU, or a CPU with instructions for them."""
    return device != "cpu" or packs()


def _replace(module: nn.Module, other: Callable[[nn.Module], nn.Module | None]) -> None:
    for name, child in list(module.named_children()):
        replacement = other(child)
        if replacement is None:
            _replace(child, other)
        else:
            setattr(module, name, replacement)


def _chain(model: nn.Module) -> None:
    """Let the convolutions in front of the blocks hand bfloat16 to each other, and float32 to what follows them."""
    convs = {name: child for name, child in model.named_modules() if isinstance(child, HalfConv1d)}
    stack = [conv for name, conv in convs.items() if name.startswith(("feature_extractor.", "conv1", "conv2"))]
    for conv in stack:
        conv.out = HALF
    for conv in stack[-1:]:
        conv.out = torch.float32


def _half(child: nn.Module) -> nn.Module | None:
    if isinstance(child, nn.Linear) and min(child.in_features, child.out_features) >= SMALLEST:
        return HalfLinear(child)
    if isinstance(child, nn.Conv1d) and child.in_channels > 1:
        alone = child.stride == child.dilation == (1,) and not isinstance(child.padding, str)
        positional = alone and child.groups > 1 and child.in_channels >= SMALLEST_GROUP * child.groups
        return HalfGroupedConv1d(child) if positional else HalfConv1d(child)
    return None
