"""What any sub-module of any model gives: activations at named points of a forward pass.

Read what flows between the blocks of a model, and stop once the deepest wanted layer is there.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from otoscope.errors import EncoderError, UnknownLayer

INPUT = ":input"
"""Behind a name: what goes into the sub-module instead of what comes out."""

CHANNELS_FIRST = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.BatchNorm1d, nn.GroupNorm)


class _SeenAll(Exception):
    """Every point has been read: leave the forward pass."""


class Capture:
    """Reads named points of a model: call it with the model's inputs, or open it around calls of your own.

    Called, it runs the model without gradients up to the last point and returns the states by name; what the
    model does behind that point costs nothing. Opened with `with`, it reads along while the model runs to its end, and
    `states` holds the latest pass. A sub-module that runs several times in a pass gives its latest output in the
    second case, and its first in the first.
    """

    def __init__(self, model: nn.Module, points: Sequence[str]) -> None:
        self.model, self.points = model, tuple(points)
        self.states: dict[str, Tensor] = {}
        self._modules = {point: find_module(model, point) for point in self.points}
        self._stack = ExitStack()
        self._stops = False

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run the model on these inputs as far as the points need, and return `{point: state}`."""
        self.states = {}
        self._stops = True
        try:
            with self, torch.inference_mode():
                self.model(*args, **kwargs)
        except _SeenAll:
            pass
        finally:
            self._stops = False
        if missing := [point for point in self.points if point not in self.states]:
            raise EncoderError(
                f"the forward pass of {type(self.model).__name__} did not run {', '.join(missing)}; choose points "
                "that these inputs go through"
            )
        return {point: self.states[point] for point in self.points}

    def rows(self, inputs: Iterable[Any]) -> dict[str, Float32[np.ndarray, "rows width"]]:
        """Run the model on one input after the other and return every point's rows, ready for `otoscope.ArrayRows`.

        A tuple of inputs is passed as positional arguments, a mapping as keywords. The last axis of a state is its
        width (of a convolution: the second); all other axes become rows.
        """
        found: dict[str, list[Tensor]] = {point: [] for point in self.points}
        for given in inputs:
            if isinstance(given, Mapping):
                states = self(**{str(name): value for name, value in given.items()})
            else:
                states = self(*given) if isinstance(given, tuple) else self(given)
            for point, state in states.items():
                found[point].append(self.by_frame(point, state).flatten(0, -2).float().cpu())
        return {point: torch.cat(states).numpy() for point, states in found.items() if states}

    def by_frame(self, point: str, state: Tensor) -> Tensor:
        """Return a state with its width last: convolutions keep it second."""
        first = isinstance(self._modules[point], CHANNELS_FIRST) and not point.endswith(INPUT)
        return state.movedim(1, -1) if first else state

    def __enter__(self) -> Self:
        """Begin to read along."""
        for point, module in self._modules.items():
            if point.endswith(INPUT):
                handle = module.register_forward_pre_hook(self._before(point), with_kwargs=True)
            else:
                handle = module.register_forward_hook(self._after(point))
            self._stack.callback(handle.remove)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the model as it was."""
        self._stack.close()

    def _before(self, point: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _, args, kwargs: self._keep(point, (*args, *kwargs.values()))

    def _after(self, point: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, __, output: self._keep(point, output)

    def _keep(self, point: str, output: object) -> None:
        self.states[point] = first_tensor(output, point)
        if self._stops and len(self.states) == len(self.points):
            raise _SeenAll


def capture(model: nn.Module, points: Sequence[str] | str) -> Capture:
    """Read activations at named points of any PyTorch model.

    A point is the name of a sub-module as `model.named_modules()` gives it (a block, its attention, its MLP, a
    convolution): its output, or its input with `:input` behind the name. Where a module gives several values the
    first tensor counts. Raises `UnknownLayer` for a name that the model lacks, with the nearest that it has.

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
    """Return the sub-module of a point; raise `UnknownLayer` that suggests the nearest names."""
    modules = dict(model.named_modules())
    name = point.removesuffix(INPUT)
    if name in modules:
        return modules[name]
    names = [known for known in modules if known]
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the first are {', '.join(names[:5])}"
    raise UnknownLayer(f"{type(model).__name__} has no sub-module {name!r} among its {len(names)}; {hint}")


def first_tensor(output: object, point: str) -> Tensor:
    """Return the first tensor of what a module gave or got: itself, or the first of a tuple, list or mapping."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    for part in parts:
        if isinstance(part, Tensor):
            return part
    raise EncoderError(f"{point} gives {type(output).__name__} and no tensor; choose a sub-module that gives one")


class _DeepEnough(Exception):
    """Every wanted layer has been read: leave the forward pass."""


def capture_blocks(
    run: Callable[[], object], blocks: nn.ModuleList | Sequence[nn.Module], wanted: Collection[int]
) -> dict[int, Tensor]:
    """Call `run` and return the wanted layers: 0 is the input of `blocks[0]`, i the raw output of `blocks[i - 1]`.

    The pass ends inside the deepest wanted block, so an early layer costs only what lies before it, and
    nothing behind the blocks (a final norm, an adapter, a head) touches what is returned.

    >>> import torch
    >>> double = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(double.weight, 2.0)
    >>> stack = nn.Sequential(double, double, nn.ReLU())
    >>> {i: t.item() for i, t in capture(lambda: stack(torch.ones(1)), list(stack)[:1], [0]).items()}
    {0: 1.0}
    """
    found: dict[int, Tensor] = {}
    deepest = max(wanted)

    def keep(index: int, state: Tensor) -> None:
        if index in wanted:
            found[index] = state
        if index == deepest:
            raise _DeepEnough

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(0, args[0] if args else kwargs["hidden_states"])

    def after(index: int) -> Callable[[nn.Module, object, Any], None]:
        # some families hand on more than the state (WavLM its position bias): the state comes first
        return lambda _, __, output: keep(index, output[0] if isinstance(output, tuple) else output)

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after(i)) for i, block in enumerate(blocks[:deepest], start=1)]
    try:
        run()
    except _DeepEnough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found
