"""Any PyTorch module as an `Encoder`: you say how sound goes in and how its frames lie, layers are hook points."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from otoscope.encoders.base import Encoded, Frames, Layer, Wave, as_waves, check_layers, frame_spans
from otoscope.encoders.batching import Part, Runtime, encode_in_buckets
from otoscope.encoders.hooks import Capture, capture
from otoscope.errors import EncoderError

Preprocess = Callable[[Float[Tensor, "clips samples"]], Any]
"""Turns clips of one length into what the model takes: a tensor, a tuple of arguments, or a mapping of keywords."""


def identity(waves: Float[Tensor, "clips samples"]) -> Float[Tensor, "clips samples"]:
    """Hand sound to the model as it is."""
    return waves


@dataclass(frozen=True, eq=False)
class WrappedEncoder:
    """A module of yours as an `Encoder`: layer i is `points[i]`, and frames lie `hop_samples` apart."""

    name: str
    revision: str
    rate_hz: int
    layers: tuple[Layer, ...]
    points: tuple[str, ...]
    hop_samples: int
    field_samples: int
    window_s: float | None
    runtime: Runtime
    model: nn.Module = field(repr=False)
    preprocess: Preprocess = field(repr=False)

    @property
    def min_samples(self) -> int:
        """The samples under one frame."""
        return self.field_samples

    def frames(self, samples: int) -> Frames:
        """Place a clip's frames, the first centred on its receptive field."""
        layer = self.layers[0]
        return frame_spans(self._count(samples), rate_hz=layer.rate_hz, offset_s=layer.offset_s)

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Run clips of any lengths, those of one length together; see `Encoder.encode`."""
        check_layers(layers, self.layers, self.name)
        waves = as_waves(
            waves, name=self.name, rate_hz=self.rate_hz, min_samples=self.min_samples, window_s=self.window_s
        )
        read = capture(self.model, [self.points[layer] for layer in layers])

        def run(arrays: list[Any]) -> Part:
            sound = torch.stack([torch.from_numpy(array) for array in arrays]).to(self.runtime.device)
            states = _call(read, self.preprocess(sound))
            return Part({layer: self._checked(read, layer, states, sound) for layer in layers}, {})

        return encode_in_buckets(
            waves, layers, runtime=self.runtime, bucket=lambda samples: samples, frames=self._count, run=run
        )

    def _count(self, samples: int) -> int:
        return max((samples - self.field_samples) // self.hop_samples + 1, 0)

    def _checked(
        self, read: Capture, layer: int, states: Mapping[str, Tensor], sound: Float[Tensor, "clips samples"]
    ) -> Float[Tensor, "clips frames width"]:
        point = self.points[layer]
        state = read.by_frame(point, states[point])
        wanted = (sound.shape[0], self._count(sound.shape[1]), self.layers[layer].width)
        if tuple(state.shape) != wanted:
            raise EncoderError(
                f"{self.name}: {point} gives {tuple(state.shape)} for {sound.shape[1]} samples, expected "
                f"[clips, frames, width] = {wanted} with a frame every {self.hop_samples} samples, the first over "
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
    """Wrap any module as an `Encoder`, so that `otoscope.extract` and all that follows run on it.

    Args:
        model: the module; it is put into eval mode and frozen.
        points: what to record, in the order of layers 0, 1, ...: names as `capture` takes them.
        name: what results call it.
        rate_hz: sample rate of the sound it takes.
        hop_samples: samples from one frame to the next.
        field_samples: samples under one frame; the first is centred on the first of these.
        preprocess: turns sound `[clips, samples]` into the model's input.
        window_s: longest sound of one call; None where there is no bound.
        attends: whether frames see the rest of the clip beyond `field_samples`.
        device: where it runs.
        threads: CPU threads of a pass.

    Raises `UnknownLayer` for a point that is not there, `EncoderError` where the first second of noise does not give
    `[clips, frames, width]` as said.
    """
    runtime = Runtime(device=device, threads=threads)
    model = model.to(device).eval().requires_grad_(False)
    read = capture(model, points)
    draw = torch.Generator().manual_seed(0)
    samples = max(min(rate_hz, round(window_s * rate_hz) if window_s else rate_hz), field_samples)
    probe = 0.1 * torch.randn(1, samples, generator=draw)
    with runtime.exact():
        states = _call(read, preprocess(probe.to(device)))
    layers = tuple(
        Layer(
            index=i,
            width=read.by_frame(point, states[point]).shape[-1],
            rate_hz=rate_hz / hop_samples,
            receptive_field_s=field_samples / rate_hz,
            offset_s=field_samples / 2 / rate_hz,
            attends=attends,
        )
        for i, point in enumerate(read.points)
    )
    encoder = WrappedEncoder(
        name=name,
        revision=weights_of(model),
        rate_hz=rate_hz,
        layers=layers,
        points=read.points,
        hop_samples=hop_samples,
        field_samples=field_samples,
        window_s=window_s,
        runtime=runtime,
        model=model,
        preprocess=preprocess,
    )
    encoder.encode([probe[0]], [layer.index for layer in layers])
    return encoder


def weights_of(model: nn.Module) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a module's names and values: its revision."""
    found = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        found.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()[:16]


def _call(read: Capture, given: Any) -> dict[str, Tensor]:
    if isinstance(given, Mapping):
        return read(**{str(key): value for key, value in given.items()})
    return read(*given) if isinstance(given, tuple) else read(given)
