"""Group clips into passes that padding cannot disturb, and put their frames back in order."""

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from otoscope.encoders.base import Encoded
from otoscope.encoders.precision import Precision, prepare_model


@dataclass(frozen=True)
class Runtime:
    """Where and how the passes run.

    `threads` is the number of CPU threads (None leaves PyTorch's setting). `together` lets clips that cannot
    disturb each other share a pass: faster on an accelerator, and equal to 1e-5. Without it every clip has a
    pass of its own, and its activations are the same bytes whatever it is encoded with. `precision` says whether
    products may be rounded (see `encoders.precision`).
    """

    device: str = "cpu"
    threads: int | None = None
    together: bool = False
    precision: Precision = "exact"

    def ready(self, model: Any) -> Any:
        """Put a loaded model where it is to run, in the precision asked for."""
        return prepare_model(model, precision=self.precision, device=self.device)

    @contextmanager
    def exact(self) -> Generator[None]:
        """Run in inference mode, float32 unrounded, convolutions deterministic, with the asked number of threads."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            # cuDNN would otherwise round the operands of a convolution to TF32
            with (
                torch.inference_mode(),
                torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
            ):
                yield
        finally:
            torch.set_num_threads(before)


class Part(NamedTuple):
    """What one pass gave for the clips of one bucket."""

    layers: Mapping[int, Float[Tensor, "clips frames width"]]
    tokens: Mapping[int, Float[Tensor, "clips tokens width"]]


def encode_in_buckets(
    waves: Sequence[Float[Tensor, " _samples"]],
    layers: Sequence[int],
    *,
    runtime: Runtime,
    bucket: Callable[[int], Hashable],
    frames: Callable[[int], int],
    run: Callable[[list[NDArray[Any]]], Part],
) -> Encoded:
    """Run clips bucket by bucket and return them in their own order, padded with zeros to the longest.

    `bucket` maps a clip's samples to a key: clips of one key may go through `run` together. `frames` counts
    a clip's valid frames; whatever `run` gives beyond them is masked and zeroed.
    """
    lengths = [wave.shape[0] for wave in waves]
    counts = [frames(samples) for samples in lengths]
    buckets: dict[Hashable, list[int]] = {}
    for clip, samples in enumerate(lengths):
        buckets.setdefault(bucket(samples) if runtime.together else clip, []).append(clip)

    states: dict[int, Tensor] = {}
    tokens: dict[int, Tensor] = {}
    for members in buckets.values():
        arrays = [waves[clip].detach().to("cpu", torch.float32).numpy() for clip in members]
        with runtime.exact():
            part = run(arrays)
        # new tensors, made outside inference mode: callers may train on them
        for layer in layers:
            state = part.layers[layer]
            whole = states.setdefault(layer, torch.zeros(len(waves), max(counts), state.shape[-1]))
            for row, clip in enumerate(members):
                whole[clip, : counts[clip]] = state[row, : counts[clip]]
        for layer, state in part.tokens.items():
            tokens.setdefault(layer, torch.zeros(len(waves), *state.shape[1:]))[members] = state.cpu()
    mask = torch.arange(max(counts))[None, :] < torch.tensor(counts)[:, None]
    return Encoded(states, mask, tokens)
