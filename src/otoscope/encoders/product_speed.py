"""Linear layers in the form that is fastest on this machine: PyTorch's own, or with weights packed in blocks.

oneDNN packs a weight in the order in which its kernel reads it; the sums agree with PyTorch's to rounding. Which form
is faster depends on the processor and on the build of PyTorch, so it is measured. The choice between two float32 forms
changes the last bits of a product, and the same machine must give the same bytes: it is kept in otoscope's cache.

Processor time of a pass over all layers, packed / plain, one thread: HuBERT base 0.81 (clips of 1.5 and 5 s), WavLM
base 0.88 and 0.94, Whisper tiny 0.87 and 0.94 with AVX-512 (Zen 4); HuBERT 0.91 and 0.95, Whisper 0.95 and 0.97 with
the same processor limited to AVX2.
"""

import math
import platform
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from jaxtyping import Float
from llvmlite.binding import get_host_cpu_name
from torch import Tensor, nn

from otoscope.artifacts import read_json, write_json
from otoscope.errors import ArtifactError, OtoscopeError
from otoscope.hardware import one_thread
from otoscope.paths import cache_folder

PROBE = (256, 768, 3072)
"""Rows, inputs and outputs of the product that is timed: five seconds of sound in a block of base size."""

ROUNDS = 9
"""Interleaved rounds of a measurement; the fastest counts. A round takes about 30 ms per form on one core."""

MARGIN = 1.05
"""Least speed-up at which packed weights replace PyTorch's own product, above the noise of a measurement."""

BF16_MARGIN = 1.25
"""Least speed-up at which a product in bfloat16 is worth its rounding; emulated ones are slower than float32."""


class PackedLinear(nn.Module):
    """A linear layer for inference with its product in `dtype`; the output has the dtype of the input.

    With `packed`, only the packed weight is kept. A pass that records gradients unpacks it, since packed products have
    no backward pass.
    """

    def __init__(self, plain: nn.Linear, *, dtype: torch.dtype, packed: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.dtype, self.packed = dtype, packed
        weight = plain.weight.detach().to(dtype).contiguous()
        ops: Any = torch.ops.mkldnn
        self._blocks: Tensor = ops._reorder_linear_weight(weight, None) if packed else weight
        bias: Any = plain.bias  # PyTorch's stub omits None
        self._bias: Tensor | None = None if bias is None else bias.detach().to(dtype)

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The weight in `dtype`, unpacked."""
        return self._blocks.to_dense() if self.packed else self._blocks

    def forward(self, hidden_states: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """Return `x W^T + b`."""
        rows = hidden_states.to(self.dtype)
        if not self.packed or torch.is_grad_enabled():
            return nn.functional.linear(rows, self.weight, self._bias).to(hidden_states.dtype)
        ops: Any = torch.ops.mkldnn
        product = ops._linear_pointwise(rows.reshape(-1, self.in_features), self._blocks, self._bias, "none", [], "")
        return product.view(*hidden_states.shape[:-1], self.out_features).to(hidden_states.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the plain weight: packed tensors allow neither."""
        return _rebuild, (self.weight.clone(), self._bias, self.dtype, self.packed, self.training)


def linear_layer(weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> nn.Linear:
    """Return a frozen linear layer with this weight and bias.

    >>> linear_layer(torch.ones(1, 2), None)(torch.ones(3, 2)).shape
    torch.Size([3, 1])
    """
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def _rebuild(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, packed: bool, training: bool) -> PackedLinear:
    return PackedLinear(linear_layer(weight, bias), dtype=dtype, packed=packed).train(training)


@cache
def packing_is_faster() -> bool:
    """Return true if this machine multiplies faster in float32 with packed weights; measured once per machine.

    The outcome is kept in `products.json` in otoscope's cache. Where that cannot be written, the plain form is used:
    a choice that may differ in the next process would change the bytes of a resumed extraction.
    """
    if not packs(torch.float32):
        return False
    key = f"{get_host_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    try:
        path = cache_folder() / "products.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            kept = _read_choices(path)
            if key not in kept:
                plain = _probe_layer("cpu")
                packed = PackedLinear(plain, dtype=torch.float32, packed=True)
                plain_s, packed_s = _time_layers(plain, packed, device="cpu")
                kept[key] = plain_s > MARGIN * packed_s
                write_json(path, kept)
            return kept[key]
    except (OtoscopeError, OSError):
        return False


@cache
def bf16_is_faster(device: str) -> bool:
    """Return true if a product in bfloat16, conversions included, beats float32 on this device by `BF16_MARGIN`.

    Processors without instructions for bfloat16 emulate it, most of them more slowly than float32. Where the
    instructions exist, the product is about twice as fast, so noise does not change the outcome.
    """
    if device == "cpu" and not packs(torch.bfloat16):
        return False
    plain = _probe_layer(device)
    rounded = PackedLinear(plain, dtype=torch.bfloat16, packed=device == "cpu")
    exact = PackedLinear(plain, dtype=torch.float32, packed=device == "cpu" and packing_is_faster())
    exact_s, rounded_s = _time_layers(exact, rounded, device=device)
    return exact_s > BF16_MARGIN * rounded_s


def packs(dtype: torch.dtype) -> bool:
    """Return true if PyTorch packs weights of this dtype on this processor; float32 only where it was measured: x86."""
    ops: Any = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and hasattr(ops, "_reorder_linear_weight")):
        return False
    if dtype == torch.bfloat16:
        return bool(ops._is_mkldnn_bf16_supported())
    return platform.machine().lower() in ("x86_64", "amd64")


def _read_choices(path: Path) -> dict[str, bool]:
    try:
        kept = read_json(path)
    except ArtifactError:  # absent or damaged: measured again
        return {}
    return {key: choice for key, choice in kept.items() if isinstance(choice, bool)} if isinstance(kept, dict) else {}


def _probe_layer(device: str) -> nn.Linear:
    _, inputs, outputs = PROBE
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    return linear_layer(weight.to(device), torch.zeros(outputs, device=device))


def _time_layers(*layers: nn.Module, device: str) -> list[float]:
    """Return the shortest of `ROUNDS` interleaved passes of each layer in seconds, on one thread."""
    rows = torch.randn(*PROBE[:2], generator=torch.Generator().manual_seed(1)).to(device)
    seconds = [math.inf] * len(layers)
    with torch.inference_mode(), one_thread():
        for turn in range(ROUNDS + 1):
            for i, layer in enumerate(layers):
                start_s = time.perf_counter()
                layer(rows).sum().item()  # waits for a GPU
                if turn:  # the first pass compiles the kernel
                    seconds[i] = min(seconds[i], time.perf_counter() - start_s)
    return seconds
