"""Any PyTorch module as an `Encoder`: its layers are hook points, its frame geometry is given by the caller."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from otoscope.encoders.base import Layer
from otoscope.encoders.batched import BatchedEncoder, Runtime, States
from otoscope.encoders.hooks import Capture, capture
from otoscope.errors import EncoderError
from otoscope.hardware import find_device

Preprocess = Callable[[Float[Tensor, "clips samples"]], Any]
"""Converts clips of one length to the model's input: a tensor, a tuple of arguments, or a mapping of keywords."""


def identity(waves: Float[Tensor, "clips samples"]) -> Float[Tensor, "clips samples"]:
    """Return the waves unchanged."""
    return waves


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class WrappedEncoder(BatchedEncoder):
    """A user's module as an `Encoder`; layer i is the state at `points[i]`, with one frame per `hop_samples`.

    `extractor` is the caller's `preprocess`. Clips of equal length share a pass.
    """

    points: tuple[str, ...]
    hop_samples: int
    field_samples: int

    def count_frames(self, samples: int) -> int:
        """Count the complete receptive fields in a clip."""
        return max((samples - self.field_samples) // self.hop_samples + 1, 0)

    def side_by_side(self) -> "WrappedEncoder":
        """Return this encoder: an unknown module may not be copied or run in several threads."""
        return self

    def state_positions(self, samples: int) -> Int[np.ndarray, " frames"]:
        """Raise `EncoderError`: the points of a wrapped module may be anything."""
        del samples
        raise EncoderError(f"{self.name} is a wrapped module; states are replaced in models of load_encoder only")

    def forward(self, waves: list[NDArray[Any]], layers: Sequence[int]) -> States:
        """Run the module on the preprocessed clips; raise `EncoderError` if a state has an unexpected shape."""
        clips = torch.stack([torch.from_numpy(wave) for wave in waves]).to(self.runtime.device)
        captured = capture(self.model, [self.points[layer] for layer in layers])
        states = _call(captured, self.extractor(clips))
        return States({layer: self._checked(captured, layer, states, clips) for layer in layers})

    def _checked(
        self, captured: Capture, layer: int, states: Mapping[str, Tensor], clips: Float[Tensor, "clips samples"]
    ) -> Float[Tensor, "clips frames width"]:
        point = self.points[layer]
        state = captured.by_frame(point, states[point])
        expected = (clips.shape[0], self.count_frames(clips.shape[1]), self.layers[layer].width)
        if tuple(state.shape) != expected:
            raise EncoderError(
                f"{self.name}: {point} gives {tuple(state.shape)} for {clips.shape[1]} samples, expected "
                f"[clips, frames, width] = {expected} with a frame every {self.hop_samples} samples, the first over "
                f"{self.field_samples}; correct hop_samples and field_samples, or choose another point"
            )
        return state


def wrap_encoder(
    model: nn.Module,
    points: Sequence[str],
    *,
    name: str,
    rate_hz: int,
    hop_samples: int,
    field_samples: int,
    preprocess: Preprocess = identity,
    window_s: float | None = None,
    attends: bool = True,
    device: str = "cpu",
    threads: int | None = None,
) -> WrappedEncoder:
    """Wrap any module as an `Encoder`, for `otoscope.extract` and everything after it.

    Args:
        model: the module; it is put into eval mode and frozen.
        points: sub-modules to record as layers 0, 1, ...; names as in `capture`.
        name: name in results.
        rate_hz: sample rate of its input.
        hop_samples: samples from one frame to the next.
        field_samples: samples covered by one frame; the first frame is centred on the first of these.
        preprocess: converts sound `[clips, samples]` to the model's input.
        window_s: longest clip per call; None if there is no limit.
        attends: true if frames see the rest of the clip beyond `field_samples`.
        device: device of the forward passes.
        threads: CPU threads per pass.

    Raises `UnknownLayer` for a point that does not exist, `EncoderError` if one second of noise does not give
    `[clips, frames, width]` with this geometry.
    """
    device = str(find_device(device))
    runtime = Runtime(device=device, threads=threads)
    model = model.to(device).eval().requires_grad_(False)
    captured = capture(model, points)
    generator = torch.Generator().manual_seed(0)
    samples = max(min(rate_hz, round(window_s * rate_hz) if window_s else rate_hz), field_samples)
    noise = 0.1 * torch.randn(1, samples, generator=generator)
    with runtime.inference():
        states = _call(captured, preprocess(noise.to(device)))
    layers = tuple(
        Layer(
            index=i,
            width=captured.by_frame(point, states[point]).shape[-1],
            rate_hz=rate_hz / hop_samples,
            receptive_field_s=field_samples / rate_hz,
            offset_s=field_samples / 2 / rate_hz,
            attends=attends,
        )
        for i, point in enumerate(captured.points)
    )
    encoder = WrappedEncoder(
        name=name,
        revision=module_digest(model),
        rate_hz=rate_hz,
        layers=layers,
        window_s=window_s,
        min_samples=field_samples,
        runtime=runtime,
        model=model,
        extractor=preprocess,
        points=captured.points,
        hop_samples=hop_samples,
        field_samples=field_samples,
    )
    encoder.encode([noise[0]], [layer.index for layer in layers])
    return encoder


def module_digest(model: nn.Module) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a module's parameter names and values."""
    sha256 = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        sha256.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)  # a scalar has no bytes to view
        sha256.update(bytes(flat.view(torch.uint8).numpy()))
    return sha256.hexdigest()[:16]


def _call(captured: Capture, inputs: Any) -> dict[str, Tensor]:
    if isinstance(inputs, Mapping):
        return captured(**{str(key): value for key, value in inputs.items()})
    return captured(*inputs) if isinstance(inputs, tuple) else captured(inputs)
