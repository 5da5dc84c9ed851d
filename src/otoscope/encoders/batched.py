"""Base class of all encoders that run a PyTorch model: clips of any lengths in passes, several at a time on a CPU."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cached_property
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from otoscope.encoders.base import Encoded, Encoder, Frames, Layer, Wave, as_waves, check_layers, frame_spans
from otoscope.encoders.precision import Precision, prepare_model
from otoscope.encoders.product_speed import PackedLinear
from otoscope.errors import EncoderError, OtoscopeError
from otoscope.formatting import one_line
from otoscope.hardware import limit_threads

ContextMode = Literal["exact", "short"]
"""Sound that Whisper encodes per clip: its 30 s window ("exact"), or only the clip ("short")."""

MAX_PASSES = 4
"""Most passes at a time: each holds its intermediate values, up to half a gigabyte for 30 s at base size."""


@dataclass(frozen=True)
class Runtime:
    """Device, threads and precision of the forward passes.

    `threads` is the number of CPU threads (None keeps PyTorch's setting). Clips that cannot disturb each other share a
    pass of at most `shared_s` seconds of sound, and agree with their own passes to 1e-5. With 0, every clip has its own
    pass, and its activations are the same bytes in any batch. `precision` is what runs, after "fast" has been
    resolved for this machine (see `encoders.precision`). `passes` run at the same time, each on `threads` threads.
    """

    device: str = "cpu"
    threads: int | None = None
    shared_s: float = 0.0
    precision: Precision = "exact"
    context: ContextMode = "exact"
    passes: int = 1

    @property
    def on_cpu(self) -> bool:
        """True if passes run on the processor."""
        return torch.device(self.device).type == "cpu"

    def prepare(self, model: Any) -> Any:
        """Move a loaded model to the device, in the chosen precision."""
        return prepare_model(model, precision=self.precision, device=self.device)

    def require_full_context(self, name: str) -> None:
        """Raise `EncoderError` if `context` is "short"."""
        if self.context != "exact":
            raise EncoderError(f"{name} has no short context: it is trained on its whole window; use context='exact'")

    @contextmanager
    def inference(self) -> Generator[None]:
        """Run in inference mode, with unrounded float32, deterministic convolutions and `threads` threads."""
        with ExitStack() as stack:
            stack.enter_context(limit_threads(self.threads or torch.get_num_threads()))
            stack.enter_context(torch.inference_mode())
            if not self.on_cpu:  # by default, cuDNN rounds the operands of a convolution to TF32
                stack.enter_context(
                    torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
                )
            yield


class States(NamedTuple):
    """States of one forward pass per layer: frames, and special tokens if the family has any."""

    layers: Mapping[int, Float[Tensor, "clips frames width"]]
    tokens: Mapping[int, Float[Tensor, "clips tokens width"]] = {}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class BatchedEncoder(ABC):
    """Base class of all encoders that run a PyTorch model.

    A family implements `count_frames` and `forward`; it overrides `bucket` if clips of different lengths may share a
    pass, and `frames` if its frames are not evenly spaced in time.
    """

    name: str
    revision: str
    rate_hz: int
    layers: tuple[Layer, ...]
    window_s: float | None = None
    min_samples: int
    runtime: Runtime
    model: Any
    extractor: Any

    @property
    def precision(self) -> Precision:
        """Precision of the passes: "exact" or "fast"."""
        return self.runtime.precision

    @property
    def context(self) -> ContextMode:
        """Sound that a pass computes: "exact", the model's whole window, or "short", the clip alone."""
        return self.runtime.context

    @abstractmethod
    def count_frames(self, samples: int) -> int:
        """Return the number of valid frames of a clip."""

    @abstractmethod
    def forward(self, waves: list[NDArray[np.float32]], layers: Sequence[int]) -> States:
        """Run one pass over clips of one bucket; frames beyond `count_frames` are discarded."""

    def bucket(self, samples: int) -> Hashable:
        """Return a key; clips with equal keys may share a pass. By default: clips of equal length."""
        return samples

    def frames(self, samples: int) -> Frames:
        """Place the valid frames of a clip; see `Encoder.frames`."""
        layer = self.layers[0]
        return frame_spans(self.count_frames(samples), rate_hz=layer.rate_hz, offset_s=layer.offset_s)

    def state_positions(self, samples: int) -> Int[np.ndarray, " frames"]:
        """Return the position of each valid frame of a clip on the second axis of a block's output.

        Raises `EncoderError` if the blocks of this family have no such axis.
        """
        return np.arange(self.count_frames(samples))

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Encode clips of any lengths; see `Encoder.encode`.

        Clips run bucket by bucket and return in their own order, padded with zeros to the longest.
        """
        check_layers(layers, self.layers, self.name)
        clips = as_waves(
            waves, name=self.name, rate_hz=self.rate_hz, min_samples=self.min_samples, window_s=self.window_s
        )
        counts = [self.count_frames(clip.shape[0]) for clip in clips]
        passes = self._plan_passes([clip.shape[0] for clip in clips])

        states: dict[int, Tensor] = {}
        tokens: dict[int, Tensor] = {}
        inputs = [[clips[i].detach().to("cpu", torch.float32).numpy() for i in members] for members in passes]
        for members, batch in zip(passes, self._run_passes(inputs, layers), strict=True):
            # the padded tensors are created outside inference mode, so that callers may train on them
            for layer in layers:
                state = batch.layers[layer]
                padded = states.setdefault(layer, torch.zeros(len(clips), max(counts), state.shape[-1]))
                for row, i in enumerate(members):
                    padded[i, : counts[i]] = state[row, : counts[i]]
            for layer, state in batch.tokens.items():
                tokens.setdefault(layer, torch.zeros(len(clips), *state.shape[1:]))[members] = state.cpu()
        mask = torch.arange(max(counts))[None, :] < torch.tensor(counts)[:, None]
        return Encoded(states, mask, tokens)

    def side_by_side(self) -> "BatchedEncoder":
        """Return this encoder with several passes at a time on a CPU, which share its threads and its weights.

        Many products on one thread each use the cores better than one product on all of them. A pass has the same
        number of threads in any batch, which keeps its bytes the same.
        """
        threads = self.runtime.threads or torch.get_num_threads()
        passes = min(threads, MAX_PASSES)
        if passes == 1 or not self.runtime.on_cpu:
            return self
        return replace(self, runtime=replace(self.runtime, threads=threads // passes, passes=passes))

    @cached_property
    def _copies(self) -> "list[BatchedEncoder]":
        """One encoder per simultaneous pass: hooks and buffers of a pass are its own, weights are shared."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        packed = [module for module in self.model.modules() if isinstance(module, PackedLinear)]
        shared = {id(part): part for part in (*tensors, *packed)}
        runtime = replace(self.runtime, passes=1)
        return [
            replace(self, model=copy.deepcopy(self.model, dict(shared)), runtime=runtime)
            for _ in range(self.runtime.passes)
        ]

    def _run_passes(self, inputs: list[list[NDArray[np.float32]]], layers: Sequence[int]) -> Iterator[States]:
        """Run passes, several at a time if the runtime has them; yield their states in order."""
        runtime = self.runtime
        if runtime.passes == 1:
            yield from (self._run_forward(arrays, layers) for arrays in inputs)
            return
        idle: SimpleQueue[BatchedEncoder] = SimpleQueue()
        for encoder in self._copies:
            idle.put(encoder)

        def run(arrays: list[NDArray[np.float32]]) -> States:
            encoder = idle.get()
            try:
                return encoder._run_forward(arrays, layers)
            finally:
                idle.put(encoder)

        threads = runtime.threads or 1
        with (
            limit_threads(threads),  # also here: MKL has one setting for all threads of a process
            ThreadPoolExecutor(runtime.passes, "otoscope-pass", torch.set_num_threads, (threads,)) as pool,
        ):
            # hooks find edits of states in the context of the caller
            pending = [pool.submit(copy_context().run, run, arrays) for arrays in inputs]
            try:
                yield from (one.result() for one in pending)
            finally:
                pool.shutdown(cancel_futures=True)

    def _run_forward(self, arrays: list[NDArray[np.float32]], layers: Sequence[int]) -> States:
        try:
            with self.runtime.inference():
                return self.forward(arrays, layers)
        except OtoscopeError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise EncoderError(
                f"{self.name} cannot encode sound: a setting of its configuration or preprocessor does not fit "
                f"({one_line(error, 300)}); copy both files from the model's source"
            ) from error

    def _plan_passes(self, lengths: Sequence[int]) -> list[list[int]]:
        """Group the clips of each bucket into passes of at most `shared_s` seconds; a longer clip has its own."""
        whole_window = self.window_s is not None and self.context == "exact"
        passes: dict[Hashable, list[list[int]]] = {}
        left_s: dict[Hashable, float] = {}
        for i, samples in enumerate(lengths):
            key = self.bucket(samples) if self.runtime.shared_s else i
            needed_s = self.window_s if self.window_s and whole_window else samples / self.rate_hz
            if key not in passes or left_s[key] < needed_s:
                passes.setdefault(key, []).append([])
                left_s[key] = self.runtime.shared_s
            passes[key][-1].append(i)
            left_s[key] -= needed_s
        return [members for group in passes.values() for members in group]

    def __repr__(self) -> str:
        widths = sorted({layer.width for layer in self.layers})
        number = {"exact": "float32 exact", "fast": "bfloat16 fast"}[self.precision]
        return (
            f"Encoder({self.name!r}, rate {self.rate_hz:,} Hz, layers 0-{self.layers[-1].index}, "
            f"width {' or '.join(map(str, widths))}, {number})"
        )


def side_by_side(encoder: Encoder) -> Encoder:
    """Return an encoder with several passes at a time where it can have them; see `BatchedEncoder.side_by_side`."""
    return encoder.side_by_side() if isinstance(encoder, BatchedEncoder) else encoder
