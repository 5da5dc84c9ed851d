"""Activations at named sub-modules, and at the blocks, of any PyTorch model."""

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from otoscope.errors import EncoderError, UnknownLayer

INPUT = ":input"
"""Suffix of a name: the input of the sub-module instead of its output."""

CHANNELS_FIRST = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.BatchNorm1d, nn.GroupNorm)


class _StopForward(Exception):
    """Raised inside a hook when all states are captured, to end the forward pass."""


class Capture:
    """Hooks on named points of a model.

    Called with the model's inputs, it runs the model without gradients up to the last point and returns the states by
    name; later modules are not run. As a context manager, it records while the model runs to its end, and `states`
    holds the latest pass. If a sub-module runs several times per pass, a call returns its first output, the context
    manager its last.
    """

    def __init__(self, model: nn.Module, points: Sequence[str]) -> None:
        self.model, self.points = model, tuple(points)
        self.states: dict[str, Tensor] = {}
        self._modules = {point: find_module(model, point) for point in self.points}
        self._stack = ExitStack()
        self._stops = False

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run the model on these inputs up to the last point, and return `{point: state}`."""
        self.states = {}
        self._stops = True
        try:
            with self, torch.inference_mode():
                self.model(*args, **kwargs)
        except _StopForward:
            pass
        finally:
            self._stops = False
        if missing := [point for point in self.points if point not in self.states]:
            raise EncoderError(
                f"the forward pass of {type(self.model).__name__} did not run {', '.join(missing)}; choose points "
                "that these inputs pass through"
            )
        return {point: self.states[point] for point in self.points}

    def rows(self, inputs: Iterable[Any]) -> dict[str, Float32[np.ndarray, "rows width"]]:
        """Run the model on each input and return the rows of every point, ready for `otoscope.ArrayRows`.

        A tuple of inputs is passed as positional arguments, a mapping as keywords. The last axis of a state is its
        width (for a convolution: the second); all other axes become rows.
        """
        captured: dict[str, list[Tensor]] = {point: [] for point in self.points}
        for item in inputs:
            if isinstance(item, Mapping):
                states = self(**{str(name): value for name, value in item.items()})
            else:
                states = self(*item) if isinstance(item, tuple) else self(item)
            for point, state in states.items():
                captured[point].append(self.by_frame(point, state).flatten(0, -2).float().cpu())
        return {point: torch.cat(states).numpy() for point, states in captured.items() if states}

    def by_frame(self, point: str, state: Tensor) -> Tensor:
        """Return a state with its width last; convolutions have it second."""
        first = isinstance(self._modules[point], CHANNELS_FIRST) and not point.endswith(INPUT)
        return state.movedim(1, -1) if first else state

    def __enter__(self) -> "Capture":
        """Register the hooks."""
        for point, module in self._modules.items():
            if point.endswith(INPUT):
                handle = module.register_forward_pre_hook(self._before(point), with_kwargs=True)
            else:
                handle = module.register_forward_hook(self._after(point))
            self._stack.callback(handle.remove)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the hooks."""
        self._stack.close()

    def _before(self, point: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _, args, kwargs: self._record(point, (*args, *kwargs.values()))

    def _after(self, point: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, __, output: self._record(point, output)

    def _record(self, point: str, output: object) -> None:
        self.states[point] = first_tensor(output, point)
        if self._stops and len(self.states) == len(self.points):
            raise _StopForward


def capture(model: nn.Module, points: Sequence[str] | str) -> Capture:
    """Capture activations at named points of any PyTorch model.

    A point is the name of a sub-module as `model.named_modules()` gives it (a block, its attention, its MLP, a
    convolution): its output, or with the suffix `:input` its input. If a module returns several values, the first
    tensor is used. Raises `UnknownLayer` for a name that does not exist, with the nearest ones.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> states = capture(model, ["1", "0:input"])(torch.ones(4, 2))
    >>> {point: tuple(state.shape) for point, state in states.items()}
    {'1': (4, 3), '0:input': (4, 2)}
    """
    names = [points] if isinstance(points, str) else list(points)
    if not names:
        raise EncoderError("no point to capture; name at least one sub-module")
    return Capture(model, names)


def find_module(model: nn.Module, point: str) -> nn.Module:
    """Return the sub-module of a point; raise `UnknownLayer` with the nearest names, `EncoderError` for TorchScript."""
    modules = dict(model.named_modules())
    name = point.removesuffix(INPUT)
    if name in modules:
        if isinstance(modules[name], torch.jit.ScriptModule):
            raise EncoderError(
                f"{name or type(model).__name__} is compiled (TorchScript), and no hook runs in compiled code; capture "
                "the model from before torch.jit.script or torch.jit.trace"
            )
        return modules[name]
    names = [module for module in modules if module]
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the first are {', '.join(names[:5])}"
    raise UnknownLayer(f"{type(model).__name__} has no sub-module {name!r} among its {len(names)}; {hint}")


def first_tensor(output: object, point: str) -> Tensor:
    """Return the first tensor of a module's output or input: itself, or the first in a tuple, list or mapping."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    for part in parts:
        if isinstance(part, Tensor):
            return part
    raise EncoderError(f"{point} gives {type(output).__name__} and no tensor; choose a sub-module that gives one")


Edit = Callable[[Tensor], Tensor]
"""Function of a layer's state `[clips, rows, width]`; the result takes its place."""

_EDITS: ContextVar[Mapping[int, Edit]] = ContextVar("edits", default=MappingProxyType({}))


@contextmanager
def replace_states(edits: Mapping[int, Edit]) -> Generator[None]:
    """Replace the state of layers in every `capture_blocks` inside the block; later blocks run on the result.

    >>> stack = nn.Sequential(nn.Identity(), nn.Identity())
    >>> with replace_states({1: lambda state: state + 1}):
    ...     capture_blocks(lambda: stack(torch.zeros(1)), list(stack), [0, 1, 2])
    {0: tensor([0.]), 1: tensor([1.]), 2: tensor([1.])}
    """
    token = _EDITS.set(edits)
    try:
        yield
    finally:
        _EDITS.reset(token)


def capture_blocks(
    run: Callable[[], object], blocks: nn.ModuleList | Sequence[nn.Module], layers: Collection[int]
) -> dict[int, Tensor]:
    """Call `run` and return the given layers: 0 is the input of `blocks[0]`, i the raw output of `blocks[i - 1]`.

    The pass ends after the deepest requested block, so an early layer costs only what precedes it, and nothing after
    the blocks (a final norm, an adapter, a head) changes the result.

    >>> double = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(double.weight, 2.0)
    >>> stack = nn.Sequential(double, double, nn.ReLU())
    >>> {i: t.item() for i, t in capture_blocks(lambda: stack(torch.ones(1)), list(stack)[:1], [0]).items()}
    {0: 1.0}
    """
    recorder = _BlockRecorder(set(layers), _EDITS.get())
    deepest = max(layers)
    handles = [blocks[0].register_forward_pre_hook(recorder.before, with_kwargs=True)]
    handles += [block.register_forward_hook(partial(recorder.after, i)) for i, block in enumerate(blocks[:deepest], 1)]
    try:
        run()
    except _StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return recorder.states


class _BlockRecorder:
    """Hooks that edit and record the states of layers, and end the pass after the deepest."""

    def __init__(self, layers: set[int], edits: Mapping[int, Edit]) -> None:
        self.states: dict[int, Tensor] = {}
        self._layers, self._edits = layers, edits

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (self._record(0, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._record(0, kwargs["hidden_states"])}

    def after(self, index: int, _: nn.Module, __: object, output: Any) -> Any:
        # some families return more than the state (WavLM its position bias): the state comes first
        if isinstance(output, tuple):
            return (self._record(index, output[0]), *output[1:])
        return self._record(index, output)

    def _record(self, index: int, state: Tensor) -> Tensor:
        if index in self._edits:
            state = self._edits[index](state)
        if index in self._layers:
            self.states[index] = state
        if index == max(self._layers):
            raise _StopForward
        return state
